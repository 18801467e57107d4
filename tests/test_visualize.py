"""Pictures: what colours mean, and what is refused."""

from __future__ import annotations

import colorsys
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deeplab2_lite import visualize
from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.segment_drawing import enlarge_labels, instance_borders, label_places

INFO = DatasetInfo(
    "three",
    (
        ClassInfo("ground", False, (10, 20, 30), 0),
        ClassInfo("cat", True, (200, 60, 40), 1),
        ClassInfo("dog", True, (40, 200, 60), 2),
    ),
    ignore_label=9,
    label_divisor=1000,
)


def test_colours_of_void_stuff_crowd_and_instances():
    panoptic = np.array([[9000, 9005, 0], [1000, 1001, 1002], [2001, 1001, 2002]], np.int32)
    colors = visualize.colorize_panoptic(panoptic, INFO)
    assert colors.dtype == np.uint8 and colors.shape == (3, 3, 3)
    assert colors[0].tolist() == [[0, 0, 0], [0, 0, 0], [10, 20, 30]]
    assert colors[1, 0].tolist() == [200, 60, 40]
    np.testing.assert_array_equal(colors[1, 1], colors[2, 1])
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 7
    # Alone in another picture, an instance keeps its colour.
    np.testing.assert_array_equal(visualize.colorize_panoptic(panoptic[2:, :1], INFO)[0, 0], colors[2, 0])


@pytest.mark.parametrize("name", ["cityscapes", "coco", "three"])
def test_two_hundred_instances_have_colours_of_their_own_near_that_of_the_class(name):
    info = INFO if name == "three" else load_dataset_info(name)
    class_id = info.thing_ids[0]
    ids = class_id * info.label_divisor + np.arange(201)[None]
    colors = visualize.colorize_panoptic(ids, info)[0]
    assert len(np.unique(colors, axis=0)) == 201
    assert (colors.max(axis=1) > 100).all()
    spread = max(0.16, 1 / len(info.thing_ids)) / 2
    hue = np.array([colorsys.rgb_to_hsv(*(color / 255))[0] for color in colors])
    distance = np.abs((hue - hue[0] + 0.5) % 1 - 0.5)
    assert (distance <= spread + 0.02).all()


@pytest.mark.parametrize(
    ("panoptic", "message"),
    [
        (np.zeros((2, 2), np.float32), "panoptic: expected integers"),
        (np.zeros((1, 2, 2), np.int32), r"panoptic: expected integers \[height, width\]"),
        (np.array([[-1]]), "panoptic: expected ids of at least 0"),
        (np.array([[3000]]), "panoptic: semantic id 3 is unknown in 'three'"),
        (np.array([[2**30]]), "panoptic: expected ids up to 9999"),
    ],
)
def test_maps_that_are_none_are_refused(panoptic, message):
    with pytest.raises(UserError, match=message):
        visualize.colorize_panoptic(panoptic, INFO)


def test_overlay_blends_marks_borders_and_darkens_void():
    image = np.full((40, 60, 3), 100, np.uint8)
    panoptic = np.zeros((40, 60), np.int32)
    panoptic[10:30, 20:40] = 1001
    panoptic[:, 50:] = INFO.void_id
    picture = visualize.overlay_panoptic(image, panoptic, INFO, alpha=0.5, names=False, scale=1)
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert picture[2, 2].tolist() == [55, 60, 65]
    assert picture[2, 55].tolist() == [50, 50, 50]
    color = visualize.colorize_panoptic(panoptic, INFO)[20, 30].astype(float)
    np.testing.assert_allclose(picture[20, 30], (100 + color) / 2, atol=0.51)
    assert (picture[10, 20:40] > 200).all() and (picture[10:30, 20] > 200).all()
    # Void is hatched, so that it is seen on any ground; between stuff and void there is no line.
    assert (picture[:, 49] < 100).all() and (picture[:, 50:] < 110).all()
    hatched = (picture[:, 50:] == 105).all(axis=2)
    assert ((picture[:, 50:] == 50).all(axis=2) | hatched).all() and 0.08 < hatched.mean() < 0.14
    assert image.min() == image.max() == 100


def test_overlay_writes_names_where_there_is_room():
    image = np.full((65, 129, 3), 100, np.uint8)
    panoptic = np.zeros((65, 129), np.int32)
    panoptic[2:4, 2:4] = 1001
    plain, named = (visualize.overlay_panoptic(image, panoptic, INFO, names=n) for n in (False, True))
    assert plain.shape == named.shape == (65 * 5, 129 * 5, 3)
    changed = np.argwhere((plain != named).any(axis=2))
    assert len(changed) > 0
    # One plate in the middle of the ground; the tiny cat has none.
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert bottom - top < 40 and right - left < 120
    assert abs((top + bottom) / 2 - 162) < 30 and abs((left + right) / 2 - 322) < 90
    assert named[top:bottom, left:right].max() > 230
    nothing = np.full_like(panoptic, INFO.void_id)
    np.testing.assert_array_equal(
        visualize.overlay_panoptic(image, nothing, INFO), visualize.overlay_panoptic(image, nothing, INFO, names=False)
    )


def test_overlay_refuses_what_does_not_fit():
    image, panoptic = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.int32)
    with pytest.raises(UserError, match="image: expected uint8 RGB"):
        visualize.overlay_panoptic(image.astype(np.float32), panoptic, INFO)
    with pytest.raises(UserError, match="image: expected uint8 RGB"):
        visualize.overlay_panoptic(image[..., :1], panoptic, INFO)
    with pytest.raises(UserError, match=r"panoptic: expected the image's size \[4, 5\], got \[5, 4\]"):
        visualize.overlay_panoptic(image, panoptic.T, INFO)
    with pytest.raises(UserError, match="alpha"):
        visualize.overlay_panoptic(image, panoptic, INFO, alpha=1.5)
    with pytest.raises(UserError, match="scale"):
        visualize.overlay_panoptic(image, panoptic, INFO, scale=0)


def test_names_of_stuff_give_way_to_things():
    image = np.full((90, 120, 3), 100, np.uint8)
    panoptic = np.zeros((90, 120), np.int32)
    pictures = [visualize.overlay_panoptic(image, panoptic, INFO, names=n, scale=6) for n in (False, True)]
    assert (pictures[0] != pictures[1]).any()
    # Cats like bars, between which there is no room for the name.
    panoptic[:, ::5] = 1001
    panoptic[:, 1::5] = 1001
    pictures = [visualize.overlay_panoptic(image, panoptic, INFO, names=n, scale=6) for n in (False, True)]
    np.testing.assert_array_equal(*pictures)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_enlarged_labels_follow_the_bilinear_majority(height, width, scale, seed):
    labels = np.random.default_rng(seed).integers(0, 3, size=(height, width)).astype(np.int32)
    enlarged = enlarge_labels(labels, scale)
    assert enlarged.shape == (height * scale, width * scale) and enlarged.dtype == labels.dtype
    for i in range(height * scale):
        for j in range(width * scale):
            y = min(max((i + 0.5) / scale - 0.5, 0), height - 1)
            x = min(max((j + 0.5) / scale - 0.5, 0), width - 1)
            votes = np.zeros(3)
            for r in range(height):
                for c in range(width):
                    votes[labels[r, c]] += max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c))
            assert votes[enlarged[i, j]] >= votes.max() - 1e-5


def test_borders_lie_along_instances_alone():
    panoptic = np.array([[0, 0, 0, 9000], [1001, 1001, 1002, 9000]])
    np.testing.assert_array_equal(instance_borders(panoptic, INFO, 1), [[0, 0, 0, 0], [1, 1, 1, 1]])
    thick = instance_borders(panoptic, INFO, 2)
    assert thick[0].tolist() == [True, True, True, True]


def test_names_go_to_the_middle_of_the_thickest_part():
    panoptic = np.zeros((60, 90), np.int32)
    panoptic[10:51, 10:51] = 7
    panoptic[28:32, 51:80] = 7
    places = {place.panoptic_id: place for place in label_places(panoptic)}
    assert (places[7].row, places[7].column) == (30, 30)
    assert 17 <= places[7].radius <= 22
    assert places[7].area == 41 * 41 + 4 * 29
    assert panoptic[places[0].row, places[0].column] == 0
    assert label_places(panoptic)[0].panoptic_id == 0
    large = label_places(panoptic.repeat(10, axis=0).repeat(10, axis=1))
    assert np.hypot(large[1].row - 305, large[1].column - 305) < 12


def test_offsets_point_round_the_wheel():
    # right, down, left, up, nothing, half as far to the right
    offset = np.array([[[0, 4], [4, 0], [0, -4], [-4, 0], [0, 0], [0, 2]]], np.float32)
    colors = visualize.colorize_offsets(offset)[0]
    assert colors.dtype == np.uint8
    assert colors[0].tolist() == [255, 0, 0]
    assert colors[1][0] > 230 and colors[1][1] > 200 and colors[1][2] == 0
    assert colors[2][0] == 0 and colors[2][1] > 180 and colors[2][2] > 200
    assert colors[3][2] == 255 and 50 < colors[3][0] < 200 and colors[3][1] < 60
    assert colors[4].tolist() == [255, 255, 255]
    assert colors[5].tolist() == [255, 128, 128]
    np.testing.assert_array_equal(visualize.colorize_offsets(offset * 2, max_magnitude=4)[0, 5], [255, 0, 0])
    offset[0, 0, 0], offset[0, 1, 1] = np.nan, np.inf
    assert visualize.colorize_offsets(offset)[0, :2].max() == 0
    assert (visualize.colorize_offsets(np.zeros((2, 2, 2))) == 255).all()
    with pytest.raises(UserError, match=r"offset: expected numbers \[height, width, 2\]"):
        visualize.colorize_offsets(np.zeros((2, 2, 3)))


def test_heatmap_grows_brighter():
    ramp = visualize.colorize_heatmap(np.linspace(0, 1, 101)[None])[0].astype(int)
    brightness = ramp @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) > 0).all() and brightness[0] < 5 and brightness[-1] > 230
    odd = visualize.colorize_heatmap(np.array([[-1, 0, np.nan, -np.inf], [2, 1, np.inf, 1]], np.float32))
    assert len(np.unique(odd[0], axis=0)) == len(np.unique(odd[1], axis=0)) == 1
    with pytest.raises(UserError, match=r"heatmap: expected numbers \[height, width\]"):
        visualize.colorize_heatmap(np.zeros((2, 2, 1)))


def test_side_by_side_places_pictures():
    red, blue = np.zeros((20, 30, 3), np.uint8), np.zeros((10, 15, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    row = visualize.side_by_side([red, blue], gap=4)
    assert row.shape == (28, 72, 3)
    assert (row[4:24, 4:34] == (255, 0, 0)).all() and (row[4:24, 38:68] == (0, 0, 255)).all()
    grid = visualize.side_by_side([red, blue, red], titles=["a", "b", "c"], columns=2, gap=4)
    assert grid.shape[1] == 72 and grid.shape[0] > 2 * 20 + 3 * 4 + 2 * 12
    assert ((grid == (255, 0, 0)).all(axis=2)).sum() == 2 * 600
    with pytest.raises(UserError, match="at least one picture"):
        visualize.side_by_side([])
    with pytest.raises(UserError, match="titles: expected one for each of the 2 pictures, got 1"):
        visualize.side_by_side([red, blue], titles=["a"])
    with pytest.raises(UserError, match=r"images\[1\]: expected uint8 RGB"):
        visualize.side_by_side([red, red.astype(int)])


def test_saved_pictures_are_whole(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, size=(7, 9, 3), dtype=np.uint8)
    path = visualize.save_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert Image.open(visualize.save_image(tmp_path / "a.JPG", image)).format == "JPEG"
    with pytest.raises(UserError, match=r"a.gif: expected a file name that ends in \.png"):
        visualize.save_image(tmp_path / "a.gif", image)
    with pytest.raises(UserError, match="expected uint8 RGB"):
        visualize.save_image(tmp_path / "b.png", image[..., 0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.JPG", "a.png"]


@pytest.mark.real_data
def test_every_coco_label_is_drawn(real_data):
    folder = real_data / "coco" / "annotations"
    info = load_dataset_info(folder / "panoptic_val2017.json")
    content = json.loads((folder / "panoptic_val2017.json").read_text())
    class_ids = {c.original_id: i for i, c in enumerate(info.classes)}
    for annotation in content["annotations"][:3]:
        rgb = np.asarray(Image.open(folder / "panoptic_val2017" / annotation["file_name"])).astype(np.int64)
        ids = rgb @ [1, 256, 65536]
        panoptic = np.full(ids.shape, info.void_id)
        for number, segment in enumerate(annotation["segments_info"]):
            panoptic[ids == segment["id"]] = class_ids[segment["category_id"]] * info.label_divisor + number
        name = annotation["file_name"].replace(".png", ".jpg")
        image = np.asarray(Image.open(real_data / "coco" / "val2017" / name).convert("RGB"))
        picture = visualize.overlay_panoptic(image, panoptic, info)
        assert picture.shape[0] % image.shape[0] == 0 and max(picture.shape) >= 640
        colors = visualize.colorize_panoptic(panoptic, info)
        assert (colors[panoptic == info.void_id] == 0).all()
        assert colors[panoptic != info.void_id].any(axis=1).all()
