"""Values that have no counterpart are carried over exactly, and what does not fit is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.pretrained.keras_applications import KERAS
from deeplab2_lite.pretrained.pytorch import PYTORCH
from deeplab2_lite.pretrained.report import ImportReport
from deeplab2_lite.pretrained.translation import SourceLayer, Translation, translate

RANDOM = np.random.default_rng(0)
SHAPES = {
    "backbone/stem/conv/kernel": (3, 3, 3, 5),
    "backbone/stem/bn/gamma": (5,),
    "backbone/stem/bn/beta": (5,),
    "backbone/stem/bn/moving_mean": (5,),
    "backbone/stem/bn/moving_variance": (5,),
    "semantic/head/logits/conv/kernel": (1, 1, 5, 4),
    "semantic/head/logits/conv/bias": (4,),
    "instance/decoder/os8/project/conv/kernel": (1, 1, 5, 2),
}
LAYERS = {"backbone/stem": SourceLayer("stem", "stem_bn"), "semantic/head/logits": SourceLayer("last")}


def variables():
    return {
        "stem/kernel": RANDOM.normal(size=(3, 3, 3, 5)),
        "stem/bias": RANDOM.normal(size=5),
        "stem_bn/gamma": RANDOM.uniform(0.5, 2, 5),
        "stem_bn/beta": RANDOM.normal(size=5),
        "stem_bn/moving_mean": RANDOM.normal(size=5),
        "stem_bn/moving_variance": RANDOM.uniform(0, 1e-3, 5),
        "last/kernel": RANDOM.normal(size=(1, 1, 5, 4)),
        "last/bias": RANDOM.normal(size=4),
        "predictions/kernel": RANDOM.normal(size=(5, 9)),
    }


def run(source, layers=LAYERS, dialect=KERAS, theirs=1e-5, ours=1e-3, shapes=SHAPES, **options):
    return translate(shapes, source, Translation(dialect, layers.get, theirs), ours, "weights.h5", **options)


def test_bias_and_epsilon_go_into_the_normalization():
    source = variables()
    weights, report = run(source)
    x = RANDOM.normal(size=(50, 5))
    normalized = (x + source["stem/bias"] - source["stem_bn/moving_mean"]) / np.sqrt(
        source["stem_bn/moving_variance"] + 1e-5
    )
    expected = normalized * source["stem_bn/gamma"] + source["stem_bn/beta"]
    gamma, beta, mean, variance = (
        weights[f"backbone/stem/bn/{n}"] for n in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    np.testing.assert_allclose((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, expected, rtol=1e-5, atol=1e-5)
    # The statistics themselves stay what they were.
    np.testing.assert_array_equal(variance, source["stem_bn/moving_variance"].astype(np.float32))
    assert all(value.dtype == np.float32 for value in weights.values())
    assert report == ImportReport(
        tuple(SHAPES)[:-1], ("instance/decoder/os8/project/conv/kernel",), ("predictions/kernel",)
    )


def test_an_equal_epsilon_changes_nothing():
    source = variables()
    weights, _ = run(source, theirs=1e-3)
    np.testing.assert_array_equal(weights["backbone/stem/bn/gamma"], source["stem_bn/gamma"].astype(np.float32))


def test_a_bias_that_we_have_too_stays_a_bias():
    source = variables()
    weights, _ = run(source, shapes={**SHAPES, "backbone/stem/conv/bias": (5,)})
    np.testing.assert_array_equal(weights["backbone/stem/conv/bias"], source["stem/bias"].astype(np.float32))
    mean = source["stem_bn/moving_mean"].astype(np.float32)
    np.testing.assert_array_equal(weights["backbone/stem/bn/moving_mean"], mean)


def test_colours_in_another_order():
    source = variables()
    weights, _ = run(source, layers={**LAYERS, "backbone/stem": SourceLayer("stem", "stem_bn", reverse_input=True)})
    image = RANDOM.normal(size=(1, 6, 6, 3)).astype(np.float32)
    expected = tf.nn.conv2d(image[..., ::-1], source["stem/kernel"].astype(np.float32), 1, "SAME")
    actual = tf.nn.conv2d(image, weights["backbone/stem/conv/kernel"], 1, "SAME")
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_kernels_with_channels_first():
    source = {"a.weight": RANDOM.normal(size=(7, 3, 2, 5)), "b.weight": RANDOM.normal(size=(4, 1, 3, 2))}
    shapes = {"backbone/a/conv/kernel": (2, 5, 3, 7), "backbone/b/conv/depthwise_kernel": (3, 2, 4, 1)}
    layers = {"backbone/a": SourceLayer("a"), "backbone/b": SourceLayer("b")}
    weights, _ = run(source, layers, PYTORCH, shapes=shapes)
    for h, w, i, o in ((0, 0, 0, 0), (1, 4, 2, 6), (0, 3, 1, 5)):
        assert weights["backbone/a/conv/kernel"][h, w, i, o] == np.float32(source["a.weight"][o, i, h, w])
    for h, w, c in ((0, 0, 0), (2, 1, 3), (1, 0, 2)):
        assert weights["backbone/b/conv/depthwise_kernel"][h, w, c, 0] == np.float32(source["b.weight"][c, 0, h, w])


def test_fresh_logits_are_left_out():
    source = variables()
    weights, report = run(source, fresh_logits=True)
    assert not any(name.startswith("semantic/head/logits") for name in weights)
    assert report.skipped == tuple(n for n in SHAPES if n.split("/")[0] in ("semantic", "instance"))
    assert set(report.left_over) == {"last/kernel", "last/bias", "predictions/kernel"}
    # Also where they would not fit.
    run({**source, "last/kernel": np.zeros((1, 1, 5, 9))}, fresh_logits=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stem/kernel": None},
            "weights.h5: no 'stem/kernel', which 'backbone/stem/conv/kernel' needs; the weights are of another network",
        ),
        (
            {"stem_bn/beta": None},
            "weights.h5: no 'stem_bn/beta', which 'backbone/stem/bn/beta' needs; the weights are of another network",
        ),
        (
            {"stem/kernel": np.zeros((3, 3, 3, 6))},
            "weights.h5: 'stem/kernel' has shape [3, 3, 3, 6], expected [3, 3, 3, 5] for 'backbone/stem/conv/kernel'; "
            "a hint",
        ),
        (
            {"stem/bias": np.zeros(1)},
            "weights.h5: 'stem/bias' has shape [1], expected [5] as 'stem_bn/moving_mean'",
        ),
        (
            {"stem_bn/moving_variance": np.zeros(())},
            "weights.h5: 'stem_bn/moving_variance' has shape [], expected [5] as 'stem_bn/gamma'",
        ),
        (
            {"last/kernel": np.zeros((1, 1, 5, 19))},
            "weights.h5: 'last/kernel' has shape [1, 1, 5, 19], expected [1, 1, 5, 4] for "
            "'semantic/head/logits/conv/kernel'; --fresh_logits leaves it as it is",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    source = {name: value for name, value in {**variables(), **change}.items() if value is not None}
    with pytest.raises(UserError) as caught:
        run(source, hint="; a hint")
    assert str(caught.value) == message


def test_the_table_counts_by_part():
    loaded = ("backbone/a/conv/kernel", "backbone/b/conv/kernel", "semantic/aspp/a/conv/kernel")
    skipped = ("semantic/head/logits/conv/kernel", "semantic/head/logits/conv/bias")
    lines = ImportReport(loaded, skipped, tuple(f"name{i}" for i in range(20))).table().splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["part", "loaded", "skipped"],
        ["backbone", "2", "0"],
        ["semantic/aspp", "1", "0"],
        ["semantic/head", "0", "2"],
        ["total", "3", "2"],
    ]
    assert lines[5] == "keep their initial values (2): " + ", ".join(skipped)
    assert lines[6].startswith("left over in the source (20): name0, name1,") and lines[6].endswith("name7, ...")
    assert ImportReport(loaded, (), ()).table().splitlines()[-1] == "left over in the source (0): nothing"
