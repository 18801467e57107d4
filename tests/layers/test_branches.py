"""ASPP, decoder and heads against the parameter counts that the paper's tables imply (Xception-71 widths)."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import AsppConfig, BranchConfig, DecoderConfig
from deeplab2_lite.layers.aspp import aspp, default_rates
from deeplab2_lite.layers.decoder import decoder
from deeplab2_lite.layers.heads import head
from deeplab2_lite.layers.settings import LayerSettings

SETTINGS = LayerSettings()
SEMANTIC = BranchConfig()
INSTANCE = BranchConfig(aspp_channels=256, decoder_channels=128, head_channels=32, projection_channels=(32, 16))


def count(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def aspp_model(shape, channels, config, output_stride=16, settings=SETTINGS) -> keras.Model:
    inputs = keras.Input(shape)
    return keras.Model(inputs, aspp(inputs, settings, "aspp", channels, config, output_stride))


@pytest.mark.parametrize(("config", "expected"), [(AsppConfig(), 3_007_488), (AsppConfig(separable=False), 15_535_104)])
def test_aspp_parameters(config, expected):
    model = aspp_model((65, 129, 2048), 256, config)
    assert count(model) == expected
    assert model.output_shape == (None, 65, 129, 256)


def test_aspp_rates_follow_the_output_stride_but_names_do_not():
    assert [default_rates(s) for s in (8, 16, 32)] == [(12, 24, 36), (6, 12, 18), (3, 6, 9)]
    names = set()
    for stride in (8, 16, 32):
        model = aspp_model((None, None, 8), 4, AsppConfig(), stride)
        rates = [layer.dilation_rate for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
        assert sorted(rates) == [(r, r) for r in default_rates(stride)]
        names.add(tuple(v.name for v in model.variables))
    assert len(names) == 1
    model = aspp_model((None, None, 8), 4, AsppConfig(atrous_rates=(2, 5), separable=False))
    rates = [layer.dilation_rate for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sorted(r for r in rates if r != (1, 1)) == [(2, 2), (5, 5)]


@pytest.mark.parametrize("kernel", [None, (3, 5)])
def test_aspp_image_pooling_is_one_by_one_where_the_window_covers_the_image(kernel):
    features = np.random.default_rng(0).normal(size=(1, 3, 5, 4)).astype(np.float32)
    model = aspp_model((None, None, 4), 2, AsppConfig(pooling_kernel=kernel))
    image = keras.Model(model.input, model.get_layer("aspp/image/resize").output)(features).numpy()
    kernel_weights = model.get_layer("aspp/image/conv").get_weights()[0][0, 0]
    expected = np.maximum(features.mean((1, 2)) @ kernel_weights, 0) / np.sqrt(1 + 1e-3)
    np.testing.assert_allclose(image, np.broadcast_to(expected, (1, 3, 5, 2)), atol=1e-6)


def test_aspp_pooling_window_keeps_the_corners():
    features = np.random.default_rng(0).uniform(size=(1, 7, 9, 1)).astype(np.float32)
    model = aspp_model((None, None, 1), 1, AsppConfig(pooling_kernel=(3, 5)))
    model.get_layer("aspp/image/conv").set_weights([np.full((1, 1, 1, 1), np.sqrt(1 + 1e-3))])
    image = keras.Model(model.input, model.get_layer("aspp/image/resize").output)(features).numpy()
    np.testing.assert_allclose(image[0, 0, 0], features[0, :3, :5].mean(), rtol=1e-5)
    np.testing.assert_allclose(image[0, -1, -1], features[0, -3:, -5:].mean(), rtol=1e-5)
    assert image.shape == (1, 7, 9, 1)


def test_aspp_dropout_is_there_only_when_asked():
    features = tf.ones((1, 5, 5, 4))
    plain, dropped = (aspp_model((None, None, 4), 8, AsppConfig(dropout=rate)) for rate in (0.0, 0.5))
    np.testing.assert_array_equal(plain(features), dropped(features))
    assert [v.name for v in dropped.variables if "dropout" in v.name] == ["aspp/dropout/calls:0"]
    assert not any("dropout" in v.name for v in plain.variables)
    dropped(features, training=True)
    assert int(dropped.get_layer("aspp/dropout").calls) == 1


def decoder_model(branch: BranchConfig, config: DecoderConfig, channels=(256, 256, 728)) -> keras.Model:
    context, fine, coarse = (keras.Input((n, n, c)) for n, c in zip((5, 17, 9), channels, strict=True))
    outputs = decoder(context, {4: fine, 8: coarse}, SETTINGS, "decoder", branch, config)
    return keras.Model([context, fine, coarse], outputs)


@pytest.mark.parametrize(("branch", "expected"), [(SEMANTIC, 226_848), (INSTANCE, 94_096)])
def test_decoder_parameters(branch, expected):
    model = decoder_model(branch, DecoderConfig())
    assert count(model) == expected
    assert model.output_shape == (None, 17, 17, branch.decoder_channels)


def test_deeplab_v3_plus_decoder():
    config = DecoderConfig(skip_strides=(4,), kernel_size=3, convolutions_per_stage=2)
    branch = BranchConfig(projection_channels=(32,))
    # Projection; two 3x3 separable convolutions on 256 + 32 and on 256 channels.
    expected = (256 * 32 + 64) + (288 * 9 + 288 * 256 + 512) + (256 * 9 + 256 * 256 + 512)
    assert count(decoder_model(branch, config)) == expected


@pytest.mark.parametrize(
    ("decoder_channels", "projections"), [(256, (96, 64, 32)), (128, (48, 32, 16))], ids=["semantic", "instance"]
)
def test_decoder_of_hrnet_plus_has_a_stage_more(decoder_channels, projections):
    channels = {16: 512, 8: 256, 4: 128}
    skips = {stride: keras.Input((64 // stride + 1, 64 // stride + 1, c)) for stride, c in channels.items()}
    context = keras.Input((3, 3, 256))
    branch = BranchConfig(decoder_channels=decoder_channels, projection_channels=projections)
    outputs = decoder(context, skips, SETTINGS, "decoder", branch, DecoderConfig(skip_strides=(16, 8, 4)))
    model = keras.Model([context, *skips.values()], outputs)
    assert model.output_shape == (None, 17, 17, decoder_channels)
    expected, width = 0, 256
    for skip, projection in zip(channels.values(), projections, strict=True):
        merged = width + projection
        expected += skip * projection + 2 * projection + merged * 25 + merged * decoder_channels + 2 * decoder_channels
        width = decoder_channels
    assert count(model) == expected
    names = [layer.name for layer in model.layers]
    order = [names.index(f"decoder/os{stride}/concat") for stride in (16, 8, 4)]
    assert order == sorted(order)


def test_decoder_merges_coarse_before_fine():
    names = [layer.name for layer in decoder_model(SEMANTIC, DecoderConfig()).layers]
    assert names.index("decoder/os8/fuse1/pointwise/conv") < names.index("decoder/os4/concat")


@pytest.mark.parametrize(
    ("channels", "width", "outputs", "expected"),
    [(256, 256, 19, 77_331), (128, 32, 1, 7_393), (128, 32, 2, 7_426)],
)
def test_head_parameters(channels, width, outputs, expected):
    inputs = keras.Input((5, 5, channels))
    model = keras.Model(inputs, head(inputs, SETTINGS, "head", width, outputs, kernel_size=5))
    assert count(model) == expected
    assert model.output_shape == (None, 5, 5, outputs)


def test_head_starts_small_and_ends_as_asked():
    inputs = keras.Input((5, 5, 8))
    linear, sigmoid = (
        keras.Model(inputs, head(inputs, SETTINGS, "head", 512, 9, 3, activation))
        for activation in ("linear", "sigmoid")
    )
    kernel, bias = linear.get_layer("head/logits/conv").get_weights()
    assert np.abs(kernel).max() <= 0.02 and abs(kernel.std() - 0.0088) < 3e-4 and not bias.any()
    features = np.random.default_rng(0).normal(size=(1, 5, 5, 8)).astype(np.float32) * 50
    np.testing.assert_allclose(sigmoid(features), tf.sigmoid(linear(features)), atol=1e-6)
    assert linear(features).numpy().min() < 0
