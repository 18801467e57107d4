"""Which centres can be the nearest to a point: a grid of cells that leaves one or two of hundreds.

The plane is cut into square cells; where a cell is nearer to one centre at every point of it than to
another, that other is out for all of its points. Of 200 centres in a street scene 1.1 remain on average.
The grid changes no result: rounding is allowed for, and cells far outside the image keep every centre.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.postprocessing.centers import Centers

# Smaller cells leave fewer candidates, larger ones are sooner built: measured at 8, 16 and 32.
_CELL = 16
# Outside the image each ring of cells is twice as wide as the one before; beyond the last, some 4,000
# pixels away, every centre is a candidate.
_RINGS = 8
_REACH = 2**_RINGS
# Bound on the relative error of the difference of two squared distances, each of which float32 rounds in
# a handful of operations by 2^-24; taken generously, as it costs nothing.
_ROUNDING = 2.0**-19


class CandidateGrid(NamedTuple):
    """Cells and their candidates.

    Attributes:
        rows: How cells lie down the image.
        columns: How they lie across.
        candidate: bool [batch, cells, top_k]; cells in scan order.
    """

    rows: _Axis
    columns: _Axis
    candidate: tf.Tensor

    def cell_of(self, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Finds the cells of points.

        Args:
            y: float32 of any shape, finite.
            x: Likewise.

        Returns:
            int32 of their shape, the number of the cell in scan order.
        """
        return self.rows.find(y) * self.columns.count + self.columns.find(x)


class _Axis(NamedTuple):
    """The cells along one axis.

    Attributes:
        middle: float32 [cells]; of the endless cells at both ends, their edge.
        half: float32 [cells], half their width; beyond all bounds at both ends.
        index: int32 [steps], which cell a stretch of 16 pixels lies in, from `_REACH` stretches before the image on.
        count: How many cells there are.
    """

    middle: tf.Tensor
    half: tf.Tensor
    index: tf.Tensor
    count: int | tf.Tensor

    @classmethod
    def over(cls, size: int | tf.Tensor) -> _Axis:
        inside = (size + _CELL - 1) // _CELL
        rings = tf.constant([_CELL * (2.0**ring - 1) for ring in range(1, _RINGS + 1)])
        across = float(_CELL) * tf.range(tf.cast(inside + 1, tf.float32))
        edges = tf.concat([-rings[::-1], across, across[-1] + rings], axis=0)
        inner = (edges[1:] - edges[:-1]) / 2
        middle = tf.concat([edges[:1], edges[:-1] + inner, edges[-1:]], axis=0)
        # Not infinite: times a difference of 0 it would be no number. Its square is infinite.
        endless = tf.constant([tf.float32.max])
        stretches = float(_CELL) * (tf.range(tf.cast(inside + 2 * _REACH, tf.float32)) - _REACH + 0.5)
        index = tf.reduce_sum(tf.cast(stretches[:, tf.newaxis] > edges, tf.int32), axis=1)
        return cls(middle, tf.concat([endless, inner, endless], axis=0), index, inside + 2 * _RINGS + 2)

    def find(self, position: tf.Tensor) -> tf.Tensor:
        last = tf.cast(tf.size(self.index) - 1, tf.float32)
        stretch = tf.clip_by_value(tf.floor(position * (1 / _CELL)) + _REACH, 0.0, last)
        return tf.gather(self.index, tf.cast(stretch, tf.int32))


def candidate_grid(centers: Centers, height: int | tf.Tensor, width: int | tf.Tensor) -> CandidateGrid:
    """Finds the candidates of each cell: every centre that is the nearest to some point of it, and few more.

    With d the centre nearest to the cell's middle, |p - c|^2 - |p - d|^2 is linear in p, so that its least
    value over the cell has a closed form. Where it is above 0 by more than rounding can take, c is out.

    Args:
        centers: Of each image.
        height: Of the image in pixels.
        width: Likewise.

    Returns:
        The grid.
    """
    rows, columns = _Axis.over(height), _Axis.over(width)
    # [batch, cells down, 1, top_k] and [batch, 1, cells across, top_k] meet in the squares alone.
    y, x = tf.unstack(tf.cast(centers.position, tf.float32)[:, tf.newaxis, tf.newaxis], axis=-1)
    from_y, from_x = rows.middle[:, tf.newaxis, tf.newaxis], columns.middle[:, tf.newaxis]
    distance = tf.square(from_y - y) + tf.square(from_x - x)
    valid = centers.valid[:, tf.newaxis, tf.newaxis]
    distance = tf.where(valid, distance, float("inf"))
    # Any of equally near ones does.
    nearest = tf.argmin(distance, axis=-1, output_type=tf.int32)
    nearest_y, nearest_x = (tf.gather(axis[:, 0, 0], nearest, batch_dims=1)[..., tf.newaxis] for axis in (y, x))
    half_y, half_x = rows.half[:, tf.newaxis, tf.newaxis], columns.half[:, tf.newaxis]
    gain = 2 * (half_y * tf.abs(nearest_y - y) + half_x * tf.abs(nearest_x - x))
    rounding = _ROUNDING * (distance + tf.square(half_y) + tf.square(half_x))
    lead = distance - tf.reduce_min(distance, axis=-1, keepdims=True)
    # In endless cells the right side is infinite, and nothing is out.
    candidate = valid & (lead <= gain + rounding)
    top_k = centers.valid.shape[1]
    return CandidateGrid(rows, columns, tf.reshape(candidate, [-1, rows.count * columns.count, top_k]))
