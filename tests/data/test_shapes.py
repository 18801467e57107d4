"""The procedural scenes: the same for the same seed, well-formed, and with something in them."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite.config import ShapesConfig
from deeplab2_lite.data import shapes, shapes_canvas
from deeplab2_lite.data.records import list_shards, parse_record
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

INFO = load_dataset_info("shapes")


@pytest.fixture(scope="module")
def scenes():
    return [shapes.generate_scene(0, "train", i, 129, 257) for i in range(64)]


def test_scenes_are_functions_of_seed_split_and_index(scenes):
    image, panoptic = shapes.generate_scene(0, "train", 5, 129, 257)
    np.testing.assert_array_equal(image, scenes[5][0])
    np.testing.assert_array_equal(panoptic, scenes[5][1])
    for other in ((1, "train", 5), (0, "val", 5), (0, "train", 6)):
        assert (shapes.generate_scene(*other, 129, 257)[1] != panoptic).any()


def test_class_ids_are_the_presets():
    names = ("ROAD", "SIDEWALK", "BUILDING", "VEGETATION", "SKY", "PERSON", "CAR", "BALL", "SIGN")
    assert [INFO.class_names[getattr(shapes_canvas, name)] for name in names] == [name.lower() for name in names]
    assert INFO.ignore_label == shapes_canvas.VOID


def test_labels_are_well_formed(scenes):
    for image, panoptic in scenes:
        assert image.shape == (129, 257, 3) and image.dtype == np.uint8
        assert panoptic.shape == (129, 257) and panoptic.dtype == np.int32
        for panoptic_id, area in zip(*np.unique(panoptic, return_counts=True), strict=True):
            class_id, instance = divmod(int(panoptic_id), 1000)
            assert class_id < 9 or panoptic_id == INFO.void_id
            assert instance == 0 or (class_id in INFO.thing_ids and area >= shapes.MIN_VISIBLE_PIXELS)
        for class_id in INFO.thing_ids:
            instances = np.unique(panoptic[panoptic // 1000 == class_id] % 1000)
            instances = instances[instances > 0]
            assert instances.tolist() == list(range(1, len(instances) + 1))


def test_scenes_hold_what_there_is_to_learn(scenes):
    ids = [np.unique(panoptic) for _, panoptic in scenes]
    present = np.array([[(i // 1000 == c).any() for c in range(9)] for i in ids])
    assert present[:, INFO.stuff_ids].mean(axis=0).min() > 0.9
    assert present[:, INFO.thing_ids].mean(axis=0).min() > 0.5
    things = [(i % 1000 > 0).sum() for i in ids]
    assert min(things) >= 4 and max(things) <= 12 and 6 < np.mean(things) < 10
    assert 0.02 < np.mean([(panoptic == INFO.void_id).mean() for _, panoptic in scenes]) * 10 < 0.5
    crowds = [np.isin(i, np.array(INFO.thing_ids) * 1000).any() for i in ids]
    assert 1 <= sum(crowds) <= 20


def test_instances_are_of_sizes_that_a_small_network_sees(scenes):
    sides = []
    for _, panoptic in scenes:
        for panoptic_id in np.unique(panoptic[panoptic % 1000 > 0]):
            y, x = np.nonzero(panoptic == panoptic_id)
            sides.append(max(np.ptp(y), np.ptp(x)) + 1)
    assert np.percentile(sides, 10) >= 10 and np.percentile(sides, 95) <= 90


def test_classes_differ_in_colour(scenes):
    """Neighbouring stuff can be told apart by its mean colour alone."""
    means = np.array(
        [
            np.mean(
                [
                    image[panoptic == c * 1000].mean(axis=0)
                    for image, panoptic in scenes
                    if (panoptic == c * 1000).any()
                ],
                axis=0,
            )
            for c in INFO.stuff_ids
        ]
    )
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1) + 999 * np.eye(len(means))
    assert distances.min() > 15


def test_other_sizes_show_the_same_stage():
    small = shapes.generate_scene(3, "val", 0, 65, 129)[1] // 1000
    large = shapes.generate_scene(3, "val", 0, 260, 516)[1] // 1000
    reduced = np.asarray(Image.fromarray(large.astype(np.uint8)).resize((129, 65), Image.Resampling.NEAREST))
    assert (reduced == small).mean() > 0.9
    with pytest.raises(UserError, match="at least 33x33 pixels, got 32x64"):
        shapes.generate_scene(0, "train", 0, 32, 64)


def test_build_writes_records_of_the_scenes(tmp_path):
    config = ShapesConfig(train_images=3, val_images=2, height=65, width=97, seed=4)
    path = shapes.build(tmp_path, config)
    info = load_dataset_info(path)
    assert (info.name, dict(info.splits)) == ("shapes", {"train": 3, "val": 2})
    for split, count in info.splits.items():
        dataset = tf.data.TFRecordDataset([str(shard) for shard in list_shards(tmp_path, split)])
        parsed = [parse_record(record, info) for record in dataset]
        assert len(parsed) == count
        for index, record in enumerate(parsed):
            image, panoptic = shapes.generate_scene(4, split, index, 65, 97)
            np.testing.assert_array_equal(record.image, image)
            np.testing.assert_array_equal(record.panoptic, panoptic)
            assert record.filename.numpy().decode() == f"{split}_{index:06d}.png"


def test_build_refuses_bad_configurations(tmp_path):
    with pytest.raises(UserError, match=r"data\.shapes: expected scenes"):
        shapes.build(tmp_path, ShapesConfig(height=16))
    with pytest.raises(UserError, match="split 'val': there is nothing to convert"):
        shapes.build(tmp_path, ShapesConfig(val_images=0))
