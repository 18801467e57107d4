import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones import BackboneFeatures
from deeplab2_lite.config import (
    AsppConfig,
    BackboneConfig,
    BranchConfig,
    DecoderConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
)
from deeplab2_lite.config_validation import validate
from deeplab2_lite.errors import UserError
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model, predict_heads
from deeplab2_lite.postprocessing.upsampling import upsample_heads

ROOT = Path(__file__).resolve().parent.parent
SMALL_BRANCHES = {
    "semantic": BranchConfig(16, 16, 16, (8, 8)),
    "instance": BranchConfig(16, 8, 8, (8, 4)),
}
NARROW = BranchConfig(128, 128, 128, (32, 16))


def experiment(name: str = "mobilenet_v3_small", output_stride: int = 16, **model) -> ExperimentConfig:
    return ExperimentConfig(model=ModelConfig(backbone=BackboneConfig(name=name, output_stride=output_stride), **model))


def small(output_stride: int = 16, **model) -> ExperimentConfig:
    return experiment(output_stride=output_stride, **{**SMALL_BRANCHES, **model})


def parameters(model: keras.Model) -> int:
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def conv_macs(model: keras.Model) -> int:
    """Multiply-adds of the convolutions of a model of fixed input size."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            total += int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel_size))
        elif isinstance(layer, keras.layers.Conv2D):
            total += int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel.shape[:3]))
    return total


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (*shape, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small_model() -> keras.Model:
    """Shared by tests that leave its weights alone."""
    return build_model(small(), 5)


def assert_structural_names(model: keras.Model) -> None:
    for names in ([v.name for v in model.variables], [layer.name for layer in model.layers]):
        assert len(names) == len(set(names))
    assert all(v.name.startswith(("backbone/", "semantic/", "instance/")) for v in model.variables)


# ---- The paper's figures ----


def test_resnet50_row_of_table_9():
    model = build_model(experiment("resnet50_beta"), 19, (1025, 2049))
    assert_structural_names(model)
    assert parameters(model) == 30_039_142
    assert round(conv_macs(model) / 1e6) == 379_066
    assert {k: v[1:] for k, v in model.output_shape.items()} == {
        "semantic_logits": (257, 513, 19),
        "center_heatmap": (257, 513, 1),
        "center_offset": (257, 513, 2),
    }


@pytest.mark.slow
def test_resnet50_row_of_table_9_on_mapillary_vistas():
    config = experiment("resnet50_beta", aspp=AsppConfig(pooling_kernel=(65, 65)))
    assert round(conv_macs(build_model(config, 65, (2177, 2177))) / 1e6) == 859_720


def test_mobilenet_v3_row_of_table_9():
    model = build_model(experiment("mobilenet_v3_large"), 19, (1025, 2049))
    assert_structural_names(model)
    assert parameters(model) == 3_641_302
    assert 53.58e9 < conv_macs(model) < 53.735e9


def test_public_variant_has_the_public_models_parameters():
    config = experiment("resnet50", 32, aspp=AsppConfig(separable=False), depthwise_norm=True)
    model = build_model(config, 19)
    assert_structural_names(model)
    assert parameters(model) == 54_973_702


@pytest.mark.parametrize("size", [(65, 97), (60, 91)])
def test_heads_at_stride_2_add_one_stage_to_the_network(size):
    """Everything up to stride 4 stays as it is; the new stage reads the stem's features at twice the resolution."""
    branches = {
        "semantic": BranchConfig(16, 16, 16, (8, 8, 4)),
        "instance": BranchConfig(16, 8, 8, (8, 4, 2)),
    }
    coarse = build_model(small(), 5)
    fine = build_model(small(**branches, decoder=DecoderConfig(skip_strides=(8, 4, 2))), 5)
    assert small().model.head_stride == 4
    outputs = fine(image(2, *size))
    expected = tuple(-(-side // 2) for side in size)
    assert {k: tuple(v.shape[1:]) for k, v in outputs.items()} == {
        "semantic_logits": (*expected, 5),
        "center_heatmap": (*expected, 1),
        "center_offset": (*expected, 2),
    }
    shapes = [{v.name: tuple(v.shape) for v in model.variables} for model in (coarse, fine)]
    assert set(shapes[0]) < set(shapes[1])
    new = set(shapes[1]) - set(shapes[0])
    assert new and all("/decoder/os2/" in name for name in new)
    # The heads' convolutions read as many channels as before.
    assert all(shapes[0][name] == shapes[1][name] for name in shapes[0])
    upsampled = upsample_heads(outputs, *size)
    factors = [(side - 1) / (steps - 1) for side, steps in zip(size, expected, strict=True)]
    corner = outputs["center_offset"][:, 0, 0]
    np.testing.assert_allclose(upsampled.center_offset[:, 0, 0], corner * factors, rtol=1e-5)


NARROW_INSTANCE = dataclasses.replace(NARROW, head_channels=32)
NARROW_MODEL = {"semantic": NARROW, "instance": NARROW_INSTANCE, "aspp": AsppConfig(pooling_kernel=(33, 65))}
V3_PLUS_MODEL = {
    "decoder": DecoderConfig(skip_strides=(4,), kernel_size=3, convolutions_per_stage=2),
    "semantic": BranchConfig(projection_channels=(32,)),
    "instance": BranchConfig(256, 128, 32, (16,)),
}


@pytest.mark.parametrize(
    ("row", "model", "expected_parameters", "expected_macs"),
    [
        ("single ASPP, decoder", NARROW_MODEL | {"dual_aspp": False, "dual_decoder": False}, 41_850_830, 490_788e6),
        ("dual decoder", NARROW_MODEL | {"dual_aspp": False}, 41_925_342, 495_816e6),
        ("dual decoder, dual ASPP", NARROW_MODEL, 43_374_814, 506_321e6),
        ("final model", {}, 46_717_806, 546_022_803_064),
        (
            "C_ins = 256",
            {"instance": BranchConfig(256, 256, 64, (64, 32)), "aspp": AsppConfig(pooling_kernel=(33, 65))},
            46_881_758,
            562_965e6,
        ),
        ("semantic only", {"tasks": "semantic"}, 43_601_403, 517_612e6),
        ("DeepLabV3+ decoder", V3_PLUS_MODEL, 46_609_742, 551_921e6),
    ],
)
def test_tables_1_and_10_above_the_xception_71_backbone(row, model, expected_parameters, expected_macs):
    output, fine, coarse = (keras.Input(s) for s in ((65, 129, 2048), (257, 513, 256), (129, 257, 728)))
    config = ExperimentConfig(model=ModelConfig(**model))
    validate(config)
    heads = predict_heads(BackboneFeatures(output, {4: fine, 8: coarse}), config, LayerSettings(), 19)
    network = keras.Model([output, fine, coarse], heads)
    assert 40_289_736 + parameters(network) == expected_parameters, row
    # The backbone's share and the table are given to a million.
    assert abs(470_415e6 + conv_macs(network) - expected_macs) < 1.1e6, row


# ---- Shapes, names, types ----


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_any_size_gives_outputs_at_stride_4(small_model, output_stride):
    model = small_model if output_stride == 16 else build_model(small(output_stride), 5)
    for height, width in ((65, 97), (50, 64), (33, 31)):
        outputs = model(image(2, height, width))
        shape = (2, -(-height // 4), -(-width // 4))
        assert {k: tuple(v.shape) for k, v in outputs.items()} == {
            "semantic_logits": (*shape, 5),
            "center_heatmap": (*shape, 1),
            "center_offset": (*shape, 2),
        }
        assert all(np.isfinite(v).all() for v in outputs.values())


def test_fixed_and_free_sizes_give_equal_values():
    images = image(1, 50, 65)
    config = small(aspp=AsppConfig(pooling_kernel=(3, 9)))
    free, fixed = build_model(config, 5)(images), build_model(config, 5, (50, 65))(images)
    for key, value in free.items():
        np.testing.assert_allclose(value, fixed[key], atol=1e-6)


@pytest.mark.parametrize(
    ("tasks", "keys"),
    [("semantic", {"semantic_logits"}), ("instance", {"center_heatmap", "center_offset"})],
)
def test_one_task_is_a_part_of_both(small_model, tasks, keys):
    images = image(1, 33, 33)
    alone, both = build_model(small(tasks=tasks), 5), small_model
    assert set(alone.output_shape) == keys
    assert {v.name for v in alone.variables} < {v.name for v in both.variables}
    outputs, expected = alone(images), both(images)
    for key in keys:
        np.testing.assert_allclose(outputs[key], expected[key], atol=1e-6)


def test_equal_weights_whatever_was_built_before(small_model):
    one = small_model
    keras.layers.Conv2D(3, 1)(tf.zeros((1, 1, 1, 1)))
    keras.utils.set_random_seed(5)
    other = build_model(small(), 5)
    assert [v.name for v in one.variables] == [v.name for v in other.variables]
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    reseeded = build_model(dataclasses.replace(small(), train=TrainConfig(seed=1)), 5)
    assert not np.array_equal(one.get_weights()[0], reseeded.get_weights()[0])


def test_bfloat16_computes_low_and_answers_in_float32():
    images = image(1, 65, 65)
    low = build_model(
        dataclasses.replace(small(aspp=AsppConfig(dropout=0.1)), train=TrainConfig(precision="bfloat16")), 5
    )
    full = build_model(small(aspp=AsppConfig(dropout=0.1)), 5)
    assert low.get_layer("backbone/layer3/expand/conv").compute_dtype == "bfloat16"
    assert {v.dtype for v in low.variables} == {tf.float32, tf.int64}
    assert keras.mixed_precision.global_policy().name == "float32"
    outputs, expected = low(images, training=False), full(images, training=False)
    for key, value in outputs.items():
        assert value.dtype == tf.float32
        assert np.abs(value - expected[key]).max() < 0.05 * np.abs(expected[key]).max()
    with tf.GradientTape() as tape:
        loss = sum(tf.reduce_mean(v**2) for v in low(images, training=True).values())
    assert all(np.isfinite(g).all() for g in tape.gradient(loss, low.trainable_variables))


def test_global_policy_changes_nothing():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        config = small(aspp=AsppConfig(dropout=0.1), decoder=DecoderConfig(convolutions_per_stage=2))
        model = build_model(config, 5)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert_structural_names(model)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_sigmoid_heatmap(small_model):
    images = image(1, 33, 33)
    linear = small_model(images)
    sigmoid = build_model(dataclasses.replace(small(), losses=LossConfig(center="sigmoid_cross_entropy")), 5)(images)
    np.testing.assert_allclose(sigmoid["center_heatmap"], tf.sigmoid(linear["center_heatmap"]), atol=1e-6)
    np.testing.assert_allclose(sigmoid["center_offset"], linear["center_offset"], atol=1e-6)


def test_training_reaches_every_weight():
    model = build_model(small(), 5)
    with tf.GradientTape() as tape:
        outputs = model(image(2, 65, 65), training=True)
        loss = sum(tf.reduce_mean((v - 1.0) ** 2) for v in outputs.values())
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.any(gradient), variable.name


def test_xla_gives_the_same():
    model = build_model(small(aspp=AsppConfig(pooling_kernel=(2, 2))), 5, (33, 33))
    images = image(1, 33, 33)
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)(images)
    for key, value in model(images).items():
        np.testing.assert_allclose(compiled[key], value, atol=1e-4)


def test_keras_file_loads_in_a_process_that_knows_nothing(tmp_path):
    model_config = small(aspp=AsppConfig(dropout=0.1, pooling_kernel=(3, 3)))
    model = build_model(dataclasses.replace(model_config, train=TrainConfig(precision="bfloat16")), 5)
    images = image(1, 65, 50)
    model(images, training=True)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    code = """
import sys, numpy as np, tf_keras
folder = sys.argv[1]
assert "deeplab2_lite" not in sys.modules
model = tf_keras.models.load_model(folder + "/model.keras")
outputs = model(np.load(folder + "/images.npy"))
np.savez(folder + "/outputs.npz", **{k: v.numpy() for k, v in outputs.items()})
np.savez(folder + "/weights.npz", **{v.name.replace("/", "."): v.numpy() for v in model.variables})
model.save(folder + "/again.keras")
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    weights = np.load(tmp_path / "weights.npz")
    assert len(weights.files) == len(model.variables)
    for variable in model.variables:
        np.testing.assert_array_equal(weights[variable.name.replace("/", ".")], variable)
    outputs = np.load(tmp_path / "outputs.npz")
    for key, value in model(images).items():
        np.testing.assert_allclose(outputs[key], value, atol=1e-6)


def test_contradictions_are_refused_in_one_line():
    for config, key in (
        (small(dual_decoder=False), "model.dual_aspp"),
        (small(decoder=DecoderConfig(skip_strides=(8,))), "model.decoder.skip_strides"),
        (experiment("resnet51"), "model.backbone.name"),
        (small(output_stride=4), "model.backbone.output_stride"),
    ):
        with pytest.raises(UserError, match=key) as error:
            build_model(config, 5)
        assert "\n" not in str(error.value)
