"""The classifier form of a backbone: what it is pre-trained as, on ImageNet or images like it."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.backbones.common import BackboneFeatures
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.layers.activations import HardSwish
from deeplab2_lite.layers.dropout import CountedDropout
from deeplab2_lite.layers.pooling import ImagePooling
from deeplab2_lite.layers.settings import FLOAT32, LayerSettings

CLASS_LOGITS = "class_logits"
# The layer that says the classes.
LOGITS_LAYER = "classifier/logits"

# Small logits at first: the loss starts where all classes are as likely.
_KERNEL_DEVIATION = 0.01
# MobileNetV3 has a layer between pooling and logits.
_HIDDEN_CHANNELS = {"mobilenet_v3_large": 1280, "mobilenet_v3_small": 1024}
# The plain HRNet is pre-trained with a head that segmentation then leaves off.
_WITH_HEAD = {"hrnet_w48": "hrnet_w48_plus"}


def classifier_backbone(name: str) -> str:
    """Returns the backbone under the classifier that a backbone's weights come from.

    Args:
        name: Of the backbone in segmentation.

    Returns:
        The same name, or that of a backbone which holds all of its weights under the same names.
    """
    return _WITH_HEAD.get(name, name)


def predict_classes(
    features: BackboneFeatures, config: ExperimentConfig, settings: LayerSettings, num_classes: int
) -> dict[str, tf.Tensor]:
    """Pools the last features over the whole image and predicts its class.

    Args:
        features: Of the backbone.
        config: `model.backbone.name` and `classification.dropout` are used.
        settings: Of the network.
        num_classes: Classes.

    Returns:
        `class_logits`, float32 [batch, num_classes], whatever the network computes in.
    """
    pooled = ImagePooling(name="classifier/pool", dtype=FLOAT32)(features.output)
    vector = keras.layers.Flatten(name="classifier/flatten", dtype=FLOAT32)(pooled)
    hidden_channels = _HIDDEN_CHANNELS.get(config.model.backbone.name)
    if hidden_channels is not None:
        name = "classifier/hidden"
        initializer = settings.kernel_initializer(name)
        hidden = keras.layers.Dense(hidden_channels, kernel_initializer=initializer, name=name, dtype=FLOAT32)
        vector = HardSwish(name=f"{name}/hard_swish", dtype=FLOAT32)(hidden(vector))
    if config.classification.dropout > 0:
        name = "classifier/dropout"
        dropout = CountedDropout(config.classification.dropout, settings.seed_of(name), name=name, dtype=FLOAT32)
        vector = dropout(vector)
    initializer = keras.initializers.TruncatedNormal(stddev=_KERNEL_DEVIATION, seed=settings.seed_of(LOGITS_LAYER))
    logits = keras.layers.Dense(num_classes, kernel_initializer=initializer, name=LOGITS_LAYER, dtype=FLOAT32)
    return {CLASS_LOGITS: logits(vector)}
