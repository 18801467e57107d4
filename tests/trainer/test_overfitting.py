"""The network learns real photographs by heart: everything from JPEG to PQ must be right for that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deeplab2_lite import cli
from deeplab2_lite.trainer import train

IMAGES = 8
# An image in every step's half of the data set, at half of its resolution; nothing is changed at random.
OVERRIDES = (
    "data.eval_split=train,data.longest_side=321,data.crop_size=[321,321],data.cache=true,"
    "data.augmentation={min_scale: 1.0, max_scale: 1.0, flip_left_right: false},"
    "model.semantic={aspp_channels: 128, decoder_channels: 128, head_channels: 128, projection_channels: [48, 32]},"
    "model.instance={aspp_channels: 128, decoder_channels: 64, head_channels: 32, projection_channels: [48, 32]},"
    "targets.center_sigma=4,"
    "train={steps: 700, batch_size: 4, steps_per_loop: 10, checkpoint_interval: 350, image_interval: null},"
    "train.optimizer={learning_rate: 1.5e-3, warmup_steps: 50},"
    "postprocessing={stuff_area_limit: 0, nms_kernel: 7}"
)


def copy_lowest_ids(source: Path, folder: Path) -> Path:
    """Copies the images of the lowest ids, as a data set of the official layout."""
    content = json.loads((source / "annotations" / "panoptic_train2017.json").read_text())
    content["images"] = sorted(content["images"], key=lambda image: image["id"])[:IMAGES]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    labels = folder / "annotations" / "panoptic_train2017"
    labels.mkdir(parents=True)
    (folder / "train2017").mkdir()
    (folder / "annotations" / "panoptic_train2017.json").write_text(json.dumps(content))
    for image in content["images"]:
        shutil.copy(source / "train2017" / image["file_name"], folder / "train2017")
    for annotation in content["annotations"]:
        shutil.copy(source / "annotations" / "panoptic_train2017" / annotation["file_name"], labels)
    return folder


@pytest.mark.slow
@pytest.mark.real_data
def test_eight_images_of_coco_are_learnt_by_heart(real_data, tmp_path):
    coco, records, model_dir = (tmp_path / name for name in ("coco", "records", "run"))
    copy_lowest_ids(real_data / "coco", coco)
    convert = ["convert", "coco_panoptic", "--input", str(coco), "--output", str(records), "--splits", "train"]
    assert cli.main(convert) == 0
    overrides = f"data.dir={records},{OVERRIDES}"
    arguments = ["--experiment=coco/mobilenet_v3_large", f"--model_dir={model_dir}", f"--params_override={overrides}"]
    assert train.main(arguments) == 0
    metrics = json.loads((model_dir / "metrics.json").read_text())
    assert metrics["num_images"] == IMAGES
    assert metrics["panoptic_quality/All/PQ"] >= 0.80
