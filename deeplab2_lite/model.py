"""Panoptic-DeepLab as one functional Keras model (paper section 3.1, figure 2)."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES, BackboneFeatures
from deeplab2_lite.classifier import classifier_backbone, predict_classes
from deeplab2_lite.config import BranchConfig, ExperimentConfig
from deeplab2_lite.config_validation import validate
from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.layers.aspp import aspp
from deeplab2_lite.layers.convolutions import conv_bn
from deeplab2_lite.layers.decoder import decoder
from deeplab2_lite.layers.heads import head
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.panoptic_deeplab import PanopticDeepLab

SEMANTIC_LOGITS = "semantic_logits"
CENTER_HEATMAP = "center_heatmap"
CENTER_OFFSET = "center_offset"


def build_model(
    config: ExperimentConfig, num_classes: int | None = None, input_size: tuple[int, int] | None = None
) -> PanopticDeepLab:
    """Builds the network.

    Names and initial weights follow from the configuration alone: building twice gives equal models.
    Images are normalized inside.

    Args:
        config: `model`, `train.seed`, `train.precision` and `losses.center` are used.
        num_classes: Semantic classes; None takes them from the experiment's data set.
        input_size: Fixed height and width of the images; None takes images of any size.

    Returns:
        A model from float images [batch, height, width, 3] in 0..255 to a dictionary of float32 tensors
        at stride 4, [batch, ceil(height / 4), ceil(width / 4), ..] (stride 2 where the last of
        `decoder.skip_strides` is 2): `semantic_logits` [.., num_classes],
        `center_heatmap` [.., 1], `center_offset` [.., 2] as (dy, dx) in pixels of that stride, as far as
        `config.model.tasks` asks for them. A classifier gives `class_logits` [batch, num_classes] alone.

    Raises:
        UserError: A value of the configuration is out of range, or two contradict each other.
    """
    _check(config)
    if num_classes is None:
        from deeplab2_lite.config_loading import resolve_dataset_info

        num_classes = resolve_dataset_info(config).num_classes
    settings = LayerSettings.from_config(config)
    images = keras.Input((*(input_size or (None, None)), 3), dtype="float32", name="images")
    if config.model.tasks == "classification":
        features = BACKBONES[classifier_backbone(config.model.backbone.name)](images, config.model.backbone, settings)
        outputs = predict_classes(features, config, settings, num_classes)
        return PanopticDeepLab(images, outputs, name="classifier")
    features = BACKBONES[config.model.backbone.name](images, config.model.backbone, settings)
    outputs = predict_heads(features, config, settings, num_classes)
    return PanopticDeepLab(images, outputs, name="panoptic_deeplab")


def predict_heads(
    features: BackboneFeatures, config: ExperimentConfig, settings: LayerSettings, num_classes: int
) -> dict[str, tf.Tensor]:
    """Builds ASPP, decoder and heads of each branch on the features of a backbone.

    Features without skips are at stride 4 already: a 1x1 convolution stands for ASPP and decoder, as in
    HRNet's own head (paper appendix A.1).

    Args:
        features: Of the backbone.
        config: `model` and `losses.center` are used.
        settings: Of the network.
        num_classes: Semantic classes.

    Returns:
        The outputs of `build_model`.
    """
    model = config.model
    outputs: dict[str, tf.Tensor] = {}
    context = decoded = None
    if model.tasks in ("panoptic", "semantic"):
        context = _context(features, config, settings, "semantic", model.semantic)
        decoded = _decode(context, features, config, settings, "semantic", model.semantic)
        outputs[SEMANTIC_LOGITS] = head(
            decoded, settings, "semantic/head", model.semantic.head_channels, num_classes, model.head_kernel_size
        )
    if model.tasks in ("panoptic", "instance"):
        if context is None or model.dual_aspp:
            context = _context(features, config, settings, "instance", model.instance)
        if decoded is None or model.dual_decoder:
            decoded = _decode(context, features, config, settings, "instance", model.instance)
        width = model.instance.head_channels
        activation = "sigmoid" if config.losses.center == "sigmoid_cross_entropy" else "linear"
        outputs[CENTER_HEATMAP] = head(
            decoded, settings, "instance/center_head", width, 1, model.head_kernel_size, activation
        )
        outputs[CENTER_OFFSET] = head(decoded, settings, "instance/offset_head", width, 2, model.head_kernel_size)
    return outputs


def _context(
    features: BackboneFeatures, config: ExperimentConfig, settings: LayerSettings, name: str, branch: BranchConfig
) -> tf.Tensor:
    if not features.skips:
        return features.output
    return aspp(
        features.output,
        settings,
        f"{name}/aspp",
        branch.aspp_channels,
        config.model.aspp,
        config.model.backbone.output_stride,
    )


def _decode(
    context: tf.Tensor,
    features: BackboneFeatures,
    config: ExperimentConfig,
    settings: LayerSettings,
    name: str,
    branch: BranchConfig,
) -> tf.Tensor:
    if not features.skips:
        return conv_bn(context, settings, f"{name}/fusion", branch.decoder_channels)
    return decoder(context, features.skips, settings, f"{name}/decoder", branch, config.model.decoder)


def _check(config: ExperimentConfig) -> None:
    """Refuses what would end in a stack trace of Keras; a configuration may have been made in Python, unchecked."""
    backbone = config.model.backbone
    if backbone.name not in BACKBONES:
        raise UserError(f"model.backbone.name: no backbone '{backbone.name}'{nearest_name(backbone.name, BACKBONES)}")
    if backbone.output_stride not in (8, 16, 32):
        raise UserError(f"model.backbone.output_stride: expected 8, 16 or 32, got {backbone.output_stride}")
    validate(config)
