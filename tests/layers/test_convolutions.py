import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import BatchNormConfig
from deeplab2_lite.layers.convolutions import conv, conv_bn, depthwise_conv, norm_act, separable_conv_bn
from deeplab2_lite.layers.settings import LayerSettings

SETTINGS = LayerSettings(seed=3)


def strided_reference(image: np.ndarray, kernel: np.ndarray, stride: int, rate: int, depthwise: bool) -> np.ndarray:
    """Convolution with zeros outside, centred on the pixels 0, stride, 2 * stride, ..."""
    height, width, channels = image.shape
    radius = kernel.shape[0] // 2
    rows, columns = range(0, height, stride), range(0, width, stride)
    out = np.zeros((len(rows), len(columns), channels if depthwise else kernel.shape[-1]))
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    yy, xx = y + dy * rate, x + dx * rate
                    if 0 <= yy < height and 0 <= xx < width:
                        tap = kernel[dy + radius, dx + radius]
                        out[i, j] += image[yy, xx] * tap[:, 0] if depthwise else image[yy, xx] @ tap
    return out


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "rate"),
    [((9, 8), 3, 2, 1), ((6, 7), 5, 2, 1), ((8, 5), 7, 2, 1), ((7, 8), 1, 2, 1), ((9, 8), 3, 1, 2), ((5, 6), 3, 1, 6)],
)
def test_convolutions_centre_kernels_on_multiples_of_the_stride(size, kernel_size, stride, rate, depthwise):
    inputs = keras.Input((None, None, 2))
    if depthwise:
        outputs = depthwise_conv(inputs, SETTINGS, "a", kernel_size, stride, rate)
    else:
        outputs = conv(inputs, SETTINGS, "a", 3, kernel_size, stride, rate)
    model = keras.Model(inputs, outputs)
    image = np.random.default_rng(0).normal(size=(*size, 2)).astype(np.float32)
    expected = strided_reference(image, model.get_layer("a/conv").get_weights()[0], stride, rate, depthwise)
    actual = model(image[None])[0]
    assert actual.shape[:2] == tuple(-(-n // stride) for n in size)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_initial_kernels_have_variance_two_over_what_an_output_sees():
    inputs = keras.Input((8, 8, 512))
    model = keras.Model(inputs, [depthwise_conv(inputs, SETTINGS, "a", 5), conv(inputs, SETTINGS, "b", 64, 3)])
    for name, fan_in in (("a/conv", 25), ("b/conv", 9 * 512)):
        kernel = model.get_layer(name).get_weights()[0]
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan_in), rtol=0.03)


def test_seeds_differ_between_layers_and_networks():
    assert SETTINGS.seed_of("a") != SETTINGS.seed_of("b")
    assert SETTINGS.seed_of("a") != LayerSettings(seed=4).seed_of("a")
    # Fixed for all time: a seed names a network.
    assert LayerSettings(seed=0).seed_of("backbone/stem/conv") == 1010804881


@pytest.mark.parametrize("depthwise_norm", [False, True])
def test_separable_convolution_has_normalization_between_only_when_asked(depthwise_norm):
    inputs = keras.Input((9, 9, 4))
    settings = LayerSettings(depthwise_norm=depthwise_norm)
    model = keras.Model(inputs, separable_conv_bn(inputs, settings, "a", 6, kernel_size=5, dilation_rate=2))
    names = [layer.name for layer in model.layers[1:]]
    between = ["a/depthwise/bn", "a/depthwise/relu"] if depthwise_norm else []
    assert names == ["a/depthwise/conv", *between, "a/pointwise/conv", "a/pointwise/bn", "a/pointwise/relu"]
    assert model.get_layer("a/depthwise/conv").dilation_rate == (2, 2)


def test_batch_norm_takes_the_configuration():
    settings = LayerSettings(batch_norm=BatchNormConfig(momentum=0.75, epsilon=0.5, synchronized=False))
    inputs = keras.Input((3, 3, 1))
    model = keras.Model(inputs, norm_act(inputs, settings, "a", "none"))
    images = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    trained = model(images, training=True).numpy()
    np.testing.assert_allclose(trained, (images - 4) / np.sqrt(60 / 9 + 0.5), rtol=1e-5)
    np.testing.assert_allclose(model.get_layer("a/bn").moving_mean, [1.0], rtol=1e-6)
    # Of 9 pixels, n / (n - 1) would show.
    np.testing.assert_allclose(model.get_layer("a/bn").moving_variance, [0.75 + 0.25 * 60 / 9], rtol=1e-6)
    assert not model.get_layer("a/bn").get_config()["synchronized"]
    synchronized = keras.Model(inputs, norm_act(inputs, SETTINGS, "a")).get_layer("a/bn")
    assert synchronized.get_config()["synchronized"]
    # One replica has nobody to synchronize with, and takes the fused operation.
    assert not synchronized.synchronized


def test_gradients_through_all_atrous_rates_in_use():
    image = tf.random.stateless_normal((1, 9, 9, 2), (0, 1))
    inputs = keras.Input((None, None, 2))
    for convolve in (separable_conv_bn, conv_bn):
        for rate in (2, 4, 18, 36):
            model = keras.Model(inputs, convolve(inputs, SETTINGS, "a", 2, kernel_size=3, dilation_rate=rate))
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(image, training=True) ** 3)
            for gradient, variable in zip(
                tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True
            ):
                assert np.isfinite(gradient).all() and np.any(gradient), variable.name
