"""Post-processing from heads of lower resolution: the pixels of upsampling them first, in stripes of rows."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.postprocessing import (
    Heads,
    Upsampling,
    instance_segmentation,
    panoptic_segmentation,
    score_instances,
    score_instances_by_logits,
    semantic_segmentation,
    upsample_heads,
)

from .scenes import INF, NAN, NUM_CLASSES, settings, smooth_scene

# Old size, and the padded and the true size of the image.
SIZES = {
    "four times": ((1 + 17, 1 + 25), (69, 97), (69, 97)),
    "padding cut off": ((18, 26), (69, 97), (66, 90)),
    "an odd ratio": ((11, 13), (97, 71), (97, 71)),
    "smaller": ((40, 50), (33, 21), (33, 21)),
    "less than a stripe": ((3, 4), (9, 13), (8, 11)),
    "one row": ((1, 5), (1, 17), (1, 17)),
    "one pixel": ((2, 2), (1, 1), (1, 1)),
    "from one pixel": ((1, 1), (65, 40), (65, 40)),
}


def coarse_heads(size: tuple[int, int], bad: bool = False) -> Heads:
    scene = smooth_scene((2, *size), seed=size[0], peaks=max(1, size[0] * size[1] // 20))
    random = np.random.default_rng(1)
    logits = scene.logits + random.normal(size=scene.logits.shape).astype(np.float32) * 0.3
    # Every other value of few levels: the interpolated ones tie.
    logits[:, :, ::2] = np.round(logits[:, :, ::2])
    if bad:
        logits[random.uniform(size=logits.shape) < 0.02] = NAN
        logits[random.uniform(size=logits.shape) < 0.02] = INF
        scene.offset[random.uniform(size=scene.offset.shape) < 0.02] = NAN
    return Heads(*(tf.constant(head) for head in (logits, scene.heatmap, scene.offset)))


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_equals_upsampling_first_to_the_pixel(name: str, bad: bool) -> None:
    old, padded, true = SIZES[name]
    heads, upsampling = coarse_heads(old, bad), Upsampling(*padded, *true)
    whole = Heads(*(head[:, : true[0], : true[1]] for head in upsample_heads(heads, *padded)))
    expected = panoptic_segmentation(*whole, **settings())
    specs = Heads(*(tf.TensorSpec([None, None, None, channels]) for channels in (NUM_CLASSES, 1, 2)))
    dynamic = tf.function(
        lambda h, sizes: panoptic_segmentation(*h, **settings(), upsampling=Upsampling(*tf.unstack(sizes))),
        input_signature=[specs, tf.TensorSpec([4], tf.int32)],
    )
    for result in (
        panoptic_segmentation(*heads, **settings(), upsampling=upsampling),
        dynamic(heads, tf.constant([*padded, *true])),
    ):
        tf.nest.map_structure(np.testing.assert_array_equal, result, expected)
    assert min(true) < 20 or bad or expected.instances.valid.numpy().sum() > 3
    np.testing.assert_array_equal(semantic_segmentation(heads.semantic_logits, upsampling), expected.semantic)

    scores = score_instances_by_logits(expected, heads.semantic_logits, upsampling)
    np.testing.assert_array_equal(scores, score_instances(expected, tf.nn.softmax(whole.semantic_logits)))
    np.testing.assert_array_equal(scores, score_instances_by_logits(expected, whole.semantic_logits))


def test_compiled_differs_at_most_where_rounding_decides() -> None:
    # Above one stripe, and not a multiple of it.
    heads, upsampling = coarse_heads((33, 41)), Upsampling(129, 161, 129, 161)
    expected = panoptic_segmentation(*heads, **settings(), upsampling=upsampling)
    compiled = tf.function(lambda *h: panoptic_segmentation(*h, **settings(), upsampling=upsampling), jit_compile=True)(
        *heads
    )
    for name in ("semantic", "instance", "panoptic"):
        same = np.mean(getattr(compiled, name).numpy() == getattr(expected, name).numpy())
        # Fused products and sums round otherwise; in real logits ties are rarer than in these.
        assert same >= 0.99, name
    scores = tf.function(lambda h: score_instances_by_logits(expected, h, upsampling), jit_compile=True)(
        heads.semantic_logits
    )
    np.testing.assert_allclose(
        scores, score_instances_by_logits(expected, heads.semantic_logits, upsampling), rtol=1e-4, atol=1e-7
    )


def test_half_precision_heads_are_upsampled_in_single() -> None:
    heads = Heads(*(tf.cast(head, tf.bfloat16) for head in coarse_heads((18, 26))))
    expected = panoptic_segmentation(*upsample_heads(heads, 69, 97), **settings())
    result = panoptic_segmentation(*heads, **settings(), upsampling=Upsampling(69, 97, 69, 97))
    tf.nest.map_structure(np.testing.assert_array_equal, result, expected)


def operations(graph: tf.Graph) -> set[str]:
    found = {operation.type for operation in graph.get_operations()}
    for function in graph._functions.values():
        found |= operations(function.graph)
    return found


def count_pixels_written(function: tf.types.experimental.PolymorphicFunction, *heads: tf.Tensor) -> int:
    """Elements of all tensors of the pixels' size or more in the graph of a function."""
    graph = function.get_concrete_function(*heads).graph
    sizes = (tensor.shape.num_elements() or 0 for op in graph.get_operations() for tensor in op.outputs)
    return sum(size for size in sizes if size >= 69 * 97)


def test_parts_alone_cost_only_what_they_need() -> None:
    heads, upsampling = coarse_heads((18, 26)), Upsampling(69, 97, 69, 97)
    panoptic = panoptic_segmentation(*heads, **settings(), upsampling=upsampling)
    options = {k: v for k, v in settings().items() if k not in ("ignore_label", "stuff_area_limit")}
    result = instance_segmentation(*heads, **options, upsampling=upsampling)
    for name in result._fields:
        tf.nest.map_structure(np.testing.assert_array_equal, getattr(result, name), getattr(panoptic, name))

    @tf.function(autograph=False)
    def whole(*h: tf.Tensor):
        return panoptic_segmentation(*h, **settings(), upsampling=upsampling)

    @tf.function(autograph=False)
    def things(*h: tf.Tensor):
        return instance_segmentation(*h, **options, upsampling=upsampling)

    @tf.function(autograph=False)
    def classes(logits: tf.Tensor):
        return semantic_segmentation(logits, upsampling)

    assert count_pixels_written(things, *heads) < count_pixels_written(whole, *heads)
    # Neither centres nor groups: nothing but the stripes of logits, put together.
    kinds = operations(classes.get_concrete_function(heads.semantic_logits).graph)
    assert not kinds & {"ResizeBilinear", "UnsortedSegmentSum", "ScatterNd", "Where"}
    assert count_pixels_written(classes, heads.semantic_logits) <= 2 * 4 * 96 * 97 * 2
