"""Means of a network's outputs over scales, mirror images and the members of an ensemble (paper section 4).

The sums run: one map of probabilities, one heatmap and one map of offsets are held, however many inputs there
are. Means of probabilities go on as their logarithm, whose softmax gives them back; so all that follows does
as with the logits of one network on one input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.layers.resizing import resize_align_corners
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling, as_heads, map_stripes
from deeplab2_lite.preprocessing import pad_to_stride
from deeplab2_lite.tiling import Tiling, run_in_tiles

Side = int | tf.Tensor


class Member(NamedTuple):
    """A network of an ensemble, and its output stride."""

    network: Callable[..., Any]
    output_stride: int


class View(NamedTuple):
    """One way to look at an image: at which scale, and whether mirrored."""

    scale: float
    flipped: bool


class HeadsOnGrid(NamedTuple):
    """A network's outputs, and how they come to the resolution of the image."""

    heads: Heads
    upsampling: Upsampling


def views_of(scales: Sequence[float], flip_left_right: bool) -> tuple[View, ...]:
    """Lists the views of an image, in the order in which they are summed up.

    Args:
        scales: At each of them.
        flip_left_right: Also mirrored.

    Returns:
        The views.
    """
    return tuple(
        View(scale, flipped) for scale in scales for flipped in ((False, True) if flip_left_right else (False,))
    )


def run_network(member: Member, images: tf.Tensor, tiling: Tiling | None) -> HeadsOnGrid:
    """Runs a network on whole images, or tile by tile.

    Args:
        member: The network.
        images: [batch, height, width, 3] in 0..255; float32, or any type if tiled.
        tiling: How to cut them; None does not.

    Returns:
        Its outputs.
    """
    size = sides(images)
    if tiling is not None:
        tiled = run_in_tiles(member.network, images, tiling, member.output_stride)
        return HeadsOnGrid(tiled.heads, Upsampling(tiled.height, tiled.width, *size))
    padded = pad_to_stride(images, member.output_stride)
    return HeadsOnGrid(as_heads(member.network(padded, training=False)), Upsampling(*sides(padded), *size))


def mean_heads(
    members: Sequence[Member],
    images: tf.Tensor,
    views: Sequence[View],
    tiling: Tiling | None = None,
    widths: tf.Tensor | None = None,
) -> Heads:
    """Averages what networks say of several views of the same images.

    A view is resized with aligned corners, so that outputs come back to the very places they left; offsets
    change their length as the view did, and in mirror images the sign of dx.

    Args:
        members: The networks.
        images: float32 [batch, height, width, 3] in 0..255.
        views: Which.
        tiling: How to cut the views; None does not.
        widths: int32 [batch], in a batch of fixed size the true width of each image, which is mirrored within it.

    Returns:
        At the resolution of the images, float32: log of the mean probabilities, mean heatmap, mean offsets;
        None for what the first network has no head for.
    """
    total: Heads | None = None
    for view, member in _each(views, members):
        # One after the other: run at once, they would all hold their memory at once.
        with tf.control_dependencies([] if total is None else [head for head in total if head is not None]):
            seen = tf.identity(images)
        heads = _heads_of_view(member, seen, view, tiling, widths)
        total = heads if total is None else _sum(total, heads)
    probabilities, heatmap, offset = (head if head is None else head / (len(members) * len(views)) for head in total)
    if probabilities is not None:
        # 0 has no logarithm; the smallest float32 stands for it.
        probabilities = tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))
    return Heads(probabilities, heatmap, offset)


def mirror(images: tf.Tensor, widths: tf.Tensor | None) -> tf.Tensor:
    """Mirrors images or maps [batch, height, width, ...] left to right, each within its own width."""
    if widths is None:
        return tf.reverse(images, [2])
    return tf.reverse_sequence(images, widths, seq_axis=2, batch_axis=0)


def sides(images: tf.Tensor) -> tuple[Side, Side]:
    """Returns height and width of [batch, height, width, ...], static if both are."""
    if images.shape[1:3].is_fully_defined():
        return tuple(images.shape[1:3].as_list())
    return tuple(tf.unstack(tf.shape(images)[1:3]))


def _each(views: Sequence[View], members: Sequence[Member]) -> Iterator[tuple[View, Member]]:
    return ((view, member) for view in views for member in members)


def _heads_of_view(
    member: Member, images: tf.Tensor, view: View, tiling: Tiling | None, widths: tf.Tensor | None
) -> Heads:
    """Probabilities, heatmap and offsets at the images' resolution and in their orientation."""
    base = sides(images)
    if view.flipped:
        images = mirror(images, widths)
    if view.scale != 1:
        images = resize_align_corners(images, *(_scaled_side(side, view.scale) for side in base))
    heads, upsampling = run_network(member, images, tiling)
    if view.scale != 1:
        upsampling = upsampling.brought_to(*base)
    probabilities, maps = heads.semantic_logits, heads._replace(semantic_logits=None)
    if any(head is not None for head in maps):
        maps = upsampling.apply(maps)
    offset = maps.center_offset
    if probabilities is not None:
        probabilities = map_stripes(
            lambda stripe, _: tf.nn.softmax(stripe),
            probabilities,
            upsampling,
            tf.float32,
            channels=probabilities.shape[-1],
        )
    if view.flipped and offset is not None:
        offset *= tf.constant([1.0, -1.0])
    heads = Heads(probabilities, maps.center_heatmap, offset)
    return heads if not view.flipped else Heads(*(h if h is None else mirror(h, widths) for h in heads))


def _scaled_side(side: Side, scale: float) -> Side:
    """Scales the distance between the corner pixels' centres, as sizes k * stride + 1 ask for."""
    if not tf.is_tensor(side):
        return int((side - 1) * scale + 0.5) + 1
    return tf.cast(tf.cast(side - 1, tf.float32) * scale + 0.5, tf.int32) + 1


def _sum(total: Heads, heads: Heads) -> Heads:
    return Heads(*(a if a is None else a + b for a, b in zip(total, heads, strict=True)))
