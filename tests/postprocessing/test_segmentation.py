"""Panoptic segmentation against the plain reading, in every way that TensorFlow can run it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite.errors import UserError
from deeplab2_lite.postprocessing import Upsampling, panoptic_segmentation

from .scenes import INF, NAN, NUM_CLASSES, Scene, assert_equals_reference, scenes, settings, smooth_scene

SHAPE = (2, 6, 9)


@functools.cache
def compiled(jit: bool, dynamic: bool, threshold: float = 0.1):
    size = [None, None, None] if dynamic else SHAPE
    specs = [tf.TensorSpec([*size, channels]) for channels in (NUM_CLASSES, 1, 2)]
    return tf.function(
        lambda *heads: panoptic_segmentation(*heads, **settings(center_threshold=threshold)),
        input_signature=specs,
        jit_compile=jit,
    )


@given(
    scene=scenes(SHAPE) | scenes((1, 5, 4)),
    thing_ids=st.sampled_from([(), (1, 3), (0, 1, 2, 3)]),
    label_divisor=st.sampled_from([1, 2, 3, 1000]),
    limit=st.sampled_from([0, 1, 8]),
    threshold=st.sampled_from([0.1, -1.0, 0.5]),
    kernel=st.sampled_from([1, 3, 7, 41]),
    top_k=st.sampled_from([1, 3, 70]),
)
def test_equals_reference_on_any_input_and_settings(
    scene, thing_ids, label_divisor, limit, threshold, kernel, top_k
) -> None:
    options = settings(
        thing_ids=thing_ids,
        label_divisor=label_divisor,
        stuff_area_limit=limit,
        center_threshold=threshold,
        nms_kernel=kernel,
        top_k=top_k,
    )
    assert_equals_reference(panoptic_segmentation(*scene, **options), scene, options)


@pytest.mark.parametrize(
    ("jit", "dynamic", "threshold"), [(False, True, 0.1), (False, False, 0.1), (True, False, 0.1), (True, False, -1.0)]
)
@given(scene=scenes(SHAPE))
def test_compiled_equals_reference(jit, dynamic, threshold, scene) -> None:
    result = compiled(jit, dynamic, threshold)(*(tf.constant(head) for head in scene))
    assert_equals_reference(result, scene, settings(center_threshold=threshold))


def test_dynamic_shapes_serve_images_of_any_size() -> None:
    for shape in ((1, 17, 12), (3, 1, 1), (1, 1, 23)):
        scene = smooth_scene(shape, seed=3, peaks=5)
        result = compiled(jit=False, dynamic=True)(*(tf.constant(head) for head in scene))
        assert_equals_reference(result, scene, settings())


@pytest.mark.parametrize("top_k", [7, 50])
def test_equals_reference_on_real_numbers(top_k) -> None:
    scene = smooth_scene((2, 33, 41), seed=top_k, peaks=20)
    options = settings(stuff_area_limit=60, nms_kernel=7, top_k=top_k)
    images = assert_equals_reference(panoptic_segmentation(*scene, **options), scene, options)
    assert all(len(image.rows) > 5 for image in images)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_half_precision_is_read_exactly(dtype) -> None:
    heads = [tf.cast(head, dtype) for head in smooth_scene(SHAPE, seed=1, peaks=6)]
    scene = Scene(*(tf.cast(head, tf.float32).numpy() for head in heads))
    assert_equals_reference(panoptic_segmentation(*heads, **settings()), scene, settings())


def things(height: int, width: int) -> Scene:
    """One image all of class 1, without centres, offsets 0."""
    logits = np.zeros((1, height, width, NUM_CLASSES), np.float32)
    logits[..., 1] = 1
    return Scene(logits, np.zeros((1, height, width, 1), np.float32), np.zeros((1, height, width, 2), np.float32))


def test_without_centers_things_are_void_and_stuff_stays() -> None:
    scene = things(4, 4)
    scene.logits[0, 2:, :, 2] = 5
    result = panoptic_segmentation(*scene, **settings())
    np.testing.assert_array_equal(result.panoptic[0, :, 0], [255000, 255000, 2000, 2000])
    assert not result.instances.valid.numpy().any()
    assert not result.instance.numpy().any()


def test_exactly_top_k_centers_are_kept() -> None:
    scene = things(1, 40)
    scene.heatmap[0, 0, ::4] = 0.5
    result = panoptic_segmentation(*scene, **settings(top_k=6))
    assert result.instances.valid.numpy().all()
    np.testing.assert_array_equal(result.instances.center[0, :, 1], [0, 4, 8, 12, 16, 20])


def test_bad_heatmap_values_hide_no_center() -> None:
    scene = things(3, 3)
    scene.heatmap[0, 1] = [[0.3], [NAN], [INF]]
    table = panoptic_segmentation(*scene, **settings()).instances
    np.testing.assert_array_equal(table.valid[0, :2], [True, False])
    np.testing.assert_array_equal(table.center[0, 0], [1, 0])


def test_bad_offsets_are_void_and_huge_ones_go_to_the_first_center() -> None:
    scene = things(1, 6)
    scene.heatmap[0, 0, [0, 5]] = [[0.3], [0.9]]
    scene.offset[0, 0, 1:4] = [[NAN, 0], [0, -INF], [3e38, -3e38]]
    result = panoptic_segmentation(*scene, **settings())
    np.testing.assert_array_equal(result.instance[0, 0], [2, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(result.panoptic[0, 0], [1002, 255000, 255000, 1001, 1001, 1001])


def test_center_without_pixels_leaves_an_invalid_row_and_takes_no_id() -> None:
    scene = things(1, 9)
    scene.logits[..., 0] = 2
    scene.heatmap[0, 0, [0, 4, 8]] = [[0.3], [0.9], [0.5]]
    scene.offset[0, 0, :5, 1] = -9
    scene.offset[0, 0, 5:, 1] = 9
    result = panoptic_segmentation(*scene, **settings(thing_ids=(0, 1, 3)))
    np.testing.assert_array_equal(result.instances.valid[0, :4], [False, True, True, False])
    np.testing.assert_array_equal(result.instances.panoptic_id[0, :4], [-1, 1, 2, -1])
    np.testing.assert_array_equal(result.instance[0, 0], [3] * 5 + [2] * 4)


@pytest.mark.parametrize("top_k", [3, 20])
def test_instances_beyond_the_divisor_are_void_and_never_another_class(top_k) -> None:
    scene = things(1, 12)
    scene.heatmap[0, 0, ::3] = 0.5
    result = panoptic_segmentation(*scene, **settings(label_divisor=3, top_k=top_k))
    np.testing.assert_array_equal(result.instances.valid[0, :3], [True, True, False])
    assert set(result.panoptic.numpy().flat) == {4, 5, 765}
    np.testing.assert_array_equal(result.instance[0, 0, -4:], [0] * 4)


def test_nan_scores_give_a_valid_class() -> None:
    scene = things(1, 3)
    scene.logits[0, 0] = [[NAN] * 4, [NAN, -INF, -1, -1], [INF, NAN, INF, 0]]
    np.testing.assert_array_equal(panoptic_segmentation(*scene, **settings()).semantic[0, 0], [0, 2, 0])


def every_tensor(graph: tf.Graph):
    for operation in graph.get_operations():
        # The arguments of an inner function are tensors of the outer one.
        if operation.type != "Placeholder":
            yield from operation.outputs
    for function in graph._functions.values():
        yield from every_tensor(function.graph)


@pytest.mark.parametrize("upsampled", [False, True])
def test_what_xla_compiles_is_static_and_no_tensor_grows_with_instances_times_pixels(upsampled) -> None:
    height, width, top_k = 513, 1025, 200
    size = (129, 257) if upsampled else (height, width)
    upsampling = Upsampling(height, width, height, width) if upsampled else None
    heads = [tf.zeros([1, *size, channels]) for channels in (NUM_CLASSES, 1, 2)]
    graphs = []

    @tf.function(jit_compile=True, autograph=False)
    def function(*heads: tf.Tensor) -> tf.Tensor:
        graphs.append(tf.compat.v1.get_default_graph())
        return panoptic_segmentation(*heads, **settings(top_k=top_k), upsampling=upsampling).panoptic

    function(*heads)
    tensors = list(every_tensor(graphs[0]))
    assert any("while" in tensor.op.type.lower() for tensor in tensors)
    assert not {"Where", "Bincount", "DenseBincount", "Unique"} & {tensor.op.type for tensor in tensors}
    assert all(tensor.shape.is_fully_defined() for tensor in tensors if tensor.dtype != tf.variant)
    largest = max((t for t in tensors if t.dtype != tf.variant), key=lambda tensor: tensor.shape.num_elements())
    # The logits, or planes with their margins.
    assert largest.shape.num_elements() <= NUM_CLASSES * (height + 6) * (width + 6), largest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nms_kernel": 4}, "nms_kernel: expected an odd size, got 4"),
        ({"nms_kernel": 0}, "nms_kernel: expected an integer of 1 or more, got 0"),
        ({"top_k": 0}, "top_k: expected"),
        ({"top_k": 2.5}, "top_k: expected an integer of 1 or more, got 2.5"),
        ({"label_divisor": None}, "label_divisor: expected an integer of 1 or more, got None"),
        ({"ignore_label": -1}, "ignore_label: expected"),
        ({"stuff_area_limit": -1}, "stuff_area_limit: expected"),
        ({"center_threshold": NAN}, "center_threshold: expected a number"),
        ({"thing_ids": (1, 4)}, "thing_ids: expected ids below the number of classes, 4, got 4"),
    ],
)
def test_bad_settings_are_named(change, message) -> None:
    with pytest.raises(UserError, match=message):
        panoptic_segmentation(*things(3, 3), **settings(**change))


def test_bad_shapes_are_named() -> None:
    scene = things(3, 5)
    with pytest.raises(UserError, match=r"center_heatmap: expected floating point of shape \(1, 3, 5, 1\)"):
        panoptic_segmentation(scene.logits, scene.heatmap[:, :2], scene.offset, **settings())
    with pytest.raises(UserError, match="center_offset: expected"):
        panoptic_segmentation(scene.logits, scene.heatmap, scene.heatmap, **settings())
    with pytest.raises(UserError, match="semantic_logits: expected"):
        panoptic_segmentation(scene.logits[0], scene.heatmap, scene.offset, **settings())
    unknown = tf.TensorSpec([1, 3, 5, None])
    function = tf.function(lambda logits: panoptic_segmentation(logits, *scene[1:], **settings()), autograph=False)
    with pytest.raises(UserError, match="semantic_logits: expected a static number of classes"):
        function.get_concrete_function(unknown)
