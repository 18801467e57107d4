"""Tiles give what the whole image gives wherever the network looks no farther than they overlap."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.inference import InferenceSettings, infer
from deeplab2_lite.multi_view import Member, run_network, views_of
from deeplab2_lite.preprocessing import pad_to_stride
from deeplab2_lite.tiling import Tiling, run_in_tiles

SETTINGS = InferenceSettings(16, None, (1,), 100, 255, 0, 0.1, 7, 50)


def pixelwise(images, training):
    """Heads at stride 4 that look at one pixel each."""
    seen = images[:, ::4, ::4]
    return {
        "semantic_logits": tf.concat([seen[..., :1], 255 - seen[..., :1]], -1) / 50,
        "center_heatmap": seen[..., 2:] / 255,
        "center_offset": seen[..., :2] / 100 - 1,
    }


def smoothed(images, training):
    """Heads that look 8 pixels around, over what they see as grey beyond the border."""
    padded = tf.pad(images, [[0, 0], [8, 8], [8, 8], [0, 0]], constant_values=127.5)
    seen = tf.nn.avg_pool2d(padded, 17, 4, "VALID")
    return {"center_heatmap": seen[..., :1], "center_offset": seen[..., 1:]}


def drawn_images(batch, height, width):
    return np.random.default_rng(height * width).integers(0, 256, (batch, height, width, 3)).astype(np.uint8)


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    tiling=st.sampled_from([Tiling(17, 17, 0), Tiling(17, 17, 1), Tiling(33, 49, 4), Tiling(33, 49, 17)]),
)
def test_tiles_give_what_the_whole_gives(height, width, tiling):
    images = drawn_images(2, height, width)
    tiled = run_in_tiles(pixelwise, tf.constant(images), tiling, 16)
    covered = np.full((2, tiled.height, tiled.width, 3), 127.5, np.float32)
    covered[:, :height, :width] = images
    for name, expected in pixelwise(tf.constant(covered), training=False).items():
        np.testing.assert_allclose(getattr(tiled.heads, name), expected, rtol=1e-5, atol=1e-5)
    # No more tiles than are needed.
    for side, covering, length in ((height, tiled.height, tiling.height), (width, tiled.width, tiling.width)):
        step = (length - tiling.overlap) // 16 * 16
        assert covering >= side and (covering - length) % step == 0
        assert covering == length or covering - step < side


def test_panoptic_maps_are_those_of_the_whole_image():
    # Not whole numbers: among equal heatmap values the rounding of a mean would choose.
    images = tf.random.stateless_uniform([2, 120, 150, 3], [1, 2], 0, 255)
    expected = infer(pixelwise, images, SETTINGS)
    tiled = infer(pixelwise, images, SETTINGS._replace(tiling=Tiling(49, 65, 20)))
    assert expected.result.instances.valid.numpy().sum() > 20
    assert np.mean(tiled.result.panoptic.numpy() == expected.result.panoptic.numpy()) > 0.999
    np.testing.assert_allclose(tiled.center_offset, expected.center_offset, atol=1e-4)


def test_what_a_tile_does_not_see_counts_little():
    images = tf.constant(drawn_images(1, 161, 161), tf.float32)
    expected = smoothed(pad_to_stride(images, 16), training=False)["center_heatmap"]
    errors = {}
    for overlap in (0, 17, 33):
        tiled = run_in_tiles(smoothed, images, Tiling(65, 65, overlap), 16)
        height, width = expected.shape[1:3]
        errors[overlap] = np.abs(tiled.heads.center_heatmap[:, :height, :width] - expected).max()
    assert tiled.heads.semantic_logits is None
    assert errors[33] < errors[17] < errors[0]
    assert errors[0] > 4 * errors[33]


def test_the_mean_is_weighted_by_the_distance_from_the_border():
    """Each tile says what its first pixel holds; where two meet, the shares change in equal steps."""

    def first_pixel(images, training):
        return {"center_heatmap": tf.zeros_like(images[:, ::4, ::4, :1]) + images[:, :1, :1, :1]}

    # Two tiles of 33 pixels, 9 outputs each, 16 pixels apart: they share 5 outputs.
    images = np.zeros((1, 33, 49, 3), np.float32)
    images[:, :, 16:] = 60
    tiled = run_in_tiles(first_pixel, tf.constant(images), Tiling(33, 33, 17), 16)
    shared = [10, 20, 30, 40, 50]
    np.testing.assert_allclose(tiled.heads.center_heatmap[0, 5, :, 0], [*[0] * 4, *shared, *[60] * 4], rtol=1e-6)


@pytest.mark.parametrize("longest_side", [None, 100])
def test_a_dynamic_size_gives_what_a_static_one_gives(longest_side):
    settings = SETTINGS._replace(tiling=Tiling(49, 65, 20), longest_side=longest_side)

    def run(images):
        return infer(pixelwise, images, settings).result.panoptic

    dynamic = tf.function(run, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    for size in ((30, 40), (120, 150)):
        images = tf.constant(drawn_images(1, *size))
        assert np.mean(dynamic(images).numpy() == run(images).numpy()) > 0.999


def test_tiles_go_with_scales_and_mirror_images():
    images = tf.constant(drawn_images(1, 97, 129))
    plain = SETTINGS._replace(views=views_of([0.5, 1.0], True))
    expected = infer(pixelwise, images, plain)
    tiled = infer(pixelwise, images, plain._replace(tiling=Tiling(49, 65, 20)))
    np.testing.assert_allclose(tiled.center_heatmap, expected.center_heatmap, atol=1e-4)
    assert np.mean(tiled.result.semantic.numpy() == expected.result.semantic.numpy()) > 0.999


def test_no_tensor_of_the_whole_image_is_made_of_floats():
    """The image stays in bytes; what floats there are have the size of a tile, or stride 4."""
    seen = []

    def network(images, training):
        seen.append(images.shape)
        return pixelwise(images, training)

    def run(images):
        return run_network(Member(network, 16), images, Tiling(65, 65, 16)).heads.center_heatmap

    graph = tf.function(run).get_concrete_function(tf.TensorSpec([1, 400, 600, 3], tf.uint8)).graph
    assert seen == [tf.TensorShape([1, 65, 65, 3])]
    floats = [tensor for op in graph.get_operations() for tensor in op.outputs if tensor.dtype == tf.float32]
    assert floats and not any(tensor.shape.as_list()[1:3] == [400, 600] for tensor in floats if tensor.shape.rank == 4)
