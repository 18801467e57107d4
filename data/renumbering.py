"""From the ids that records hold to those of the label space, by one table look-up a pixel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.dataset_info import DatasetInfo

# Table entries that are no id, and what messages say of them.
_NO_CLASS, _NUMBERED_VOID, _NUMBER_TOO_HIGH = -1, -2, -3


class Renumbered(NamedTuple):
    """A label in the ids of its label space.

    Attributes:
        panoptic: Panoptic ids, int32 [height, width]; negative where `stored` had no meaning.
        is_known: Whether all ids have one, bool scalar.
        message: What to say of one that has none, scalar string; empty where all have.
    """

    panoptic: tf.Tensor
    is_known: tf.Tensor
    message: tf.Tensor


def renumber(stored: tf.Tensor, info: DatasetInfo) -> Renumbered:
    """Turns the ids of a record into those of its label space.

    The instance number of stuff is dropped, as instances have no meaning there; crowd, which is a thing with
    instance number 0, stays crowd.

    Args:
        stored: Ids as `info.stored` numbers them, int32 [height, width].
        info: The label space, with `stored`.

    Returns:
        The label. Ids without meaning are those of no class, of void with an instance number, and of
        things with an instance number beyond `info.max_instances`.
    """
    entries = renumbering_table(info)
    # Not within the graph of an input pipeline, which is copied and written out as a whole.
    with tf.init_scope(), tf.device("/CPU:0"):
        table = tf.constant(entries)

    def look_up(ids: tf.Tensor) -> tf.Tensor:
        # As unsigned numbers, negative ids are beyond all others.
        clipped = tf.minimum(tf.bitcast(ids, tf.uint32), tf.constant(len(entries) - 1, tf.uint32))
        return tf.gather(table, tf.bitcast(clipped, tf.int32))

    panoptic = look_up(stored)
    is_known = tf.reduce_all(panoptic >= 0)

    def complaint() -> tf.Tensor:
        offender = tf.reduce_max(tf.where(panoptic < 0, stored, tf.int32.min))
        return _complaint(offender, look_up(offender), info)

    return Renumbered(panoptic, is_known, tf.cond(is_known, lambda: tf.constant(""), complaint))


def renumbering_table(info: DatasetInfo) -> np.ndarray:
    """Makes the table from stored ids to those of the label space.

    Args:
        info: The label space, with `stored`.

    Returns:
        int32 [stored.num_ids + 1]: panoptic ids, or negative where the stored id has no meaning; the last
        entry stands for all greater ids.
    """
    stored = info.stored
    table = np.full((stored.num_ids // stored.label_divisor, stored.label_divisor), _NO_CLASS, np.int32)
    table[stored.ignore_label, 0] = info.void_id
    table[stored.ignore_label, 1:] = _NUMBERED_VOID
    for class_id, (stored_id, class_info) in enumerate(zip(stored.class_ids, info.classes, strict=True)):
        base = class_id * info.label_divisor
        if class_info.isthing:
            numbers = np.arange(stored.label_divisor, dtype=np.int32)
            table[stored_id] = np.where(numbers <= info.max_instances, base + numbers, _NUMBER_TOO_HIGH)
        else:
            table[stored_id] = base
    return np.append(table, np.int32(_NO_CLASS))


def _complaint(offender: tf.Tensor, entry: tf.Tensor, info: DatasetInfo) -> tf.Tensor:
    divisor = info.stored.label_divisor
    reasons = {
        _NO_CLASS: f"none of the {info.num_classes} of {info.name} nor void ({info.stored.ignore_label})",
        _NUMBERED_VOID: "void, which has no instances",
        _NUMBER_TOO_HIGH: f"numbered beyond {info.max_instances}, the most at label_divisor {info.label_divisor}",
    }
    ordered = tf.constant([reasons[code] for code in (_NO_CLASS, _NUMBERED_VOID, _NUMBER_TOO_HIGH)])
    parts = [
        "the label holds id ",
        tf.strings.as_string(offender),
        f", at stored label_divisor {divisor} class ",
        tf.strings.as_string(offender // divisor),
        " instance ",
        tf.strings.as_string(offender % divisor),
        ": ",
        tf.gather(ordered, -1 - entry),
        "; expected what `stored` of data.dataset_info says",
    ]
    return tf.strings.join(parts)
