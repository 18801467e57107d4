"""Running a network over an image in overlapping tiles, so that its size is bounded by the result alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2_lite.postprocessing.upsampling import Heads, as_heads
from deeplab2_lite.preprocessing import IMAGE_PADDING


class Tiling(NamedTuple):
    """How an image is cut.

    Attributes:
        height: Height of a tile in pixels, a multiple of the output stride plus 1.
        width: Its width, likewise.
        overlap: The least number of pixels that neighbours share.
    """

    height: int
    width: int
    overlap: int


class TiledHeads(NamedTuple):
    """The network's outputs over all tiles, and the size in pixels that they cover: the image and grey beyond it."""

    heads: Heads
    height: int | tf.Tensor
    width: int | tf.Tensor


def run_in_tiles(network: Callable[..., Any], images: tf.Tensor, tiling: Tiling, output_stride: int) -> TiledHeads:
    """Runs a network tile by tile and blends its outputs, at their own resolution, where tiles overlap.

    An output counts the more, the farther it lies from the border of its tile, beyond which the network sees
    nothing. Offsets are relative, so they need no change. Image pooling sees a tile, as in training a crop.

    Args:
        network: Gives the heads, as `build_model`.
        images: [batch, height, width, 3] in 0..255, any type; the image is grey beyond its border.
        tiling: How to cut.
        output_stride: Of the network; tiles begin at multiples of it.

    Returns:
        The outputs as if of one run on a padded image.
    """
    rows, columns = (
        _Cuts.of(_side(images, axis), tile, tiling.overlap, output_stride)
        for axis, tile in ((1, tiling.height), (2, tiling.width))
    )
    shape = tf.TensorSpec([images.shape[0], tiling.height, tiling.width, 3], tf.float32)
    run = tf.function(lambda tile: _present(as_heads(network(tile, training=False)))).get_concrete_function(shape)

    def outputs(number: tf.Tensor) -> dict[str, tf.Tensor]:
        top, left = number // columns.count * rows.step, number % columns.count * columns.step
        tile = _window(images, top, left, tiling)
        heads = run(tf.ensure_shape(tile, shape.shape))
        return {name: tf.cast(head, tf.float32) for name, head in heads.items()}

    signature = {name: tf.TensorSpec(spec.shape, tf.float32) for name, spec in run.structured_outputs.items()}
    # One after the other: what two tiles need at a time is what tiles are there to avoid.
    tiles = tf.map_fn(
        outputs, tf.range(rows.count * columns.count), fn_output_signature=signature, parallel_iterations=1
    )
    blended = {name: _blend(stacked, rows, columns) for name, stacked in tiles.items()}
    return TiledHeads(Heads(*(blended.get(name) for name in Heads._fields)), rows.covered, columns.covered)


class _Cuts(NamedTuple):
    """Tiles along one axis: how many, how far apart they begin, and how long each is, in pixels."""

    count: int | tf.Tensor
    step: int
    tile: int

    @classmethod
    def of(cls, side: int | tf.Tensor, tile: int, overlap: int, output_stride: int) -> _Cuts:
        step = (tile - overlap) // output_stride * output_stride
        beyond = side - tile
        # -(-a // b) rounds up.
        count = tf.maximum(-(-beyond // step), 0) + 1 if tf.is_tensor(side) else max(-(-beyond // step), 0) + 1
        return cls(count, step, tile)

    @property
    def covered(self) -> int | tf.Tensor:
        return (self.count - 1) * self.step + self.tile


def _window(images: tf.Tensor, top: tf.Tensor, left: tf.Tensor, tiling: Tiling) -> tf.Tensor:
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    rows, columns = top + tf.range(tiling.height), left + tf.range(tiling.width)
    tile = tf.gather(images, tf.minimum(rows, height - 1), axis=1)
    tile = tf.gather(tile, tf.minimum(columns, width - 1), axis=2)
    inside = (rows < height)[:, tf.newaxis] & (columns < width)
    return tf.where(inside[:, :, tf.newaxis], tf.cast(tile, tf.float32), IMAGE_PADDING)


def _present(heads: Heads) -> dict[str, tf.Tensor]:
    return {name: head for name, head in heads._asdict().items() if head is not None}


def _blend(tiles: tf.Tensor, rows: _Cuts, columns: _Cuts) -> tf.Tensor:
    """Means of [tiles, batch, height, width, channels], weighted by the distance from the tiles' borders."""
    batch, height, width, channels = (_side(tiles, axis) for axis in range(1, 5))
    row_step, column_step = (
        cuts.step * (length - 1) // (cuts.tile - 1) for cuts, length in ((rows, height), (columns, width))
    )
    row_weight, column_weight = _weights(height, row_step), _weights(width, column_step)
    grid = tf.reshape(tiles, tf.stack([rows.count, columns.count, batch, height, width, channels]))
    grid *= (row_weight[:, tf.newaxis] * column_weight)[:, :, tf.newaxis]
    # The axis that is put together comes last, behind its tiles.
    across = tf.signal.overlap_and_add(tf.transpose(grid, [2, 5, 0, 3, 1, 4]), column_step)
    whole = tf.signal.overlap_and_add(tf.transpose(across, [0, 1, 4, 2, 3]), row_step)
    weight = tf.signal.overlap_and_add(_repeat(row_weight, rows.count), row_step)[:, tf.newaxis] * (
        tf.signal.overlap_and_add(_repeat(column_weight, columns.count), column_step)
    )
    return tf.transpose(whole, [0, 3, 2, 1]) / weight[:, :, tf.newaxis]


def _weights(length: int, step: int) -> tf.Tensor:
    """Rises from both ends over what neighbours share, and is 1 between."""
    position = tf.range(length, dtype=tf.float32)
    rise = tf.minimum(position + 1, length - position) / (length - step + 1)
    return tf.minimum(rise, 1.0)


def _repeat(values: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    return tf.tile(values[tf.newaxis], tf.stack([count, 1]))


def _side(tensor: tf.Tensor, axis: int) -> int | tf.Tensor:
    static = tensor.shape[axis]
    return tf.shape(tensor)[axis] if static is None else static
