"""The classifier form of the backbones: published counts, names that segmentation shares, and its configuration."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.checkpoints import named_weights
from deeplab2_lite.complexity.counting import complexity, count_parameters
from deeplab2_lite.config import BackboneConfig, BranchConfig, DecoderConfig, ExperimentConfig, ModelConfig, TrainConfig
from deeplab2_lite.config_loading import config_from_dict, config_to_dict, load_config, packaged_experiments
from deeplab2_lite.config_validation import skip_strides_of, validate
from deeplab2_lite.errors import UserError
from deeplab2_lite.losses import classification_cross_entropy
from deeplab2_lite.model import build_model
from deeplab2_lite.pretrained.weight_files import StartingWeights, start_from


def classifier(name: str, output_stride: int = 32, precision: str = "float32", **backbone) -> ExperimentConfig:
    model = ModelConfig(tasks="classification", backbone=BackboneConfig(name, output_stride, **backbone))
    return ExperimentConfig(model=model, train=TrainConfig(precision=precision))


def segmentation(name: str, output_stride: int) -> ExperimentConfig:
    strides = skip_strides_of(name)
    branch = BranchConfig(16, 16, 16, (8,) * len(strides))
    if not strides:
        branch = BranchConfig(decoder_channels=16, head_channels=16, projection_channels=())
    backbone, decoder = BackboneConfig(name, output_stride), DecoderConfig(strides)
    return ExperimentConfig(model=ModelConfig(backbone=backbone, decoder=decoder, semantic=branch, instance=branch))


def start_of(network: keras.Model, config: ExperimentConfig) -> StartingWeights:
    weights = {name: np.asarray(variable) for name, variable in named_weights(network).items()}
    return StartingWeights(weights, config_to_dict(config)["model"], "a classifier")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # As torchvision and timm count them.
        ("mobilenet_v3_large", {"halve_last_block": False}, 5_483_032),
        ("mobilenet_v3_small", {"halve_last_block": False}, 2_542_856),
        ("resnet50", {}, 25_557_032),
        pytest.param("resnet101", {}, 44_549_160, marks=pytest.mark.slow),
        # The backbone of the paper's final model, and a dense layer.
        ("xception71", {}, 40_289_736 + 2048 * 1000 + 1000),
    ],
)
def test_classifiers_have_the_published_number_of_parameters(name, options, expected):
    assert count_parameters(build_model(classifier(name, **options), 1000)) == expected


def test_hrnet_has_the_published_number():
    assert count_parameters(build_model(classifier("hrnet_w48"), 1000)) == 77_469_864


@pytest.mark.slow
def test_the_head_of_hrnet_goes_into_segmentation():
    config = classifier("hrnet_w48_plus")
    start = start_of(build_model(config, 1000), config)
    atrous = segmentation("hrnet_w48_plus_atrous", 16)
    target = build_model(atrous, 3)
    report = start_from(target, atrous, start)
    assert set(report.left_over) == {"classifier/logits/kernel", "classifier/logits/bias"}
    backbone = {name for name in start.weights if name.startswith("backbone/")}
    assert set(report.loaded) == backbone
    head = [name for name in backbone if name.startswith("backbone/head/")]
    assert head
    for name in head:
        np.testing.assert_array_equal(named_weights(target)[name], start.weights[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "hrnet_w48_plus_atrous"])
def test_every_backbones_classifier_holds_all_weights_of_segmentation(name):
    stride = 8 if name.startswith("auto_deeplab") else 32
    config = classifier(name.removesuffix("_atrous"), stride)
    start = start_of(build_model(config, 10), config)
    smaller = segmentation(name, 16 if stride == 32 else 8)
    report = start_from(build_model(smaller, 3), smaller, start)
    left_over = {name for name in report.left_over if not name.startswith("classifier/")}
    if name == "hrnet_w48":
        assert left_over and all(name.startswith("backbone/head/") for name in left_over)
    else:
        assert not left_over
    assert len(report.loaded) + len(left_over) == len([name for name in start.weights if name.startswith("backbone/")])


def test_logits_are_those_of_the_pooled_features():
    config = dataclasses.replace(
        classifier("resnet50_beta"), classification=dataclasses.replace(ExperimentConfig().classification, dropout=0.5)
    )
    network = build_model(config, 7)
    images = np.random.default_rng(0).uniform(0, 255, (2, 65, 97, 3)).astype(np.float32)
    features = keras.Model(network.input, network.get_layer("classifier/pool").input)(images).numpy()
    kernel, bias = (named_weights(network)[f"classifier/logits/{part}"].numpy() for part in ("kernel", "bias"))
    logits = network(images, training=False)
    assert set(logits) == {"class_logits"}
    np.testing.assert_allclose(logits["class_logits"], features.mean((1, 2)) @ kernel + bias, rtol=1e-3, atol=1e-5)
    one, two = (network(images, training=True)["class_logits"].numpy() for _ in range(2))
    assert np.abs(one - two).max() > 1e-4


def test_a_keras_file_in_bfloat16_gives_float32_logits_and_a_gradient(tmp_path):
    network = build_model(classifier("mobilenet_v3_small", precision="bfloat16"), 5)
    images = np.random.default_rng(1).uniform(0, 255, (2, 33, 33, 3)).astype(np.float32)
    network.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    expected = network(images)["class_logits"]
    assert expected.dtype == tf.float32
    np.testing.assert_array_equal(loaded(images)["class_logits"], expected)
    with tf.GradientTape() as tape:
        loss = classification_cross_entropy(network(images, training=True)["class_logits"], np.int32([0, 4]))
    for gradient in tape.gradient(loss.numerator, network.trainable_variables):
        assert np.isfinite(gradient).all()


def test_fresh_logits_are_those_of_a_classifier_too():
    config = classifier("mobilenet_v3_small")
    start = start_of(build_model(config, 5), config)
    network = build_model(config, 6)
    with pytest.raises(UserError, match=r"classifier/logits/kernel' has shape .*init_fresh_logits=true"):
        start_from(network, config, start)
    report = start_from(network, config, start, fresh_logits=True)
    assert set(report.skipped) == {"classifier/logits/kernel", "classifier/logits/bias"}
    assert "classifier/hidden/kernel" in report.loaded


def test_cross_entropy_with_smoothing_is_that_of_smoothed_labels():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(4, 6)).astype(np.float32), np.int32([0, 5, 2, 2])
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for smoothing in (0.0, 0.1):
        expected = 0.0
        for i, label in enumerate(labels):
            targets = [smoothing / 6 + (1 - smoothing) * (k == label) for k in range(6)]
            expected -= np.dot(targets, log_probabilities[i])
        term = classification_cross_entropy(logits, labels, smoothing)
        assert term.numerator.numpy() == pytest.approx(expected, rel=1e-5)
        assert term.denominator.numpy() == 4


def test_what_a_classifier_costs_can_be_counted():
    found = complexity(classifier("resnet50"), (225, 225), num_classes=1000)
    assert found.total.parameters == 25_557_032
    parts = {part.part: part for part in found.parts}
    assert parts["classifier/logits"].multiply_adds == 2048 * 1000


@pytest.mark.parametrize("name", sorted(name for name in packaged_experiments() if name.startswith("imagenet/")))
def test_packaged_classifiers_are_whole(name):
    config = load_config(name)
    assert config.model.tasks == "classification"
    assert config.model.backbone.name == name.removeprefix("imagenet/")
    assert config.data.dataset_info == "imagenet"
    epochs = config.train.steps * config.train.batch_size / 1_281_167
    assert 85 < epochs < 610


def error_of(changes: dict) -> str:
    with pytest.raises(UserError) as caught:
        config_from_dict(changes, check=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"model": {"decoder": {"kernel_size": 3}}}, "model.decoder"),
        ({"model": {"dual_aspp": False}}, "model.dual_aspp"),
        ({"data": {"longest_side": 500}}, "data.longest_side"),
        ({"data": {"intensity_percentiles": (1.0, 99.0)}}, "data.intensity_percentiles"),
        ({"data": {"shapes": {}}}, "data.shapes"),
        ({"data": {"augmentation": {"max_scale": 1.5}}}, "data.augmentation.max_scale"),
        ({"data": {"augmentation": {"max_rotation": 30}}}, "data.augmentation.max_rotation"),
        ({"data": {"augmentation": {"elastic": {"magnitude": 1}}}}, "data.augmentation.elastic"),
        ({"losses": {"offset_weight": 1.0}}, "losses"),
        ({"evaluation": {"fixed_size": [33, 33]}}, "evaluation.fixed_size"),
    ],
)
def test_settings_of_segmentation_are_refused_for_a_classifier(settings, key):
    model = {"tasks": "classification", **settings.get("model", {})}
    assert error_of({**settings, "model": model}) == (
        f"{key}: has no meaning for model.tasks classification; leave it out"
    )


def test_settings_of_a_classifier_are_refused_for_segmentation_and_out_of_range():
    assert error_of({"classification": {"dropout": 0.1}}) == (
        "classification: has no meaning for model.tasks panoptic; leave it out"
    )
    for key, value in (
        *(("first_label", -1), ("min_area", 0.0), ("min_area", 1.1), ("max_aspect_ratio", 0.5), ("crop_fraction", 0.0)),
        *(("label_smoothing", 1.0), ("dropout", 1.0)),
    ):
        message = error_of({"model": {"tasks": "classification"}, "classification": {key: value}})
        assert message.startswith(f"classification.{key}: expected "), message


def test_the_plain_hrnet_needs_no_settings_of_a_decoder_as_a_classifier():
    validate(classifier("hrnet_w48"))
