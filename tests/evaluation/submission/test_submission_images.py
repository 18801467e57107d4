"""Which images a submission must hold: from a folder, from a list, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.formats import FORMATS
from deeplab2_lite.evaluation.submission.images import ExpectedImage, expected_images

CITYSCAPES, COCO, VISTAS = (FORMATS[f"{name}_panoptic"] for name in ("cityscapes", "coco", "mapillary"))


def save(path, size=(4, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path, **options)
    return path


def image_info(path, *rows):
    names = ("id", "file_name", "height", "width")
    path.write_text(json.dumps({"images": [dict(zip(names, row, strict=True)) for row in rows]}))
    return path


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_in_folders_below(tmp_path):
    size = (1024, 2048)
    second = save(tmp_path / "leftImg8bit" / "test" / "ulm" / "ulm_000001_000019_leftImg8bit.png", size)
    first = save(tmp_path / "leftImg8bit" / "test" / "bad-x" / "bad-x_000001_000019_leftImg8bit.png", size)
    # Labels bear the same beginnings.
    save(tmp_path / "gtFine" / "test" / "ulm" / "ulm_000001_000019_gtFine_labelIds.png", size)
    save(tmp_path / "leftImg8bit" / ".hidden.png")
    keys = ["bad-x_000001_000019", "ulm_000001_000019"]
    assert list(expected_images(CITYSCAPES, tmp_path, None).items()) == [
        (key, ExpectedImage(key, key, size, path)) for key, path in zip(keys, (first, second), strict=True)
    ]


def test_coco_has_numbers_for_ids_and_vistas_names(tmp_path):
    coco = save(tmp_path / "coco" / "000000000139.jpg")
    assert expected_images(COCO, tmp_path / "coco", None) == {
        "000000000139": ExpectedImage("000000000139", 139, (4, 6), coco)
    }
    vistas = save(tmp_path / "vistas" / "-A_1.jpg")
    assert expected_images(VISTAS, tmp_path / "vistas", None) == {"-A_1": ExpectedImage("-A_1", "-A_1", (4, 6), vistas)}
    assert expected_images(VISTAS, None, None) is None


def test_a_turned_image_counts_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", exif=exif)
    assert expected_images(VISTAS, tmp_path, None)["a"].size == (6, 4)


def test_a_list_chooses_among_the_images(tmp_path):
    paths = [save(tmp_path / "test2017" / f"{i:012d}.jpg") for i in (1, 2, 3)]
    save(tmp_path / "test2017" / "thumbnail.png")
    info = image_info(tmp_path / "info.json", (3, "000000000003.jpg", 4, 6), (1, "000000000001.jpg", 4, 6))
    found = expected_images(COCO, tmp_path / "test2017", info)
    assert [(image.image_id, image.path) for image in found.values()] == [(1, paths[0]), (3, paths[2])]
    assert [image.path for image in expected_images(COCO, None, info).values()] == [None, None]


def test_what_is_refused(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()

    def refused(form=COCO, info=None):
        return message_of(lambda: expected_images(form, folder, info))

    assert (
        message_of(lambda: expected_images(COCO, tmp_path / "x", None)) == f"--input: no such folder: {tmp_path / 'x'}"
    )
    assert refused() == f"--input: no images of 'coco' in {folder} or below"
    path = save(folder / "000000000001.jpg")
    assert refused(CITYSCAPES) == (
        f"{path}: not named as the images of 'cityscapes' are, which cityscapes_panoptic asks for"
    )
    twin = save(folder / "deep" / "000000000001.png")
    assert refused() == f"{twin}: is of the same image as {path}; expected one of them in --input"
    twin.unlink()
    info = image_info(tmp_path / "info.json", (1, "000000000001.jpg", 4, 6), (2, "000000000002.jpg", 4, 6))
    assert refused(info=info) == f"--input: no image '000000000002' in {folder} or below, which {info} lists"
    image_info(info, (1, "000000000001.jpg", 6, 4))
    assert refused(info=info) == f"{path}: is 4x6 pixels; {info} says 6x4"
    image_info(info, (1, "000000000001.jpg", 4, 6), (2, "000000000001.png", 4, 6))
    assert refused(info=info) == f"--image_info: {info}: lists the image '000000000001' twice"
    image_info(info, ("1", "000000000001.jpg", 4, 6))
    assert refused(info=info) == f"--image_info: {info}: images[0]: id: expected an integer"
    image_info(info, (1, "a.jpg", 4, 6))
    assert refused(info=info).endswith("'a.jpg' is not named as the images of 'coco' are")
    info.write_text("{}")
    assert refused(info=info).startswith(f"--image_info: {info}: no list 'images'")
    path.write_bytes(b"none")
    assert refused().startswith(f"{path}: not an image, or damaged")


def test_sizes_of_cityscapes(tmp_path):
    path = save(tmp_path / "ulm_000001_000019_leftImg8bit.png", (512, 1024))
    assert message_of(lambda: expected_images(CITYSCAPES, tmp_path, None)) == (
        f"{path}: is 512x1024 pixels; expected 1024x2048, as all of the data set"
    )


# ---- label spaces


@pytest.mark.parametrize("name", FORMATS)
def test_a_servers_own_label_space_is_taken(name):
    form = FORMATS[name]
    form.check_label_space(form.info, "m")
    assert len(form.info.classes) == {"cityscapes": 19, "coco": 133, "mapillary": 65}[name.split("_")[0]]


def test_deeplab2s_numbering_of_coco_is_taken():
    COCO.check_label_space(load_dataset_info("deeplab2_coco"), "m")


def test_other_label_spaces_are_refused():
    def refused(form, info):
        return message_of(lambda: form.check_label_space(info, "--model: runs/x"))

    assert refused(COCO, load_dataset_info("cityscapes")) == (
        "--model: runs/x: its label space 'cityscapes' lacks 1 ('person') and 115 more; "
        "coco_panoptic needs the 133 classes of 'coco' by their original_id"
    )
    info = CITYSCAPES.info
    train_ids = replace(info, classes=tuple(replace(c, original_id=i) for i, c in enumerate(info.classes)))
    assert "lacks 19 ('traffic light') and 12 more" in refused(CITYSCAPES, train_ids)
    more = replace(info, classes=(*info.classes, replace(info.classes[0], name="caravan", original_id=29)))
    assert "has 29 ('caravan');" in refused(CITYSCAPES, more)
    double = replace(info, classes=(*info.classes, info.classes[0]))
    assert "has two classes of one original_id" in refused(CITYSCAPES, double)
    stuff = replace(info, classes=(*info.classes[:-1], replace(info.classes[-1], isthing=False)))
    assert "does not have 33 ('bicycle') as thing" in refused(CITYSCAPES, stuff)
