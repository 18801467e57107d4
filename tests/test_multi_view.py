"""Means over scales, mirror images and ensembles: what does not depend on the view comes back as it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.inference import InferenceSettings, infer, infer_semantic
from deeplab2_lite.multi_view import Member, View, mean_heads, mirror, views_of
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling, upsample_heads

PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
SETTINGS = InferenceSettings(16, None, (1,), 100, 255, 0, 0.1, 7, 50)


def ramp(height, width):
    """An image whose red says how far down a pixel lies, whose green how far right, in shares of the image."""
    y, x = np.linspace(0, 1, height), np.linspace(0, 1, width)
    image = np.zeros((1, height, width, 3), np.float32)
    image[0, :, :, 0], image[0, :, :, 1] = 200 * y[:, None], 200 * x
    return tf.constant(image)


class LinearNetwork:
    """Heads that are linear in the image, so that any bilinear resampling of a ramp keeps them."""

    def __init__(self, stride=4):
        self.stride = stride
        self.sizes = []

    def __call__(self, images, training):
        assert not training
        self.sizes.append(tuple(images.shape))
        seen = images[:, :: self.stride, :: self.stride]
        return {"center_heatmap": seen[..., :1] / 200, "semantic_logits": tf.stack([seen[..., 0] * 0] * 2, -1)}


def centered_network(images, training):
    """Offsets at full resolution to a bright pixel's place, its heatmap, and two classes by brightness."""
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    flat = tf.reshape(images[..., 2], [tf.shape(images)[0], -1])
    brightest = tf.cast(tf.argmax(flat, axis=1), tf.int32)
    center = tf.cast(tf.stack([brightest // width, brightest % width], -1), tf.float32)
    grid = tf.cast(tf.stack(tf.meshgrid(tf.range(height), tf.range(width), indexing="ij"), -1), tf.float32)
    return {
        "semantic_logits": tf.stack([images[..., 0], 255 - images[..., 0]], -1) / 50,
        "center_heatmap": tf.cast(images[..., 2:] > 200, tf.float32),
        "center_offset": center[:, None, None] - grid,
    }


def drawn_images(shape=(2, 33, 49), bright=((7, 11), (20, 40))):
    random = np.random.default_rng(3)
    images = random.integers(0, 200, (*shape, 3)).astype(np.uint8)
    for image, (row, column) in zip(images, bright, strict=False):
        image[row, column, 2] = 255
    return tf.constant(images)


def assert_same(result, expected, name=""):
    for field in ("semantic", "instance", "panoptic"):
        np.testing.assert_array_equal(getattr(result, field), getattr(expected, field), err_msg=f"{name} {field}")
    for field, value in expected.instances._asdict().items():
        if value.dtype == tf.float32:
            np.testing.assert_allclose(getattr(result.instances, field), value, rtol=1e-6)
        else:
            np.testing.assert_array_equal(getattr(result.instances, field), value)


# ---- flip


@pytest.mark.parametrize("size", [(33, 49), (33, 48), (30, 20)])
def test_flip_of_an_equivariant_network_changes_nothing(size):
    images = drawn_images((2, *size), ((7, 11), (20, 15)))
    expected = infer(centered_network, images, SETTINGS)
    flipped = infer(centered_network, images, SETTINGS._replace(views=views_of([1.0], True)))
    assert expected.result.instances.valid.numpy().sum() == 2
    assert_same(flipped.result, expected.result)
    np.testing.assert_allclose(flipped.instance_scores, expected.instance_scores, rtol=1e-5)
    np.testing.assert_array_equal(flipped.center_offset, expected.center_offset)


def test_flipped_offsets_point_back():
    # The mirror image alone: what it says must come back mirrored, with dx negated.
    images = tf.cast(drawn_images(), tf.float32)
    whole = mean_heads([Member(centered_network, 16)], images, [View(1.0, False)])
    mirrored = mean_heads([Member(centered_network, 16)], images, [View(1.0, True)])
    for head, other in zip(whole, mirrored, strict=True):
        np.testing.assert_allclose(other, head, atol=1e-6)
    # Every pixel's offset leads to the bright pixel.
    rows, columns = np.mgrid[:33, :49]
    for i, (row, column) in enumerate([(7, 11), (20, 40)]):
        np.testing.assert_array_equal(mirrored.center_offset[i, ..., 0] + rows, np.full((33, 49), row))
        np.testing.assert_array_equal(mirrored.center_offset[i, ..., 1] + columns, np.full((33, 49), column))


def test_a_network_that_knows_left_from_right_is_averaged():
    def lopsided(images, training):
        width = tf.shape(images)[2]
        heatmap = tf.broadcast_to(tf.cast(tf.range(width), tf.float32)[None, None, :, None], tf.shape(images[..., :1]))
        return {"center_heatmap": heatmap}

    heads = mean_heads([Member(lopsided, 16)], tf.zeros([1, 17, 33, 3]), views_of([1.0], True))
    np.testing.assert_allclose(heads.center_heatmap, np.full((1, 17, 33, 1), 16.0))
    assert heads.semantic_logits is None and heads.center_offset is None


def test_mirror_stays_within_each_image():
    maps = tf.constant([[[1, 2, 3, 0, 0]], [[1, 2, 3, 4, 5]]])[..., None]
    np.testing.assert_array_equal(mirror(maps, tf.constant([3, 5]))[..., 0], [[[3, 2, 1, 0, 0]], [[5, 4, 3, 2, 1]]])
    np.testing.assert_array_equal(mirror(maps, None)[..., 0], [[[0, 0, 3, 2, 1]], [[5, 4, 3, 2, 1]]])


def test_images_of_a_fixed_size_batch_are_mirrored_within_it():
    images = drawn_images((1, 33, 33), ((7, 11),))
    sizes = tf.constant([[20, 27]])
    flip = SETTINGS._replace(views=views_of([1.0], True))
    alone = infer(centered_network, images[:, :20, :27], flip)
    batch = infer(centered_network, images, flip, sizes)
    np.testing.assert_array_equal(batch.result.panoptic[:, :20, :27], alone.result.panoptic)


# ---- scales


@pytest.mark.parametrize("size", [(33, 65), (32, 50), (41, 30)])
@pytest.mark.parametrize("scales", [(0.5,), (2.0,), (1.25, 0.75), PAPER_SCALES])
def test_linear_fields_come_back_from_every_scale(size, scales):
    network = LinearNetwork()
    expected = ramp(*size)[..., :1] / 200
    views = views_of(scales, False)
    heads = mean_heads([Member(network, 16)], ramp(*size), views)
    # Beyond the image lies grey, which bends the field between the last output within and the first without.
    inside = tuple(slice(0, max(1, side - 9)) for side in size)
    np.testing.assert_allclose(heads.center_heatmap[0][inside], expected[0][inside], atol=2e-6)
    assert len(network.sizes) == len(scales)
    if (size, scales) == ((33, 65), (0.5,)):
        assert network.sizes == [(1, 17, 33, 3)]


def test_whole_fields_come_back_where_nothing_is_padded():
    views = views_of((0.5, 1.0, 1.5, 2.0), True)

    def both_ways(images, training):
        heads = LinearNetwork()(images, training)
        # Symmetric, so that mirror images say the same.
        return {"center_heatmap": heads["center_heatmap"]}

    heads = mean_heads([Member(both_ways, 16)], ramp(33, 65), views)
    np.testing.assert_allclose(heads.center_heatmap, ramp(33, 65)[..., :1] / 200, atol=2e-6)


def test_scaled_offsets_are_longer_or_shorter():
    # At each scale the offsets to one corner, in pixels of stride 4 of what the network sees.
    def to_the_corner(images, training):
        height, width = (images.shape[axis] // 4 + 1 for axis in (1, 2))
        grid = tf.cast(tf.stack(tf.meshgrid(tf.range(height), tf.range(width), indexing="ij"), -1), tf.float32)
        return {"center_offset": tf.constant([height - 1.0, width - 1.0]) - grid[None]}

    rows, columns = np.mgrid[:33, :65]
    expected = np.stack([32 - rows, 64 - columns], -1)[None]
    for scales in ((0.5,), (2.0,), (0.5, 1.0, 1.5, 2.0)):
        heads = mean_heads([Member(to_the_corner, 16)], tf.zeros([1, 33, 65, 3]), views_of(scales, False))
        np.testing.assert_allclose(heads.center_offset, expected, atol=1e-4)


def test_heads_of_a_scaled_image_come_to_the_base_in_one_step():
    heads = Heads(None, None, tf.random.stateless_normal([2, 5, 9, 2], [1, 2]))
    np.testing.assert_allclose(
        Upsampling(17, 33, 17, 33).brought_to(33, 65).apply(heads).center_offset,
        upsample_heads(heads, 33, 65).center_offset,
        atol=1e-5,
    )
    # Of 13 x 29 pixels within 17 x 33 the corners become those of 25 x 57.
    brought = Upsampling(17, 33, 13, 29).brought_to(25, 57).apply(heads).center_offset
    assert brought.shape == (2, 25, 57, 2)
    np.testing.assert_allclose(brought[:, ::24, ::56], 2 * heads.center_offset[:, :4:3, :8:7] * 4, atol=1e-4)


def test_a_dynamic_size_gives_what_a_static_one_gives():
    settings = SETTINGS._replace(views=views_of((0.75, 1.0, 1.5), True))
    images = drawn_images((1, 30, 43), ((7, 11),))

    def run(images):
        return infer(centered_network, images, settings).result.panoptic

    dynamic = tf.function(run, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    static = tf.function(run)
    np.testing.assert_array_equal(dynamic(images), static(images))
    compiled = tf.function(run, jit_compile=True)(images)
    assert np.mean(compiled.numpy() == static(images).numpy()) > 0.999


# ---- ensembles


def test_an_ensemble_of_one_network_is_that_network():
    images = drawn_images()
    expected = infer(centered_network, images, SETTINGS)
    for members in (
        [Member(centered_network, 16)],
        [Member(centered_network, 16)] * 2,
        [Member(centered_network, 8)] * 3,
    ):
        result = infer(members, images, SETTINGS)
        assert_same(result.result, expected.result)
        np.testing.assert_allclose(result.instance_scores, expected.instance_scores, rtol=1e-5)


def test_probabilities_are_averaged_and_their_log_is_merged():
    def sure(logit):
        def network(images, training):
            logits = tf.fill([1, images.shape[1], images.shape[2], 1], logit)
            return {"semantic_logits": tf.concat([logits, tf.zeros_like(logits), tf.zeros_like(logits)], -1)}

        return network

    heads = mean_heads([Member(sure(3.0), 16), Member(sure(-1.0), 8)], tf.zeros([1, 17, 17, 3]), views_of([1.0], False))
    e = np.exp([3.0, -1.0])
    first = np.mean(e / (e + 2))
    np.testing.assert_allclose(
        heads.semantic_logits[0, 0, 0], np.log([first, (1 - first) / 2, (1 - first) / 2]), rtol=1e-5
    )
    np.testing.assert_allclose(tf.nn.softmax(heads.semantic_logits)[0, 5, 5, 0], first, rtol=1e-5)


def test_classes_without_any_probability_stay_finite():
    def certain(images, training):
        return {"semantic_logits": tf.concat([images[..., :1] * 0 + 500, images[..., :1] * 0 - 500], -1)}

    heads = mean_heads([Member(certain, 16)], tf.zeros([1, 17, 17, 3]), views_of([1.0], True))
    assert np.isfinite(heads.semantic_logits).all()
    np.testing.assert_allclose(tf.nn.softmax(heads.semantic_logits)[0, 0, 0], [1, 0], atol=1e-6)


def test_semantic_networks_are_averaged_too():
    images = drawn_images()

    def semantic(images, training):
        return {"semantic_logits": centered_network(images, training)["semantic_logits"]}

    expected = infer_semantic(semantic, images, SETTINGS)
    np.testing.assert_array_equal(
        infer_semantic([Member(semantic, 16)] * 2, images, SETTINGS._replace(views=views_of([1.0], True))), expected
    )


def test_memory_does_not_grow_with_the_number_of_views():
    """Views wait for each other: each network's input depends on the sum of what came before."""
    seen = []

    def network(images, training):
        seen.append(images)
        return {"semantic_logits": images}

    @tf.function
    def run(images):
        return mean_heads([Member(network, 16)], images, views_of((0.5, 1.0, 2.0), True)).semantic_logits

    graph = run.get_concrete_function(tf.TensorSpec([1, 33, 33, 3], tf.float32)).graph
    assert len(seen) == 6

    def ancestors(operation, found):
        for parent in [tensor.op for tensor in operation.inputs] + list(operation.control_inputs):
            if parent.name not in found:
                found.add(parent.name)
                ancestors(parent, found)
        return found

    assert graph is not None
    for earlier, later in itertools.pairwise(seen):
        assert earlier.op.name in ancestors(later.op, set())
