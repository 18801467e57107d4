"""The command line: quick help, one line for a user's mistake, and a conversion from end to end."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deeplab2_lite
from deeplab2_lite import cli
from deeplab2_lite.command import run_command
from deeplab2_lite.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# What is asked for, and some of what the answer must hold.
HELP = {
    "--help": [
        "train",
        "evaluate",
        "predict",
        "demo",
        "submit",
        "import-weights",
        "export",
        "complexity",
        "benchmark",
        "convert",
        "inspect",
    ],
    "--version": [deeplab2_lite.__version__],
    "train --help": ["--mode", "--model_dir", "--params_override", "continuous_eval", "shapes/mobilenet_v3_small"],
    "evaluate --help": ["--model", "--truth", "--prediction", "--baseline", "--output"],
    "learning-curve --help": ["--output", "--metric", "--against"],
    "predict --help": ["--model", "--input", "--output", "--instances", "--layers", "--video_frames"],
    "demo --help": ["--model", "--port", "--samples", "--max_megapixels"],
    "submit --help": ["--model", "--input", "--format", "--check"],
    "import-weights --help": ["--source", "--weights", "--output", "--fresh_logits"],
    "export --help": [
        "--format",
        "--input_size",
        "--quantize",
        "--calibration_images",
        "--no-postprocessing",
        "--check",
    ],
    "complexity --help": ["--experiment", "--input_size", "--count", "--tables"],
    "benchmark --help": ["--experiment", "--input_size", "--xla", "--output"],
    "data-service --help": ["--port"],
    "inspect --help": ["--split", "--samples", "--output"],
    "convert --help": ["coco_panoptic", "instance_masks", "image_folders", "labelme"],
    "convert cityscapes --help": ["--input", "--labels", "--only_pairs"],
    "convert coco_instances --help": ["--split", "--dataset_info", "--background", "--label_divisor"],
    "convert coco_panoptic --help": ["--split", "--dataset_info", "--label_divisor"],
    "convert image_folders --help": ["--input", "--output", "--split"],
    "convert instance_masks --help": ["--object_name", "--overwrite", "--num_processes", "--beam_options"],
    "convert labelme --help": ["--val_fraction", "--things", "--stuff", "--void", "--line_width"],
    "convert mapillary_vistas --help": ["--version", "--labels", "--longest_side", "--resize_splits"],
    "convert semantic_maps --help": ["--split", "--classes", "--void", "--instances"],
}


def run_python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, **options
    )


# ---- help


def test_help_comes_without_tensorflow():
    script = f"""
import sys
from deeplab2_lite.cli import main
for words in {[words.split() for words in HELP]!r}:
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, words
    heavy = [name for name in ("tensorflow", "tf_keras", "jax", "orbit") if name in sys.modules]
    assert not heavy, (words, heavy)
"""
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for expected in (
        "train, evaluate and export",
        "--experiment",
        "--high_depth",
        "--output",
        deeplab2_lite.__version__,
    ):
        assert expected in done.stdout


@pytest.mark.parametrize("words", HELP)
def test_help_says_what_there_is(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words.split())
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert [word for word in HELP[words] if word not in text] == []


def test_every_command_is_asked_for_help():
    commands = {name for name in cli._COMMANDS if name != "convert"} | {f"convert {name}" for name in cli._CONVERTERS}
    assert {words.removesuffix(" --help") for words in HELP} >= commands


def test_every_command_is_listed_with_its_module():
    # A command whose module is missing or renamed would only fail when somebody calls it.
    modules = [module for module, _ in cli._COMMANDS.values() if module]
    for module in [*modules, *(f"deeplab2_lite.data.converters.{name}" for name in cli._CONVERTERS)]:
        parser = argparse.ArgumentParser()
        cli._add(parser, module)
        assert callable(parser.get_default("run"))


@pytest.mark.parametrize("words", [[], ["convert"], ["paint"], ["train", "--no_such_flag"], ["predict"]])
def test_wrong_words_end_with_usage(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("usage: deeplab2-lite") and captured.out == ""


# ---- mistakes


def test_an_unknown_experiment_ends_in_one_line(capsys):
    assert cli.main(["train", "--experiment=shapes/mobilenet_v3_smal"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "error: config 'shapes/mobilenet_v3_smal': neither a file nor a packaged experiment; "
        "did you mean 'shapes/mobilenet_v3_small'?\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--params_override=train.stepz=1"], "train.stepz: unknown key; did you mean 'train.steps'?"),
        (["train", "--tpu=local", "--params_override=runtime.strategy=mirrored"], "runtime.tpu: is set, but"),
        (["train", "--config_file=no.yaml"], "config 'no.yaml': neither a file nor a packaged experiment"),
        (["predict", "--model=m", "--input=/no/where", "--output=o"], "--input: no such file or folder: /no/where"),
        (
            ["convert", "instance_masks", "--input=/no/where", "--output=o"],
            "/no/where/train/images: no such folder; expected {split}/images and {split}/masks",
        ),
        (["convert", "coco_panoptic", "--input=/no/where", "--output=o"], "/no/where/train2017: no such folder;"),
    ],
)
def test_mistakes_end_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", [["-m", "deeplab2_lite.cli", "train"], ["trainer/train.py"]], ids=" ".join)
def test_a_process_ends_with_the_status(script):
    done = run_python(*script, "--experiment=nothing")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: config 'nothing': ") and done.stderr.count("\n") == 1


# ---- how a command ends


def ending(error):
    def run(arguments):
        if error is not None:
            raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (None, 0, ""),
        (UserError("file.yaml: wrong"), 2, "error: file.yaml: wrong\n"),
        (UserError("two\nlines"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here\n"),
    ],
)
def test_status_and_message(error, status, text, capsys):
    assert run_command(ending(error), argparse.Namespace()) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", text)


def test_a_fault_of_the_library_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(ending(ZeroDivisionError()), argparse.Namespace())


@pytest.mark.parametrize("lines", [1, 100000])
def test_a_reader_who_leaves_is_no_error(lines):
    script = f"""
import sys
from deeplab2_lite.command import run_command
sys.stdin.readline()
sys.exit(run_command(lambda _: [print("line") for _ in range({lines})], None))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    # Only now does it print.
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


# ---- a conversion


def test_convert_instance_masks(tmp_path, capsys):
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3), np.uint8)
    masks = np.zeros((2, 12, 16), np.uint16)
    masks[0, 1:4, 1:4], masks[0, 5:9, 3:9] = 7, 300
    masks[1, 2, 2] = 1
    for split, image, mask in zip(("train", "val"), pixels, masks, strict=True):
        for part, array in (("images", image), ("masks", mask)):
            folder = tmp_path / "raw" / split / part
            folder.mkdir(parents=True)
            Image.fromarray(array).save(folder / "cells.png")
    words = ["convert", "instance_masks", f"--input={tmp_path / 'raw'}", f"--output={tmp_path / 'records'}"]
    words += ["--name=cells", "--object_name=cell", "--num_processes=1", "--label_divisor=100"]
    assert cli.main(words) == 0
    info = deeplab2_lite.load_dataset_info(tmp_path / "records")
    assert (info.name, info.class_names, info.thing_ids, info.label_divisor) == (
        "cells",
        ("background", "cell"),
        (1,),
        100,
    )
    assert info.splits == {"train": 1, "val": 1}
    truth = {"train": np.zeros((12, 16), np.int32), "val": np.where(masks[1] > 0, 101, 0)}
    truth["train"][1:4, 1:4], truth["train"][5:9, 3:9] = 101, 102
    for split, image in zip(("train", "val"), pixels, strict=True):
        [record] = tf.data.TFRecordDataset(str(tmp_path / "records" / f"{split}-00000-of-00001.tfrecord"))
        features = tf.train.Example.FromString(record.numpy()).features.feature
        assert features["image/filename"].bytes_list.value == [b"cells.png"]
        decoded = tf.io.decode_png(features["image/encoded"].bytes_list.value[0], channels=3)
        np.testing.assert_array_equal(decoded, image)
        label = tf.io.decode_png(features["image/segmentation/class/encoded"].bytes_list.value[0], channels=3)
        ids = label.numpy().astype(np.int32) @ np.array([1, 256, 65536])
        np.testing.assert_array_equal(ids, truth[split])
    capsys.readouterr()
    # Other settings do not mix with what is there.
    assert cli.main([*words[:-1], "--label_divisor=50"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path / 'records'}: holds ") and captured.err.count("\n") == 1
    assert cli.main([*words[:-1], "--label_divisor=50", "--overwrite"]) == 0
    assert deeplab2_lite.load_dataset_info(tmp_path / "records").label_divisor == 50
