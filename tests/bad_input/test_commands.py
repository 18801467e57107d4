"""Every way by which data and settings come in, through the commands: one line that names what is wrong.

The tables are by fault, so that it can be seen which command meets it. Images of odd kinds are in `test_images.py`;
each converter with each damaged file in `tests/data/converters/test_corrupted_sources.py`; every setting in
`tests/test_config_validation.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.config import ShapesConfig
from deeplab2_lite.config_loading import config_to_dict, load_config, save_config
from deeplab2_lite.data import shapes
from deeplab2_lite.data.record_format import serialize_example
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

from .sources import (
    edit_yaml,
    nothing,
    remove_shards,
    shorten,
    write_coco,
    write_maps,
    write_masks,
    write_record,
    write_shard,
)

SMALL = (
    "data.crop_size=[65,97],model.head_kernel_size=3,train.batch_size=1,train.steps=2,train.optimizer.warmup_steps=0"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A folder with `model`, of fresh weights, and `records`; not to be changed."""
    from deeplab2_lite.checkpoints import CheckpointStore, named_weights
    from deeplab2_lite.model import build_model

    folder = tmp_path_factory.mktemp("original")
    shapes.build(folder / "records", ShapesConfig(train_images=2, val_images=1, height=65, width=97))
    config = load_config("shapes/mobilenet_v3_small", f"{SMALL},data.shapes=null,data.dir={folder / 'records'}")
    info = load_dataset_info(folder / "records")
    (folder / "model").mkdir()
    save_config(config, folder / "model" / "config.yaml")
    info.save(folder / "model")
    store = CheckpointStore(folder / "model" / "checkpoints")
    weights = named_weights(build_model(config, info.num_classes))
    store.save(2, weights, {}, {"config": config_to_dict(config), "dataset_info": info.to_dict()})
    store.close()
    return folder


@pytest.fixture(scope="module")
def loaded(original):
    from deeplab2_lite.loading import load_ensemble

    return load_ensemble([original / "model"])


@pytest.fixture
def folder(original, tmp_path, monkeypatch) -> Path:
    """A copy to spoil, with images to predict, as the current folder; its name has a space and an umlaut."""
    folder = tmp_path / "meine Bilder ü"
    shutil.copytree(original, folder)
    (folder / "images").mkdir()
    Image.fromarray(np.zeros((33, 49, 3), np.uint8)).save(folder / "images" / "a.png")
    (folder / "nothing").mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(words: list[str], capsys) -> str:
    """Runs a command that ends in one line; returns the line."""
    capsys.readouterr()
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert "Traceback" not in captured.out
    return lines[0].removeprefix("error: ")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PREDICT = ["predict", "--model=model", "--input=images", "--output=out"]
EVALUATE = ["evaluate", "--model=model", "--output=out"]
TRAIN = ["train", "--experiment=shapes/mobilenet_v3_small", "--model_dir=out"]
RECORDS = ["--params_override", f"{SMALL},data.shapes=null,data.dir=records"]
MASKS = ["convert", "instance_masks", "--input=raw", "--output=out", "--splits=train", "--num_processes=1"]
COCO = ["convert", "coco_panoptic", "--output=out", "--num_processes=1"]
COCO += ["--split", "train", "raw/images", "raw/panoptic.json", "raw/panoptic"]
FILES = ["evaluate", "--truth=raw/panoptic.json", "--prediction=raw/panoptic.json", "--output=out", "--num_processes=1"]


# ---- what must be shown: fault -> (what is done before, the command, the line)

Case = tuple[Callable[[], object], list[str], str]


MISSING_FOLDER: dict[str, Case] = {
    "convert": (nothing, MASKS, "raw/train/images: no such folder; expected {split}/images and {split}/masks"),
    "convert_coco": (nothing, COCO, "raw/images: no such folder; expected the images, and the PNGs of"),
    "inspect": (nothing, ["inspect", "nowhere"], "nowhere: no such folder; expected TFRecords"),
    "train": (nothing, [*TRAIN, RECORDS[0], RECORDS[1].replace("=records", "=nowhere")], "data.dir: no folder nowhere"),
    "train_eval": (nothing, ["train", "--mode=eval", "--model_dir=nowhere"], "--model_dir: no folder nowhere"),
    "train_export": (nothing, ["train", "--mode=export", "--model_dir=nowhere"], "--model_dir: no folder nowhere"),
    "evaluate_model": (nothing, ["evaluate", "--model=nowhere"], "--model: no folder nowhere; expected a model folder"),
    "evaluate_data": (nothing, [*EVALUATE, "--data=nowhere"], "data.dir: no folder nowhere; expected one written by"),
    "evaluate_files": (nothing, FILES, "--truth: no file raw/panoptic.json; expected a JSON"),
    "predict": (nothing, [*PREDICT, "--input=nowhere"], "--input: no such file or folder: nowhere"),
    "predict_model": (nothing, [*PREDICT[:1], "--model=nowhere", *PREDICT[2:]], "nowhere: no such file or folder; exp"),
    "submit": (
        nothing,
        ["submit", "--format=coco_panoptic", "--model=model", "--input=nowhere", "--output=x.zip"],
        "--input: no such folder: nowhere",
    ),
    "benchmark": (nothing, ["benchmark", "--model=model", "--input=nowhere"], "--input: no such file or folder: nowh"),
    "complexity": (
        nothing,
        ["complexity", "--experiment=shapes/mobilenet_v3_small", "--csv=nowhere/x.csv"],
        "--csv: no folder nowhere",
    ),
}
ANNOTATION_WITHOUT_IMAGE: dict[str, Case] = {
    "instance_masks": (
        lambda: (write_masks(), Path("raw/train/images/a.jpg").rename("raw/train/images/b.jpg")),
        MASKS,
        "raw/train/images/b.jpg: has no mask; expected raw/train/masks/b.png",
    ),
    "coco_panoptic": (lambda: (write_coco(), Path("raw/images/a.jpg").unlink()), COCO, "raw/images/a.jpg: cannot be"),
}
PNG_AND_JSON_DISAGREE: dict[str, Case] = {
    "convert_png_alone": (
        lambda: write_coco(in_png=(7, 9, 11)), COCO, "raw/panoptic/a.png: segment 11 is in the PNG but not in the JSON"
    ),
    "convert_json_alone": (
        lambda: write_coco(in_png=(7,)), COCO, "raw/panoptic/a.png: segment 9 is in the JSON but not in the PNG"
    ),
    "evaluate_files": (
        lambda: write_coco(in_png=(7,)), FILES, "raw/panoptic/a.png: segment 9 is in the JSON but not in the PNG"
    ),
}  # fmt: skip
TRUNCATED_JPEG: dict[str, Case] = {
    "convert": (
        lambda: (write_masks(), shorten("raw/train/images/a.jpg")), MASKS, "raw/train/images/a.jpg: damaged or cut off"
    ),
    "predict": (
        lambda: (write_masks(), shorten("raw/train/images/a.jpg")),
        [*PREDICT, "--input=raw/train/images"],
        "raw/train/images/a.jpg: damaged or cut off",
    ),
    "record": (
        lambda: write_record(keep=0.5),
        [*EVALUATE, "--data=records"],
        "records: val-00000-of-00001.tfrecord record 0 (x.jpg): cannot be decoded (",
    ),
}  # fmt: skip
LABEL_OUTSIDE_THE_CLASSES: dict[str, Case] = {
    "semantic_maps": (
        lambda: write_maps(7),
        ["convert", "semantic_maps", *MASKS[2:], "--classes", "soil", "water"],
        "raw/train/labels/a.png: ",
    ),
    "coco_panoptic": (lambda: write_coco(category=99), COCO, "raw/panoptic.json: annotation 'a.png': "),
    "evaluate_files": (lambda: write_coco(category=99), FILES, "raw/panoptic/a.png: segment 7 has the category 99"),
    "record": (
        lambda: write_record(panoptic_id=65_000),
        [*EVALUATE, "--data=records"],
        "records: x.jpg: the label holds panoptic id 65000, whose class is none of the 9 of 'shapes'",
    ),
}
TOO_MANY_INSTANCES: dict[str, Case] = {
    "instance_masks": (
        lambda: write_masks(count=4),
        [*MASKS, "--label_divisor=4"],
        "raw/train/masks/a.png: 4 instances of 'object', but label_divisor 4 holds 3; expected --label_divisor=5 or",
    ),
    "coco_panoptic": (
        write_coco, [*COCO, "--label_divisor=2"], "raw/panoptic/a.png: 2 instances of 'cat', but label_divisor 2 holds"
    ),
}  # fmt: skip
EMPTY_DATA_SET: dict[str, Case] = {
    "convert": (
        lambda: [Path("raw/train", name).mkdir(parents=True) for name in ("images", "masks")],
        MASKS,
        "raw/train/images: no images; expected {split}/images and {split}/masks",
    ),
    "inspect": (remove_shards, ["inspect", "records"], "records: no shards; expected files such as train-00000-of-"),
    "train": (
        lambda: write_shard(split="train"), [*TRAIN, *RECORDS], "records/train-00000-of-00001.tfrecord: no records"
    ),
    "evaluate": (write_shard, [*EVALUATE, "--data=records"], "records/val-00000-of-00001.tfrecord: no records in 1"),
    "evaluate_split": (nothing, [*EVALUATE, "--split=test"], "split 'test', such as test-00000-of-00001.tfrecord; v"),
    "predict": (nothing, [*PREDICT, "--input=nothing"], "--input: no images or videos in nothing; expected files endi"),
}  # fmt: skip
RECORD_OF_ANOTHER_SCHEMA: dict[str, Case] = {
    "other_keys": (
        lambda: write_shard(serialize_example({"image/object/class/label": 1})),
        [*EVALUATE, "--data=records"],
        "records: a record without image/filename: image/encoded: expected a PNG or JPEG image; the record holds none",
    ),
    "other_types": (
        lambda: write_shard(serialize_example({"image/filename": b"x.jpg", "image/encoded": 7})),
        [*EVALUATE, "--data=records"],
        "records: val-00000-of-00001.tfrecord record 0 (x.jpg): cannot be decoded (Key: image/encoded.  Data types",
    ),
    "no_example": (
        lambda: write_shard(b"no example"),
        [*EVALUATE, "--data=records"],
        "records: val-00000-of-00001.tfrecord record 0: cannot be decoded (",
    ),
    "no_records_file": (
        lambda: Path("records/val-00000-of-00001.tfrecord").write_text("text " * 99),
        [*EVALUATE, "--data=records"],
        "records/val-00000-of-00001.tfrecord: record 0 (at byte 0) goes beyond the end",
    ),
    "other_label_space": (
        lambda: edit_yaml("records/dataset_info.yaml", lambda c: c["classes"].pop()),
        [*EVALUATE, "--data=records"],
        "records: of another label space than model: num_classes is 9 of 'shapes' and 8 of 'shapes'",
    ),
    "other_label_space_by_setting": (
        nothing,
        [*TRAIN, RECORDS[0], f"{RECORDS[1]},data.dataset_info=cityscapes"],
        "data.dataset_info: cityscapes has num_classes 19, records/dataset_info.yaml has 9; expected the label space",
    ),
}
CHECKPOINT: dict[str, Case] = {
    "predict": (
        lambda: edit_yaml("model/config.yaml", lambda c: c["model"].update(head_kernel_size=5)),
        PREDICT,
        "/model/checkpoints/2: 'instance/center_head/fuse/depthwise/conv/depthwise_kernel' has shape [3, 3, ",
    ),
    "predict_classes": (
        lambda: edit_yaml("model/dataset_info.yaml", lambda c: c["classes"].pop()),
        PREDICT,
        "'semantic/head/logits/conv/kernel' has shape [1, 1, 64, 9], expected [1, 1, 64, 8]; another architecture or",
    ),
    "train_on": (
        nothing,
        ["train", "--model_dir=model", "--params_override=model.backbone.name=mobilenet_v3_large"],
        "/model/checkpoints/2: 'backbone/",
    ),
    "train_from": (
        nothing,
        [*TRAIN, RECORDS[0], f"{RECORDS[1]},model.backbone.name=mobilenet_v3_large,train.init_checkpoint=model"],
        "model: 'backbone/",
    ),
    "half_deleted": (
        lambda: shutil.rmtree("model/checkpoints/2/state/ocdbt.process_0"), PREDICT, "model/checkpoints/2: damaged"
    ),
    "all_deleted": (lambda: shutil.rmtree("model/checkpoints/2"), PREDICT, "model/checkpoints: no checkpoint here"),
    "without_config": (
        lambda: Path("model/config.yaml").unlink(),
        ["train", "--mode=eval", "--model_dir=model"],
        "model/config.yaml: no such file, but checkpoints beside it",
    ),
    "without_dataset_info": (
        lambda: Path("model/dataset_info.yaml").unlink(), PREDICT, "model: no dataset_info.yaml; expected a folder that"
    ),
    "saved_model": (
        lambda: (shutil.rmtree("model"), Path("model").mkdir(), Path("model/saved_model.pb").write_bytes(b"text")),
        PREDICT,
        "model: damaged or incomplete SavedModel (",
    ),
    "model_dir_is_a_file": (
        lambda: Path("out").write_text(""), [*TRAIN, *RECORDS], "--model_dir: out: expected a folder (File exists)"
    ),
}  # fmt: skip
TYPO = "train.stepz: unknown key; did you mean 'train.steps'?"
CONFIG: dict[str, Case] = {
    "train": (nothing, [*TRAIN, "--params_override=train.stepz=1"], TYPO),
    "predict": (nothing, [*PREDICT, "--params_override=train.stepz=1"], TYPO),
    "evaluate": (nothing, [*EVALUATE, "--params_override=train.stepz=1"], TYPO),
    "complexity": (nothing, ["complexity", TRAIN[1], "--params_override=train.stepz=1"], TYPO),
    "benchmark": (nothing, ["benchmark", TRAIN[1], "--params_override=train.stepz=1"], TYPO),
    "import_weights": (
        nothing,
        ["import-weights", "--source=tf_slim", "--weights=x", "--output=x.npz", "--params_override=train.stepz=1"],
        TYPO,
    ),
    "file": (
        lambda: Path("x.yaml").write_text("train: {stepz: 1}"), ["train", "--config_file=x.yaml"], f"x.yaml: {TYPO}"
    ),
    "key_twice": (
        lambda: Path("x.yaml").write_text("train:\n  steps: 1\n  steps: 2\n"),
        ["train", "--config_file=x.yaml"],
        "x.yaml: not valid YAML (key 'steps' stands twice, line 3, column 3)",
    ),
    "wrong_type": (nothing, [*TRAIN, "--params_override=train.steps=many"], "train.steps: expected an integer, got 'm"),
    "not_a_number": (
        nothing,
        [*TRAIN, "--params_override=train.optimizer.learning_rate=.nan"],
        "train.optimizer.learning_rate: expected a positive number, got nan",
    ),
    "label_space": (
        lambda: Path("records/dataset_info.yaml").write_bytes(b"\xff\xfe"),
        ["inspect", "records"],
        "records/dataset_info.yaml: not valid YAML ('utf-8' codec",
    ),
    "port": (nothing, ["data-service", "--port=99999"], "--port: expected 0 (any free one) to 65535, got 99999"),
}  # fmt: skip
TABLES = {
    "missing_folder": MISSING_FOLDER,
    "annotation_without_image": ANNOTATION_WITHOUT_IMAGE,
    "png_and_json_disagree": PNG_AND_JSON_DISAGREE,
    "truncated_jpeg": TRUNCATED_JPEG,
    "label_outside_the_classes": LABEL_OUTSIDE_THE_CLASSES,
    "too_many_instances": TOO_MANY_INSTANCES,
    "empty_data_set": EMPTY_DATA_SET,
    "record_of_another_schema": RECORD_OF_ANOTHER_SCHEMA,
    "checkpoint_of_another_architecture": CHECKPOINT,
    "config_typo": CONFIG,
}


@pytest.mark.parametrize(("fault", "path"), [(fault, path) for fault, table in TABLES.items() for path in table])
def test_the_culprit_is_named_in_one_line(fault, path, folder, loaded, capsys, monkeypatch):
    prepare, words, message = TABLES[fault][path]
    if words[0] == "evaluate":
        from deeplab2_lite.evaluation.sources import models

        # The network is the same each time.
        monkeypatch.setattr(models, "load_ensemble", lambda *_: loaded)
    if fault == "truncated_jpeg":
        monkeypatch.setattr("deeplab2_lite.loading.load_ensemble", lambda *_: loaded)
    prepare()
    before = files(folder)
    assert message in refused(words, capsys)
    # What was there is as it was, and there is nothing that somebody could take for a result.
    after = files(folder)
    assert {name: after.get(name) for name in before} == before
    results = ("tfrecord", "dataset_info.yaml", "panoptic.json", "metrics.json", ".png", ".zip", ".npz", ".csv")
    written = [name for name in after if name not in before and name.endswith(results)]
    assert [name for name in written if not (words[0] == "train" and name == "out/dataset_info.yaml")] == []


def test_a_process_ends_with_the_line_and_the_status(folder):
    write_record(keep=0.5)
    command = [sys.executable, "-m", "deeplab2_lite.cli", *EVALUATE, "--data=records"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).resolve().parent.parent)}
    # As a user has it, who sets none of TensorFlow's variables.
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: records: val-00000-of-00001.tfrecord record 0 (x.jpg): cannot be decoded (")
    assert done.stderr.count("\n") == 1


def test_what_python_is_given_is_checked_likewise(folder):
    import deeplab2_lite as dl

    info = dl.load_dataset_info("shapes")
    metric = dl.evaluation.PanopticQuality(info)
    zeros = np.zeros((4, 4), np.int32)
    for call, message in (
        (lambda: dl.load_config("shapes/mobilenet_v3_small", "train.stepz=1"), TYPO),
        (lambda: dl.load_dataset_info("nowhere"), "dataset_info 'nowhere': neither a preset, a file nor a folder"),
        (lambda: dl.load_model("nowhere"), "nowhere: no such file or folder; expected a model folder, a SavedModel or"),
        (lambda: dl.load_model(broken(Path("x.keras"))), "x.keras: cannot be read as a .keras file ("),
        (lambda: dl.Predictor("images"), "images: neither a model folder (config.yaml and checkpoints/) nor a SavedM"),
        (lambda: metric.update(zeros, zeros[:3]), "prediction: expected the truth's shape [4, 4], got [3, 4]"),
        (lambda: metric.update(zeros, zeros + 99_000), "prediction: semantic id 99 is unknown; expected 0..8"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert message in str(caught.value) and "\n" not in str(caught.value)


def broken(path: Path) -> Path:
    path.write_bytes(b"text")
    return path
