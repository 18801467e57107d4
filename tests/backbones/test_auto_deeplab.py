import re
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.auto_deeplab import auto_deeplab
from deeplab2_lite.config import (
    AsppConfig,
    BackboneConfig,
    BranchConfig,
    DecoderConfig,
    ExperimentConfig,
    ModelConfig,
)
from deeplab2_lite.errors import UserError
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model

CONFIG = BackboneConfig(name="auto_deeplab_l_plus", output_stride=8)
# Narrow enough to run at once, and a width that the 64 channels of the stem do not have.
TINY = 4


def build(filters: int = TINY, policy: str = "float32") -> keras.Model:
    images = keras.Input((None, None, 3), name="images")
    features = auto_deeplab(images, CONFIG, LayerSettings(seed=1, policy=policy), filters=filters)
    return keras.Model(images, {"output": features.output, **{str(k): v for k, v in features.skips.items()}})


@pytest.fixture(scope="module")
def tiny() -> keras.Model:
    """Shared by tests that leave its weights alone."""
    return build()


@pytest.fixture(scope="module")
def low(tiny) -> keras.Model:
    """The same in bfloat16, built where Keras would by itself take other names and seeds."""
    keras.layers.Conv2D(3, 1)(tf.zeros((1, 1, 1, 1)))
    keras.utils.set_random_seed(5)
    return build(policy="mixed_bfloat16")


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (*shape, 3)).astype(np.float32)


# ---- The paper's figures ----


def experiment(name: str, skip_strides: tuple[int, ...] = (8, 4), output_stride: int = 8) -> ExperimentConfig:
    """A row of Table 5: both branches of the final model, pooling over what the training crop has at stride 8."""
    count = len(skip_strides)
    return ExperimentConfig(
        model=ModelConfig(
            backbone=BackboneConfig(name=name, output_stride=output_stride),
            aspp=AsppConfig(pooling_kernel=(129, 129)),
            decoder=DecoderConfig(skip_strides=skip_strides),
            semantic=BranchConfig(256, 256, 256, (64, 32)[-count:]),
            instance=BranchConfig(256, 128, 32, (32, 16)[-count:]),
        )
    )


def conv_macs(model: keras.Model) -> int:
    total = 0
    for layer in model.layers:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        if depthwise or isinstance(layer, keras.layers.Conv2D):
            inputs = 1 if depthwise else layer.input_shape[-1]
            total += int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel_size)) * inputs
    return total


@pytest.mark.parametrize(
    ("name", "skip_strides", "parameters", "macs"),
    [
        ("auto_deeplab_l_plus", (8, 4), 41_539_220, 1_326_293e6),
        pytest.param("auto_deeplab_xl_plus", (4,), 71_980_148, 2_154_927e6, marks=pytest.mark.slow),
        pytest.param("auto_deeplab_xl_plus_plus", (8, 4), 72_156_948, 2_163_548e6, marks=pytest.mark.slow),
    ],
)
def test_table_5(name, skip_strides, parameters, macs):
    start = time.process_time()
    model = build_model(experiment(name, skip_strides), 65, (2161, 2161))
    assert time.process_time() - start < 60
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == parameters
    # The table gives millions of multiply-adds.
    assert abs(conv_macs(model) - macs) < 0.6e6
    assert {k: v[1:] for k, v in model.output_shape.items()} == {
        "semantic_logits": (541, 541, 65),
        "center_heatmap": (541, 541, 1),
        "center_offset": (541, 541, 2),
    }
    atrous = [layer for layer in model.layers if re.search(r"aspp/atrous\d/depthwise/conv", layer.name)]
    assert sorted(layer.dilation_rate[0] for layer in atrous) == [12, 12, 24, 24, 36, 36]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (experiment("auto_deeplab_l_plus", output_stride=16), "model.backbone.output_stride: .*; expected 8, got 16"),
        (
            experiment("auto_deeplab_xl_plus", (8, 4)),
            r"model.decoder.skip_strides: auto_deeplab_xl_plus .*; expected \[4\], or one .* a further 2, got \[8, 4\]",
        ),
    ],
)
def test_what_the_network_has_not_is_refused(config, message):
    with pytest.raises(UserError, match=message) as error:
        build_model(config, 5)
    assert "\n" not in str(error.value)


# ---- Values, against the cell as it is written down ----

CELL = """
h2 = atrous5(h1) + sep3(h0)
h3 = sep3(h1) + atrous3(h0)
h4 = sep3(h3) + sep3(h1)
h5 = sep5(h4) + sep5(h2)
h6 = sep5(h3) + atrous5(h5)
"""
LEVELS = (0, 0, 0, 1, 2, 1, 2, 2, 3, 3, 2, 1)
PLUS_STRIDES = (4, 8, 16, 16)


class Reference:
    """Auto-DeepLab+ in plain operations on the weights of a model, by their names."""

    def __init__(self, model: keras.Model) -> None:
        self.weights = {v.name: tf.constant(v) for v in model.variables}
        self.used: set[str] = set()

    def weight(self, name: str) -> tf.Tensor:
        self.used.add(name)
        return self.weights[name]

    def conv(self, x: tf.Tensor, name: str, stride: int = 1, rate: int = 1) -> tf.Tensor:
        kernel = self.weight(f"{name}/conv/kernel:0")
        pad = rate * (kernel.shape[0] - 1) // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        x = tf.nn.conv2d(x, kernel, stride, "VALID", dilations=rate)
        mean, variance = self.weight(f"{name}/bn/moving_mean:0"), self.weight(f"{name}/bn/moving_variance:0")
        return (x - mean) / tf.sqrt(variance + 1e-3) * self.weight(f"{name}/bn/gamma:0") + self.weight(
            f"{name}/bn/beta:0"
        )

    def depthwise(self, x: tf.Tensor, name: str, stride: int) -> tf.Tensor:
        kernel = self.weight(f"{name}/conv/depthwise_kernel:0")
        pad = (kernel.shape[0] - 1) // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "VALID")

    def separable(self, x: tf.Tensor, name: str, stride: int) -> tf.Tensor:
        x = self.conv(self.depthwise(tf.nn.relu(x), f"{name}/depthwise1", stride), f"{name}/pointwise1")
        return self.conv(self.depthwise(tf.nn.relu(x), f"{name}/depthwise2", 1), f"{name}/pointwise2")

    def atrous(self, x: tf.Tensor, name: str, stride: int) -> tf.Tensor:
        x = tf.nn.relu(x)
        if stride == 1:
            return self.conv(x, name, rate=2)
        return self.conv(resize(x, [-(-n // 2) for n in x.shape[1:3]]), name)

    def cell(self, last: tf.Tensor, before: tf.Tensor, name: str, width: int, stride: int) -> tf.Tensor:
        before = resize(before, last.shape[1:3])
        states = [self.conv(tf.nn.relu(last), f"{name}/state0")]
        states.append(before if before.shape[-1] == width else self.conv(tf.nn.relu(before), f"{name}/state1"))
        for state, line in enumerate(CELL.strip().splitlines(), start=2):
            total = 0.0
            for kind, kernel, source in re.findall(r"(sep|atrous)(\d)\(h(\d)\)", line):
                operation, long = (self.separable, "separable") if kind == "sep" else (self.atrous, "atrous")
                place = f"{name}/state{state}/{long}_of_state{source}"
                probe = f"{place}/depthwise1/conv/depthwise_kernel:0" if kind == "sep" else f"{place}/conv/kernel:0"
                assert self.weights[probe].shape[0] == int(kernel)
                total += operation(states[int(source)], place, stride if int(source) < 2 else 1)
            states.append(total)
        return tf.concat(states[2:], -1)

    def __call__(self, images: np.ndarray, filters: int) -> dict[str, tf.Tensor]:
        size = images.shape[1:3]
        x = tf.nn.relu(self.conv(tf.constant(images) / 127.5 - 1, "backbone/stem1", stride=2))
        before = halved = self.conv(x, "backbone/stem2")
        last = self.conv(tf.nn.relu(before), "backbone/stem3", stride=2)
        outputs: list[tf.Tensor] = []
        stride = 4
        for index, level in enumerate(LEVELS):
            target = PLUS_STRIDES[level]
            enlarged = resize(last, [-(-n // target) for n in size]) if target < stride else last
            output = self.cell(
                enlarged, before, f"backbone/cell{index}", filters * 2**level, 2 if target > stride else 1
            )
            before, last, stride = last, output, target
            outputs.append(output)
        return {"2": halved, "4": outputs[2], "8": outputs[5], "output": tf.nn.relu(outputs[11])}


def resize(x: tf.Tensor, size: list[int]) -> tf.Tensor:
    return tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)


def with_drawn_weights(model: keras.Model) -> keras.Model:
    """Makes normalizations count: all of their weights and statistics are drawn."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name.endswith(("gamma:0", "moving_variance:0")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name.endswith(("beta:0", "moving_mean:0")):
            variable.assign(rng.normal(0, 0.5, variable.shape))
    return model


def test_values_and_sizes(tiny):
    initial = tiny.get_weights()
    reference = Reference(with_drawn_weights(tiny))
    for size in ((33, 33), (50, 64), (35, 97)):
        images = image(1, *size)
        outputs, expected = tiny(images), reference(images, TINY)
        assert {k: tuple(v.shape) for k, v in outputs.items()} == {
            "2": (1, *(-(-n // 2) for n in size), 64),
            "4": (1, *(-(-n // 4) for n in size), 5 * TINY),
            "8": (1, *(-(-n // 8) for n in size), 10 * TINY),
            "output": (1, *(-(-n // 8) for n in size), 10 * TINY),
        }
        for key, value in expected.items():
            scale = np.abs(value).max()
            assert scale > 0
            np.testing.assert_allclose(outputs[key] / scale, value / scale, atol=1e-5)
    assert reference.used == set(reference.weights)
    tiny.set_weights(initial)


@pytest.mark.slow
def test_the_wide_stem_enters_the_first_cell_as_it_is():
    # With F = 64 the 64 channels of the stem are as wide as the cell.
    model = with_drawn_weights(build(64))
    reference = Reference(model)
    images = image(1, 33, 33)
    outputs, expected = model(images), reference(images, 64)
    assert "backbone/cell0/state1/conv/kernel:0" not in reference.weights
    assert reference.used == set(reference.weights)
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[key] / np.abs(value).max(), value / np.abs(value).max(), atol=1e-5)


# ---- Training, types, names, files ----


def assert_trains(model: keras.Model) -> None:
    with tf.GradientTape() as tape:
        outputs = model(image(2, 33, 33), training=True)
        loss = sum(tf.reduce_mean((tf.cast(v, tf.float32) - 1.0) ** 2) for v in outputs.values())
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.isfinite(gradient).all() and np.any(gradient), variable.name
    keras.optimizers.SGD(1e-3).apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    assert all(np.isfinite(v).all() for v in model.variables)


def test_a_gradient_step(tiny):
    initial = tiny.get_weights()
    assert_trains(tiny)
    tiny.set_weights(initial)


def test_names_and_weights_whatever_was_built_before(tiny, low):
    names = [v.name for v in tiny.variables]
    assert names == [v.name for v in low.variables]
    assert [layer.name for layer in tiny.layers] == [layer.name for layer in low.layers]
    assert len(names) == len(set(names))
    assert all(name.startswith("backbone/") for name in names)
    for a, b in zip(tiny.get_weights(), low.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16(tiny, low):
    initial = low.get_weights()
    images = image(2, 33, 33)
    outputs, expected = low(images), tiny(images)
    for key, value in outputs.items():
        assert value.dtype == tf.bfloat16
        difference = np.abs(tf.cast(value, tf.float32) - expected[key]).mean()
        assert difference < 0.1 * np.abs(expected[key]).mean()
    assert_trains(low)
    low.set_weights(initial)


def test_keras_file(tiny, tmp_path):
    images = image(1, 50, 33)
    tiny.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [v.name for v in loaded.variables] == [v.name for v in tiny.variables]
    outputs = loaded(images)
    for key, value in tiny(images).items():
        np.testing.assert_allclose(outputs[key], value, rtol=1e-5)


@pytest.mark.slow
def test_saved_model(tiny, tmp_path):
    images = image(1, 50, 33)
    module = tf.Module()
    # The model itself as an attribute would have Keras trace each layer once more, which takes minutes.
    module.weights = tiny.variables
    module.serve = tf.function(
        lambda inputs: tiny(inputs), input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)]
    )
    tf.saved_model.save(module, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    outputs = loaded.serve(images)
    for key, value in tiny(images).items():
        np.testing.assert_allclose(outputs[key] / np.abs(value).max(), value / np.abs(value).max(), atol=1e-5)
