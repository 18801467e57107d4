"""Layers, sheets and legends: what is drawn where, and in which colour."""

from __future__ import annotations

import numpy as np
import pytest

from deeplab2_lite import visualize
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.layer_pictures import HEAD_LAYERS, LAYERS, Seen, draw_layer
from deeplab2_lite.legend import add_legend, class_keys, heatmap_key, mark_key, offset_key, text_size
from deeplab2_lite.segment_colors import segment_colors

INFO = load_dataset_info("shapes")
SKY, CAR = 4, 6


def seen(heads=True, height=60, width=90):
    """Sky, a void corner, and a car whose left half is nearer to one centre and the right half to another."""
    panoptic = np.full((height, width), SKY * 1000, np.int32)
    panoptic[20:40, 20:40], panoptic[20:40, 40:60] = 6001, 6002
    panoptic[:10, :10] = INFO.void_id
    semantic = np.where(panoptic == INFO.void_id, SKY, panoptic // 1000)
    heatmap = np.zeros((height, width), np.float32)
    heatmap[30, 30], heatmap[30, 50] = 1, 0.5
    offset = np.zeros((height, width, 2), np.float32)
    offset[20:40, 20:40, 1], offset[20:40, 40:60, 1], offset[:5] = 10, -10, 900
    image = np.full((height, width, 3), 120, np.uint8)
    image[:, width // 2 :] = 200
    maps = (heatmap, offset) if heads else ()
    return Seen(image, panoptic, semantic, np.array([[30, 30], [30, 50]]), *maps)


def middle(picture, row, column, scale=10):
    return picture[row * scale + scale // 2, column * scale + scale // 2].astype(int)


@pytest.mark.parametrize("name", ["overlay", *LAYERS])
def test_a_legend_comes_below_and_changes_nothing_above(name):
    plain, explained = (draw_layer(name, seen(), INFO, legend, scale=10) for legend in (False, True))
    assert explained.shape[1] == plain.shape[1] and explained.shape[0] > plain.shape[0] + 20
    np.testing.assert_array_equal(explained[: plain.shape[0]], plain)
    # Text stays clear of the margins of the strip.
    strip = explained[plain.shape[0] :].astype(int)
    for margin in (strip[:4], strip[-4:], strip[:, :4], strip[:, -4:]):
        assert (margin == visualize.BACKGROUND).all()
    assert strip.max() > 200


def test_small_images_are_enlarged_and_a_scale_is_kept():
    assert draw_layer("semantic", seen(), INFO, legend=False).shape == (60 * 8, 90 * 8, 3)
    for name in ("overlay", "semantic", "instance", *HEAD_LAYERS):
        assert draw_layer(name, seen(), INFO, legend=False, scale=1).shape == (60, 90, 3)


def test_the_semantic_layer_has_the_colours_of_classes():
    picture = draw_layer("semantic", seen(), INFO, legend=False, scale=10)
    for row, column, class_id in ((30, 25, CAR), (30, 55, CAR), (5, 5, SKY)):
        expected = 0.45 * seen().image[row, column] + 0.55 * np.array(INFO.classes[class_id].color)
        np.testing.assert_allclose(middle(picture, row, column), expected, atol=1)


def test_the_instance_layer_has_no_stuff():
    picture = draw_layer("instance", seen(), INFO, legend=False, scale=10)
    # The image is grey below, as bright as it can be.
    assert middle(picture, 50, 10).max() < 10 and len(set(middle(picture, 50, 80))) == 1
    assert middle(picture, 50, 80)[0] > 100
    colors = segment_colors(seen().panoptic, INFO)
    found = middle(picture, 30, 25)
    np.testing.assert_allclose(found, 0.8 * np.array(colors[6001]), atol=4)
    assert np.abs(found - middle(picture, 30, 42)).max() > 30
    # Lines, whose corners are round.
    assert (picture[200, 210:390] > 250).all() and (picture[210:390, 400] > 250).all()


def test_the_heatmap_layer_shows_maxima_and_centres():
    picture = draw_layer("heatmap", seen(), INFO, legend=False, scale=10)
    peak, faint = middle(picture, 30, 30), middle(picture, 30, 50)
    assert peak.sum() > faint.sum() + 100 and np.ptp(faint) > 50 > np.ptp(middle(picture, 45, 50))
    for column in (30, 50):
        ring = picture[305 - 8 : 305 + 8, column * 10 + 5 - 8 : column * 10 + 5 + 8]
        assert (ring > 240).all(axis=2).any() and (ring == 0).all(axis=2).any()
    without = draw_layer("heatmap", seen()._replace(centers=np.zeros((0, 2))), INFO, legend=False, scale=10)
    assert (without[285:325, 285:325] != picture[285:325, 285:325]).any()
    np.testing.assert_array_equal(without[450:], picture[450:])


def test_the_offset_layer_has_the_wheel_on_things_alone():
    picture = draw_layer("offsets", seen(), INFO, legend=False, scale=10)
    assert middle(picture, 30, 25).tolist() == [255, 0, 0]
    left = visualize.colorize_offsets(np.array([[[0.0, -10.0]]]), 10)[0, 0]
    np.testing.assert_array_equal(middle(picture, 30, 55), left)
    assert (picture[:200] == 255).all() and (picture[400:] == 255).all()


def test_a_sheet_shows_all_that_there_is(monkeypatch):
    asked = []
    side_by_side = visualize.side_by_side

    def spy(images, titles, columns):
        asked.append((list(titles), columns, images[0].shape))
        return side_by_side(images, titles, columns)

    monkeypatch.setattr("deeplab2_lite.layer_pictures.side_by_side", spy)
    draw_layer("sheet", seen(), INFO)
    draw_layer("sheet", seen(heads=False), INFO)
    draw_layer("sheet", seen(height=60, width=240), INFO)
    draw_layer("sheet", seen(height=700, width=1400), INFO)
    titles = ["image", "semantic", "centre heatmap", "centre offsets", "instances", "panoptic"]
    assert asked[0] == (titles, 3, (480, 720, 3))
    assert asked[1] == ([t for t in titles if "centre" not in t], 2, (480, 720, 3))
    # Of wide images there are fewer in a row.
    assert asked[2][1:] == (2, (180, 720, 3))
    # Large ones are reduced.
    assert asked[3][1:] == (2, (512, 1024, 3))


def test_reduced_sheets_keep_their_centres():
    large = seen(height=700, width=1400)
    large = large._replace(centers=np.array([[350, 700]]))
    picture = draw_layer("sheet", large, INFO, legend=False)
    plain = draw_layer("sheet", large._replace(centers=np.zeros((0, 2))), INFO, legend=False)
    rows, columns = np.nonzero((picture != plain).any(axis=2))
    # The heatmap is the third of two columns.
    assert abs(columns.mean() - (8 + 512)) < 8 and rows.max() - rows.min() < 30


def test_an_instance_has_one_colour_in_all_pictures():
    """Neighbours whose colours have to differ, in a map whose neighbourhoods change with the resolution."""
    panoptic = np.full((60, 99), SKY * 1000, np.int32)
    for number in range(33):
        panoptic[20:40, 3 * number : 3 * number + 2] = 6001 + number
    image = np.zeros((60, 99, 3), np.uint8)
    striped = Seen(image, panoptic, panoptic // 1000, np.zeros((0, 2)))
    colors = segment_colors(panoptic, INFO)
    assert segment_colors(panoptic.repeat(10, axis=0).repeat(10, axis=1), INFO) != colors
    overlay = draw_layer("overlay", striped, INFO, legend=False, scale=10)
    instance = draw_layer("instance", striped, INFO, legend=False, scale=10)
    for number in range(33):
        color, column = np.array(colors[6001 + number]), 30 * number + 10
        np.testing.assert_allclose(overlay[220, column], 0.55 * color, atol=1)
        np.testing.assert_allclose(instance[220, column], 0.8 * color, atol=1)


# ---- legends


def test_keys_name_classes_count_instances_and_tell_of_void():
    keys = class_keys(seen().panoptic, INFO, 20, segment_colors(seen().panoptic, INFO))
    assert [key.text for key in keys] == ["sky", "car: 2", "void"]
    sky, car, void = (key.swatch for key in keys)
    assert sky.shape == car.shape == void.shape == (20, 32, 3)
    assert (sky[2:-2, 2:-2] == INFO.classes[SKY].color).all()
    colors = segment_colors(seen().panoptic, INFO)
    assert car[10, [5, 19, 28]].tolist() == [list(INFO.classes[CAR].color), list(colors[6001]), list(colors[6002])]
    assert len(np.unique(void[2:-2, 2:-2].reshape(-1, 3), axis=0)) == 2


def test_the_key_of_offsets_is_the_wheel():
    key = offset_key(37.25, 20)
    assert key.text.endswith("full colour = 37.2 px")
    side = len(key.swatch)
    assert key.swatch[side // 2, side - 2].tolist()[0] > 245 and key.swatch[side // 2, side - 2][1] < 20
    assert (key.swatch[side // 2, side // 2] > 245).all()
    assert key.swatch[0, 0].tolist() == list(visualize.BACKGROUND)


def test_keys_of_the_heatmap():
    bar = heatmap_key(20).swatch
    assert bar[10, 2].sum() < 30 and bar[10, -3].sum() > 600
    assert (mark_key(20).swatch == 255).all(axis=2).any()


@pytest.mark.parametrize("width", [30, 200, 600, 1400])
def test_no_legend_runs_out_of_its_picture(width):
    info = load_dataset_info("coco")
    ids = [i * info.label_divisor + info.classes[i].isthing for i in range(0, info.num_classes, 3)]
    panoptic = np.resize(ids, (40, width)).astype(np.int32)
    size = text_size(width)
    keys = class_keys(panoptic, info, size, segment_colors(panoptic, info))
    assert len(keys) == min(len(ids), 40 * width)
    picture = add_legend(np.full((40, width, 3), 9, np.uint8), keys, size)
    assert picture.shape[1] == max(width, 260)
    strip = picture[40:].astype(int)
    assert (strip[:, -size // 2 :] == visualize.BACKGROUND).all() and (
        strip[:, : size // 2] == visualize.BACKGROUND
    ).all()
    left = (picture.shape[1] - width) // 2
    assert (picture[:40, left : left + width] == 9).all()


def test_without_keys_there_is_no_strip():
    picture = np.zeros((4, 5, 3), np.uint8)
    assert add_legend(picture, [], 13) is picture
