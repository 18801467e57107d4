"""The outputs of a signature: those that the configuration names, maps as PNG files among them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from deeplab2_lite.config import ExportOutput

_TABLE_PREFIX = "instance_"
_MAPS = ("panoptic_pred", "semantic_pred", "instance_pred")


def select_outputs(
    tensors: dict[str, tf.Tensor], outputs: Sequence[ExportOutput], num_classes: int
) -> dict[str, tf.Tensor]:
    """Chooses what a signature answers.

    Args:
        tensors: As `result_tensors` names them.
        outputs: Of `export.outputs`.
        num_classes: Of the label space.

    Returns:
        The maps asked for, `instance_*` for "instances", and PNG files, string [batch], as `*_png_bytes`.
    """
    selected = {}
    for name in outputs:
        if name == "instances":
            selected.update({k: v for k, v in tensors.items() if k.startswith(_TABLE_PREFIX) and k not in _MAPS})
        elif name == "panoptic_png_bytes":
            selected[name] = panoptic_png(tensors["panoptic_pred"])
        elif name == "semantic_png_bytes":
            selected[name] = semantic_png(tensors["semantic_pred"], num_classes)
        else:
            selected[name] = tensors[name]
    return selected


def panoptic_png(panoptic: tf.Tensor) -> tf.Tensor:
    """Encodes panoptic maps as COCO does: id = R + 256 G + 65536 B, void's id like any other.

    Args:
        panoptic: int32 [batch, height, width], ids below 2**24.

    Returns:
        PNG files, string [batch].
    """
    shifted = [tf.bitwise.right_shift(panoptic, shift) for shift in (0, 8, 16)]
    return tf.io.encode_png(tf.cast(tf.stack(shifted, axis=-1) & 255, tf.uint8))


def semantic_png(semantic: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Encodes maps of classes in one channel.

    Args:
        semantic: int32 [batch, height, width].
        num_classes: Above 256, the PNG has 16 bits.

    Returns:
        PNG files, string [batch].
    """
    dtype = tf.uint8 if num_classes <= 256 else tf.uint16
    return tf.io.encode_png(tf.cast(semantic, dtype)[..., tf.newaxis])
