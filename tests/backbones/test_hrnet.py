"""HRNet against the counts of the published network, and a narrow one against a slow reference."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.backbones.hrnet import WIDER, Architecture, hrnet
from deeplab2_lite.config import (
    AsppConfig,
    BackboneConfig,
    BranchConfig,
    DecoderConfig,
    ExperimentConfig,
    ModelConfig,
    TrainConfig,
)
from deeplab2_lite.config_validation import skip_strides_of
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model

from .hrnet_reference import Reference, stretch

PLUS = {
    "decoder": DecoderConfig(skip_strides=(16, 8, 4)),
    "semantic": BranchConfig(projection_channels=(96, 64, 32)),
    "instance": BranchConfig(256, 128, 32, (48, 32, 16)),
}
PLAIN = {
    "decoder": DecoderConfig(skip_strides=()),
    "semantic": BranchConfig(decoder_channels=720, projection_channels=()),
    "instance": BranchConfig(decoder_channels=720, head_channels=32, projection_channels=()),
}
NARROW = Architecture(
    widths=(4, 6, 8, 10), modules=(1, 1, 1), units=1, stem_width=4, head_widths=(2, 3, 4, 5), head_channels=12
)

NARROW_WIDER = NARROW._replace(unit=WIDER.unit)
NAMES = [name for name in BACKBONES if name.startswith("hrnet")]


def experiment(name: str, output_stride: int, **options) -> ExperimentConfig:
    parts = PLAIN if name == "hrnet_w48" else PLUS
    return ExperimentConfig(model=ModelConfig(backbone=BackboneConfig(name, output_stride), **{**parts, **options}))


@pytest.fixture
def narrow_backbones(monkeypatch):
    """Makes `build_model` build narrow networks, all else as it is."""
    backbones = {
        "hrnet_w48": functools.partial(hrnet, architecture=NARROW, keep_head=False),
        "hrnet_w48_plus": functools.partial(hrnet, architecture=NARROW),
        "hrnet_wider_plus": functools.partial(hrnet, architecture=NARROW_WIDER),
    }
    monkeypatch.setattr("deeplab2_lite.model.BACKBONES", backbones)


NARROW_PARTS = {
    "hrnet_w48": {
        "semantic": BranchConfig(decoder_channels=8, head_channels=8, projection_channels=()),
        "instance": BranchConfig(decoder_channels=6, head_channels=4, projection_channels=()),
    },
    "hrnet_w48_plus": {"semantic": BranchConfig(8, 8, 8, (6, 4, 2)), "instance": BranchConfig(8, 6, 4, (3, 2, 1))},
}
NARROW_PARTS["hrnet_wider_plus"] = NARROW_PARTS["hrnet_w48_plus"]


def narrow_experiment(name: str, output_stride: int = 32) -> ExperimentConfig:
    return experiment(name, output_stride, **NARROW_PARTS[name])


@functools.cache
def _build(output_stride: int, keep_head: bool, architecture: Architecture) -> keras.Model:
    images = keras.Input((None, None, 3))
    config = BackboneConfig("hrnet_w48_plus", output_stride)
    features = hrnet(images, config, LayerSettings(seed=1), architecture, keep_head)
    return keras.Model(images, {"output": features.output, **{str(k): v for k, v in features.skips.items()}})


def build(output_stride=32, keep_head=True, architecture=NARROW) -> keras.Model:
    return _build(output_stride, keep_head, architecture)


def vary_weights(model: keras.Model) -> None:
    """Sets every weight and statistic to another value than at first, the same for equal names and shapes."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        shape = variable.shape
        if len(shape) == 4:
            fan_in = int(np.prod(shape[:2] if "depthwise" in variable.name else shape[:3]))
            variable.assign(rng.normal(0, np.sqrt(2 / fan_in), shape))
        else:
            about = 1.0 if variable.name.endswith(("gamma:0", "moving_variance:0")) else 0.0
            variable.assign(about + rng.uniform(-0.4, 0.4, shape))


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32)


def count(variables) -> int:
    return sum(int(np.prod(v.shape)) for v in variables)


def conv_macs(model: keras.Model) -> int:
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            total += int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel_size))
        elif isinstance(layer, keras.layers.Conv2D):
            total += int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel.shape[:3]))
    return total


# ---- Counts ----

# Parameters of the backbone, of the whole network, and multiply-adds of its convolutions. No outside source
# tells those of Wider+; 65,325,120 is the published segmentation network, 65,859,379 with 19 classes, less
# its 1x1 convolution of 720 and its logits.
W48_BACKBONE = 77_469_864 - 2_049_000
W48_BODY = 65_859_379 - (720 * 720 + 720 + 2 * 720) - (720 + 1) * 19


@pytest.mark.parametrize(
    ("name", "output_stride", "kernel", "backbone", "total", "macs"),
    [
        # The crop of 1025 pixels is 33 and 65 feature pixels.
        ("hrnet_w48_plus", 32, (33, 33), W48_BACKBONE, 82_009_924, 1_722e9),
        pytest.param("hrnet_w48_plus_atrous", 16, (65, 65), W48_BACKBONE, 82_009_924, 2_412e9, marks=pytest.mark.slow),
        pytest.param("hrnet_w48", 32, None, W48_BODY, 66_666_644, 1_912.8e9, marks=pytest.mark.slow),
        pytest.param("hrnet_wider_plus", 32, (33, 33), 59_166_272, 65_755_332, 1_630.8e9, marks=pytest.mark.slow),
        pytest.param(
            "hrnet_wider_plus_atrous", 16, (65, 65), 59_166_272, 65_755_332, 2_023.1e9, marks=pytest.mark.slow
        ),
    ],
)
def test_counts_of_table_5(name, output_stride, kernel, backbone, total, macs):
    model = build_model(experiment(name, output_stride, aspp=AsppConfig(pooling_kernel=kernel)), 65, (2161, 2161))
    names = [v.name for v in model.variables]
    assert len(names) == len(set(names))
    assert all(n.startswith(("backbone/", "semantic/", "instance/")) for n in names)
    assert count(v for v in model.trainable_variables if v.name.startswith("backbone/")) == backbone
    assert count(model.trainable_variables) == total
    assert abs(conv_macs(model) / macs - 1) < 3e-4
    assert {k: v[1:] for k, v in model.output_shape.items()} == {
        "semantic_logits": (541, 541, 65),
        "center_heatmap": (541, 541, 1),
        "center_offset": (541, 541, 2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_backbone_gives_the_skips_that_configurations_are_checked_against(name):
    images = keras.Input((65, 97, 3))
    config = BackboneConfig(name, 8 if name.startswith("auto_deeplab") else 16)
    features = BACKBONES[name](images, config, LayerSettings())
    # Of the decoder of the paper, and a further 2.
    assert sorted(features.skips, reverse=True) == [*skip_strides_of(name), *([2] if skip_strides_of(name) else [])]
    for stride, skip in features.skips.items():
        assert skip.shape[1:3] == (-(-65 // stride), -(-97 // stride))


# ---- Values ----


@pytest.mark.parametrize("size", [(65, 33), (40, 51)])
def test_values_equal_the_slow_reference(size):
    for keep_head in (True, False):
        model = build(keep_head=keep_head, architecture=NARROW._replace(modules=(1, 2, 1)))
        vary_weights(model)
        reference = Reference(model)
        branches = reference.branches(image(*size).astype(np.float64))
        if keep_head:
            expected = reference.head(branches)
        else:
            whole = [branches[0], *(stretch(x, branches[0].shape[1:3]) for x in branches[1:])]
            expected = {"output": np.concatenate(whole, axis=-1)}
        assert reference.used == set(reference.weights)
        actual = model(image(*size))
        assert set(actual) == set(expected)
        for key, value in expected.items():
            assert np.abs(value).max() > 0.01
            np.testing.assert_allclose(actual[key], value, rtol=1e-3, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("architecture", [NARROW, NARROW_WIDER], ids=["basic", "separable"])
@pytest.mark.parametrize("size", [(97, 65), (54, 75)])
def test_dense_branches_contain_those_of_the_strided_network(architecture, size):
    """Up to the first exchange: into finer branches a strided one goes interpolated, a dense one as it is."""
    models = {stride: build(stride, architecture=architecture) for stride in (8, 16, 32)}
    named = [[(v.name, v.shape) for v in model.variables] for model in models.values()]
    assert named[0] == named[1] == named[2]
    for model in models.values():
        vary_weights(model)

    def exchanged(model: keras.Model) -> dict[tuple[int, int], np.ndarray]:
        """Outputs of each stage's first exchange, by stage and branch."""
        places = [(stage, number) for stage in (2, 3, 4) for number in range(1, stage + 1)]
        layers = [model.get_layer(f"backbone/stage{s}/module1/exchange/branch{n}/relu") for s, n in places]
        values = keras.Model(model.input, [layer.output for layer in layers])(image(*size))
        return dict(zip(places, (v.numpy() for v in values), strict=True))

    found = {stride: exchanged(model) for stride, model in models.items()}
    # The exchange into the coarsest branch takes nothing from coarser ones.
    for stage, number, strided, dense in ((4, 4, 32, 16), (3, 3, 32, 8), (3, 3, 16, 8)):
        expected, actual = (found[stride][stage, number] for stride in (strided, dense))
        assert expected.shape[1:3] == tuple(-(-n // 2 ** (number + 1)) for n in size)
        assert actual.shape[1:3] == tuple(-(-n // dense) for n in size)
        np.testing.assert_allclose(actual[:, ::2, ::2], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    # What comes before is the same.
    for number in (1, 2, 3):
        np.testing.assert_array_equal(found[16][3, number], found[32][3, number])
    np.testing.assert_array_equal(found[8][2, 2], found[32][2, 2])


def test_atrous_strides_and_rates():
    places = {}
    for stride in (8, 16, 32):
        model = build(stride)
        places[stride] = {
            layer.name.removeprefix("backbone/").removesuffix("/conv"): (layer.strides[0], layer.dilation_rate[0])
            for layer in model.layers
            if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)
        }
    last, third = "stage4/module1/branch4/unit1/conv1", "stage4/module1/branch3/unit1/conv2"
    down, up = "stage4/module1/exchange/branch4/from2/down2", "stage4/module1/exchange/branch3/from1/down2"
    transitions = ("stage4/transition/branch4", "stage3/transition/branch3")
    of_head = ("head/branch4/conv2", "head/branch3/conv2", "head/down3", "head/down2", "head/down1")
    layers = (last, third, down, up, *transitions, *of_head)
    assert [places[32][layer] for layer in layers] == [
        *[(1, 1), (1, 1), (2, 1), (2, 1)],
        *[(2, 1), (2, 1)],
        *[(1, 1), (1, 1), (2, 1), (2, 1), (2, 1)],
    ]
    assert [places[16][layer] for layer in layers] == [
        *[(1, 2), (1, 1), (1, 1), (2, 1)],
        *[(1, 1), (2, 1)],
        *[(1, 2), (1, 1), (1, 1), (2, 1), (2, 1)],
    ]
    assert [places[8][layer] for layer in layers] == [
        *[(1, 4), (1, 2), (1, 2), (1, 1)],
        *[(1, 2), (1, 1)],
        *[(1, 4), (1, 2), (1, 2), (1, 1), (2, 1)],
    ]


# ---- Shapes, training, types, files ----


@pytest.mark.parametrize("size", [(33, 33), (34, 50), (64, 96), (129, 131), (513, 1025)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_shapes(size, output_stride):
    def at(stride: int, channels: int):
        return (2, *(-(-n // stride) for n in size), channels)

    outputs = build(output_stride)(image(*size))
    assert {k: tuple(v.shape) for k, v in outputs.items()} == {
        "output": at(output_stride, 12),
        "2": at(2, 4),
        "4": at(4, 8),
        "8": at(8, 12),
        "16": at(min(16, output_stride), 16),
    }
    if output_stride == 32:
        assert build(keep_head=False)(image(*size))["output"].shape == at(4, 28)


@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize("name", list(NARROW_PARTS))
def test_any_size_gives_outputs_at_stride_4(name):
    model = build_model(narrow_experiment(name, 16), 5)
    for size in ((33, 33), (35, 50)):
        outputs = model(image(*size))
        shape = (2, *(-(-n // 4) for n in size))
        assert {k: tuple(v.shape) for k, v in outputs.items()} == {
            "semantic_logits": (*shape, 5),
            "center_heatmap": (*shape, 1),
            "center_offset": (*shape, 2),
        }
        assert all(np.isfinite(v).all() for v in outputs.values())


def gradients_of(model: keras.Model, images: np.ndarray) -> list:
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_mean((v - 1.0) ** 2) for v in model(images, training=True).values())
    return tape.gradient(loss, model.trainable_variables)


@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize("name", list(NARROW_PARTS))
def test_training_reaches_every_weight(name):
    model = build_model(narrow_experiment(name), 5)
    vary_weights(model)
    for variable, gradient in zip(model.trainable_variables, gradients_of(model, image(65, 65)), strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), variable.name
        # Normalization takes a bias away again.
        assert np.any(gradient) or variable.name.endswith("/bias:0"), variable.name


@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("hrnet_w48", marks=pytest.mark.slow),
        pytest.param("hrnet_w48_plus", marks=pytest.mark.slow),
        "hrnet_wider_plus",
    ],
)
def test_bfloat16(name):
    full = narrow_experiment(name)
    low = ExperimentConfig(model=full.model, train=TrainConfig(precision="bfloat16"))
    low, full = build_model(low, 5), build_model(full, 5)
    assert low.get_layer("backbone/stage1/unit1/conv1/conv").compute_dtype == "bfloat16"
    outputs, expected = low(image(65, 65)), full(image(65, 65))
    for key, value in outputs.items():
        assert value.dtype == tf.float32
        assert np.abs(value - expected[key]).max() < 0.08 * np.abs(expected[key]).max()
    assert all(np.isfinite(g).all() for g in gradients_of(low, image(65, 65)))


@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize(
    "name",
    [
        "hrnet_w48",
        pytest.param("hrnet_w48_plus", marks=pytest.mark.slow),
        pytest.param("hrnet_wider_plus", marks=pytest.mark.slow),
    ],
)
def test_keras_file(name, tmp_path):
    model = build_model(narrow_experiment(name), 5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [v.name for v in loaded.variables] == [v.name for v in model.variables]
    outputs = loaded(image(33, 35))
    for key, value in model(image(33, 35)).items():
        np.testing.assert_allclose(outputs[key], value, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize("name", ["hrnet_w48", "hrnet_w48_plus"])
def test_saved_model(name, tmp_path):
    model = build_model(narrow_experiment(name), 5)
    model.export(tmp_path / "saved_model")
    exported = tf.saved_model.load(str(tmp_path / "saved_model"))
    outputs = exported.serve(image(33, 35))
    for key, value in model(image(33, 35)).items():
        np.testing.assert_allclose(outputs[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("narrow_backbones")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("hrnet_w48", marks=pytest.mark.slow),
        "hrnet_w48_plus",
        pytest.param("hrnet_wider_plus", marks=pytest.mark.slow),
    ],
)
def test_equal_weights_whatever_was_built_before(name):
    one = build_model(narrow_experiment(name), 5)
    keras.layers.Conv2D(3, 1)(tf.zeros((1, 1, 1, 1)))
    other = build_model(narrow_experiment(name), 5)
    assert [v.name for v in one.variables] == [v.name for v in other.variables]
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("narrow_backbones")
def test_plain_network_fuses_all_resolutions_once_a_branch():
    model = build_model(narrow_experiment("hrnet_w48"), 5)
    assert not [layer.name for layer in model.layers if "aspp" in layer.name or "decoder" in layer.name]
    kernels = {v.name: v.shape for v in model.variables if "fusion" in v.name and "kernel" in v.name}
    assert kernels == {
        "semantic/fusion/conv/kernel:0": (1, 1, 28, 8),
        "instance/fusion/conv/kernel:0": (1, 1, 28, 6),
    }
    single = narrow_experiment("hrnet_w48").model
    single = ModelConfig(
        backbone=single.backbone,
        decoder=single.decoder,
        semantic=single.semantic,
        instance=single.instance,
        dual_aspp=False,
        dual_decoder=False,
    )
    model = build_model(ExperimentConfig(model=single), 5)
    assert [v.name for v in model.variables if "fusion" in v.name and "kernel" in v.name] == [
        "semantic/fusion/conv/kernel:0"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_whole_width_gradient_and_bfloat16(name):
    config = experiment(name, 16 if name.endswith("atrous") else 32)
    model = build_model(ExperimentConfig(model=config.model, train=TrainConfig(precision="bfloat16")), 5)
    assert all(np.isfinite(v).all() for v in model(image(33, 33)).values())
    assert all(np.isfinite(g).all() for g in gradients_of(model, image(33, 33)))
