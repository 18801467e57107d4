"""`deeplab2-lite inspect`: what it prints and writes, and the exit status that scripts see."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.data.record_format import encode_png, make_record, serialize_example
from deeplab2_lite.data.shards import shard_name
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo

INFO = DatasetInfo("pets", (ClassInfo("floor", False, (0, 0, 200), 0), ClassInfo("cat", True, (9, 9, 9), 1)))
LABEL = np.array([[0, 0, 1001, 1001, 1002, 1002]] * 4, np.int32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "records"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1)):
        with tf.io.TFRecordWriter(str(folder / shard_name(split, 0, 1))) as writer:
            for i in range(count):
                image = encode_png(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
                writer.write(make_record(image, "png", f"{split}{i}.png", LABEL))
    INFO.save(folder)
    return folder


def add_faulty_split(folder):
    image = encode_png(np.zeros((4, 6, 3), np.uint8))
    with tf.io.TFRecordWriter(str(folder / shard_name("test", 0, 1))) as writer:
        writer.write(make_record(image, "png", "faulty.png", np.where(LABEL == 0, 5, LABEL)))


def test_sound_folder_gives_status_0_and_files_in_the_current_folder(folder, tmp_path, capsys):
    assert cli.main(["inspect", str(folder), "--num_threads=1"]) == 0
    output = tmp_path / "inspection" / "records"
    names = ["contact_sheet_train.png", "contact_sheet_val.png", "inspection.json"]
    assert sorted(path.name for path in output.iterdir()) == names
    printed = capsys.readouterr().out
    assert "pets: 2 classes (1 thing, 1 stuff)" in printed
    assert "no errors" in printed
    assert "written to inspection/records: inspection.json, contact_sheet_train.png, contact_sheet_val.png" in printed
    assert json.loads((output / "inspection.json").read_text())["splits"]["train"]["records"] == 3
    assert Image.open(output / "contact_sheet_train.png").mode == "RGB"


def test_errors_give_status_1_after_everything_is_written(folder, tmp_path, capsys):
    add_faulty_split(folder)
    with pytest.raises(SystemExit) as end:
        cli.main(["inspect", str(folder), "--output", str(tmp_path / "a" / "b"), "--samples=1"])
    assert end.value.code == 1
    assert json.loads((tmp_path / "a" / "b" / "inspection.json").read_text())["errors"] == 1
    assert (tmp_path / "a" / "b" / "contact_sheet_test.png").is_file()
    printed = capsys.readouterr().out
    assert "test-00000-of-00001.tfrecord record 0 (faulty.png): 'floor' is stuff, but has instance ids 5;" in printed


def test_split_limit_and_samples(folder, capsys):
    add_faulty_split(folder)
    options = ["--split=train", "--split=val", "--limit=2", "--samples=0", "--output=out"]
    assert cli.main(["inspect", str(folder), *options]) == 0
    assert [path.name for path in (folder.parent / "out").iterdir()] == ["inspection.json"]
    assert "train: 3 records in 1 shard, 0.0 MB; 2 inspected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples=-1"], "--samples: expected 0 or more, got -1"),
        (["--limit=0"], "limit: expected 1 or more, got 0"),
        (["--split=trian"], "no shards of split 'trian'; did you mean 'train'?"),
        (["--dataset_info=petz"], "dataset_info 'petz': neither a preset"),
        (["--output=records/dataset_info.yaml/x"], "cannot be written"),
    ],
)
def test_users_mistakes_give_status_2_and_one_line(folder, capsys, options, message):
    assert cli.main(["inspect", str(folder), *options]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ")
    assert message in told


def test_folder_without_label_space_asks_for_one(folder, capsys):
    (folder / "dataset_info.yaml").unlink()
    assert cli.main(["inspect", str(folder)]) == 2
    assert "no dataset_info.yaml; expected one, or --dataset_info=NAME" in capsys.readouterr().err
    assert cli.main(["inspect", str(folder / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err
    INFO.save(folder.parent)
    assert cli.main(["inspect", str(folder), "--dataset_info", str(folder.parent / "dataset_info.yaml")]) == 0


def test_deeplab2_records_are_read_by_a_preset(folder, capsys):
    label = np.array([[255000, 0, 13001], [13002, 2000, 255000]], "<i4")
    features = {
        "image/encoded": encode_png(np.zeros((2, 3, 3), np.uint8)),
        "image/filename": b"aachen",
        "image/height": 2,
        "image/width": 3,
        "image/segmentation/class/encoded": label.tobytes(),
        "image/segmentation/class/format": b"raw",
    }
    records = folder.parent / "deeplab2"
    records.mkdir()
    with tf.io.TFRecordWriter(str(records / "val-00000-of-00001.tfrecord")) as writer:
        writer.write(serialize_example(features))
    assert cli.main(["inspect", str(records), "--dataset_info=deeplab2_cityscapes", "--output=out"]) == 0
    val = json.loads((folder.parent / "out" / "inspection.json").read_text())["splits"]["val"]
    assert val["label_formats"] == {"raw": 1}
    assert {c["name"]: c["segments"] for c in val["classes"] if c["images"]} == {"road": 1, "building": 1, "car": 2}
    assert val["void_share"] == pytest.approx(1 / 3)


def test_help_comes_without_tensorflow():
    script = """
import sys
from deeplab2_lite.cli import main
try:
    main(["inspect", "--help"])
except SystemExit as end:
    assert end.code == 0
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "inspection/{name of DIR}" in done.stdout
