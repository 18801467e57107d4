"""Merging: majority vote, numbering of instances, stuff filter, panoptic ids (paper section 3.2).

Everything about a pixel follows from the pair (its instance, its class). One count of the pairs decides
what each of them becomes, and one lookup paints the map.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Votes(NamedTuple):
    """What the pixels of each instance say.

    Attributes:
        pair: int32 [batch, height, width], (instance, class) of each pixel as one number.
        instance: int32 [batch, height, width], 1 + row of the instance; 0 on stuff and void.
        valid: bool [batch, top_k]; whether the row is an instance of the map.
        class_id: int32 [batch, top_k]; -1 where invalid.
        panoptic_id: int32 [batch, top_k]; -1 where invalid.
        stuff_area: int32 [batch, classes], pixels of each class that belong to no instance.
    """

    pair: tf.Tensor
    instance: tf.Tensor
    valid: tf.Tensor
    class_id: tf.Tensor
    panoptic_id: tf.Tensor
    stuff_area: tf.Tensor


def vote(semantic: tf.Tensor, instance: tf.Tensor, num_classes: int, top_k: int, label_divisor: int) -> Votes:
    """Gives each class-agnostic instance its class and its id.

    An instance takes the class of most of its pixels (the smaller id on a tie) and counts from 1 within
    its class in the order of rows. Those beyond `label_divisor - 1` of a class have no id left: their
    rows are invalid and their pixels void.

    Args:
        semantic: int32 [batch, height, width], class ids.
        instance: int32 [batch, height, width], 0..top_k; not 0 on thing pixels alone.
        num_classes: Number of classes.
        top_k: Number of rows.
        label_divisor: Panoptic id = class id * label_divisor + instance id.

    Returns:
        The votes.
    """
    pair = instance * num_classes + semantic
    counts = count_ids(pair, (top_k + 1) * num_classes)
    counts = tf.reshape(counts, [tf.shape(pair)[0], top_k + 1, num_classes])
    votes = counts[:, 1:]
    present = tf.reduce_any(votes > 0, axis=-1)
    class_id = _first_argmax(votes)
    instance_id = _number(class_id, present, num_classes)
    valid = present & (instance_id < label_divisor)
    panoptic_id = class_id * label_divisor + instance_id
    if top_k >= label_divisor:
        # Only then can ids run out.
        rows = tf.where(valid, tf.range(1, top_k + 1), 0)
        instance = _look_up(tf.pad(rows, [[0, 0], [1, 0]]), instance)
    return Votes(pair, instance, valid, tf.where(valid, class_id, -1), tf.where(valid, panoptic_id, -1), counts[:, 0])


def paint(
    votes: Votes, is_thing: tuple[bool, ...], label_divisor: int, ignore_label: int, stuff_area_limit: int
) -> tf.Tensor:
    """Paints the panoptic map: instances, and stuff that is not too small.

    Args:
        votes: Of the instances.
        is_thing: For each class, whether it is a thing; thing pixels without instance are void.
        label_divisor: Panoptic id = class id * label_divisor + instance id.
        ignore_label: Class id of void.
        stuff_area_limit: A stuff class with fewer pixels in an image becomes void.

    Returns:
        Panoptic ids, int32 [batch, height, width].
    """
    num_classes = len(is_thing)
    void = ignore_label * label_divisor
    kept_stuff = tf.constant([not thing for thing in is_thing]) & (votes.stuff_area >= stuff_area_limit)
    stuff_id = tf.where(kept_stuff, tf.range(num_classes) * label_divisor, void)
    thing_id = tf.where(votes.valid, votes.panoptic_id, void)[..., tf.newaxis] + tf.zeros([num_classes], tf.int32)
    return _look_up(tf.concat([stuff_id[:, tf.newaxis], thing_id], axis=1), votes.pair)


def segment_ids(ids: tf.Tensor, per_image: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes the ids of different images distinct, for segment operations over a whole batch.

    Args:
        ids: int32 [batch, height, width], in 0..per_image - 1.
        per_image: Number of ids of an image.

    Returns:
        int32 [batch, height, width] ids in 0..batch * per_image - 1, and how many there are.
    """
    batch = tf.shape(ids)[0]
    first = tf.range(batch) * per_image
    return ids + first[:, tf.newaxis, tf.newaxis], batch * per_image


def count_ids(ids: tf.Tensor, per_image: int) -> tf.Tensor:
    """Counts the pixels of each id.

    Args:
        ids: int32 [batch, height, width], in 0..per_image - 1.
        per_image: Number of ids of an image.

    Returns:
        int32 [batch, per_image].
    """
    distinct, number = segment_ids(ids, per_image)
    # tf.math.bincount compiles neither under XLA nor for LiteRT.
    counts = tf.math.unsorted_segment_sum(tf.ones_like(distinct), distinct, number)
    return tf.reshape(counts, [tf.shape(ids)[0], per_image])


def _look_up(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Replaces each id by its entry in the table [batch, ...] of its image."""
    ids, _ = segment_ids(ids, table.shape[1:].num_elements())
    return tf.gather(tf.reshape(table, [-1]), ids)


def _first_argmax(votes: tf.Tensor) -> tf.Tensor:
    # tf.argmax does not promise the first of equals.
    classes = tf.range(votes.shape[-1])
    most = tf.reduce_max(votes, axis=-1, keepdims=True)
    return tf.reduce_min(tf.where(votes == most, classes, votes.shape[-1]), axis=-1)


def _number(class_id: tf.Tensor, present: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Counts from 1, for each present row, the present rows of its class down to it."""
    # tf.one_hot of integers does not convert to ONNX.
    member = tf.cast(tf.where(present, class_id, -1)[..., tf.newaxis] == tf.range(num_classes), tf.int32)
    return tf.reduce_sum(member * tf.cumsum(member, axis=1), axis=-1)
