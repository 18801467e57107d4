"""Grouping: each thing pixel goes to the centre nearest to where its offset points (paper section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.postprocessing.candidates import candidate_grid
from deeplab2_lite.postprocessing.centers import Centers
from deeplab2_lite.postprocessing.compilation import is_compiled_by_xla

_FAR = float("inf")
# In place of the number of a centre, where a cell has more than one candidate.
_TWO, _MORE = -1, -2


def group_pixels(center_offset: tf.Tensor, is_thing: tf.Tensor, centers: Centers) -> tf.Tensor:
    """Assigns thing pixels to centres.

    The centre with the least (y + dy - center_y)^2 + (x + dx - center_x)^2 wins, computed in float32 in
    this order; of equally near ones the first. Finite offsets so large that every distance overflows are
    equally far from all, and so go to the first centre too.

    Only pixels that point into a cell of several candidates need distances. TensorFlow takes those alone;
    where XLA needs static shapes, all pixels are compared, with as many centres as a cell holds.

    Args:
        center_offset: [batch, height, width, 2], (dy, dx) in pixels, floating point.
        is_thing: bool [batch, height, width].
        centers: The centres of each image.

    Returns:
        int32 [batch, height, width]: 1 + the row of the centre; 0 on pixels that are no things, whose offset is
        not finite, or whose image has no centre.
    """
    offset = tf.cast(center_offset, tf.float32)
    shape = offset.shape[:3]
    batch, height, width = (shape[i] if shape[i] is not None else tf.shape(offset)[i] for i in range(3))
    dy, dx = tf.unstack(offset, axis=-1)
    has_center = tf.reduce_any(centers.valid, axis=1)[:, tf.newaxis, tf.newaxis]
    grouped = is_thing & tf.math.is_finite(dy) & tf.math.is_finite(dx) & has_center
    target_y = tf.where(grouped, dy + tf.range(height, dtype=tf.float32)[:, tf.newaxis], 0.0)
    target_x = tf.where(grouped, dx + tf.range(width, dtype=tf.float32), 0.0)

    grid = candidate_grid(centers, height, width)
    table = _Table.of(grid.candidate, centers)
    image = tf.range(batch)[:, tf.newaxis, tf.newaxis]
    cell = grid.cell_of(target_y, target_x) + image * tf.shape(grid.candidate)[1]
    nearest = tf.gather(table.only, cell)
    points = _Points(target_y, target_x, cell)
    if is_compiled_by_xla():
        undecided = grouped & (nearest < 0)
        nearest = tf.where(undecided, _compare(points, table.order, table.position, undecided), nearest)
    else:
        # Apart, or a few far out among dozens of candidates would make all the others wait.
        for several in (_TWO, _MORE):
            nearest = _compare_some(points, table, grouped & (nearest == several), nearest)
    row = nearest - image * centers.valid.shape[1]
    return tf.ensure_shape(tf.where(grouped, row + 1, 0), shape)


class _Points(NamedTuple):
    """Where pixels point to, (y, x), and the cells there, all of one shape."""

    y: tf.Tensor
    x: tf.Tensor
    cell: tf.Tensor


class _Table(NamedTuple):
    """The candidates of the cells of all images, and where they lie.

    A candidate is the number of its centre among those of all images, in order of rows.

    Attributes:
        order: int32 [batch * cells, top_k], the candidate, or `none`, which is batch * top_k.
        only: int32 [batch * cells], the candidate where there is but one, else `_TWO` or `_MORE`.
        position: float32 [batch * top_k + 1, 2], (y, x); the last lies infinitely far away.
    """

    order: tf.Tensor
    only: tf.Tensor
    position: tf.Tensor

    @classmethod
    def of(cls, candidate: tf.Tensor, centers: Centers) -> _Table:
        batch, top_k = tf.shape(candidate)[0], candidate.shape[2]
        number = tf.reshape(tf.range(batch * top_k), [-1, 1, top_k])
        order = tf.reshape(tf.where(candidate, number, batch * top_k), [-1, top_k])
        count = tf.reduce_sum(tf.cast(tf.reshape(candidate, [-1, top_k]), tf.int32), axis=1)
        several = tf.where(count == 2, _TWO, _MORE)
        only = tf.where(count > 1, several, tf.reduce_min(order, axis=1))
        position = tf.reshape(tf.cast(centers.position, tf.float32), [-1, 2])
        return cls(order, only, tf.pad(position, [[0, 1], [0, 0]], constant_values=_FAR))


def _compare_some(points: _Points, table: _Table, undecided: tf.Tensor, nearest: tf.Tensor) -> tf.Tensor:
    """Compares candidates for the undecided pixels, in the cells that they point to; others keep their `nearest`."""
    index = tf.where(tf.reshape(undecided, [-1]))
    y, x, cell = (tf.gather(tf.reshape(part, [-1]), index[:, 0]) for part in points)
    cells = tf.shape(table.order)[0]
    used = tf.math.unsorted_segment_sum(tf.ones_like(cell), cell, cells) > 0
    renumbered = tf.gather(tf.cumsum(tf.cast(used, tf.int32), exclusive=True), cell)
    order = tf.boolean_mask(table.order, used)
    found = _compare(_Points(y, x, renumbered), order, table.position, tf.ones_like(cell, tf.bool))
    return tf.reshape(tf.tensor_scatter_nd_update(tf.reshape(nearest, [-1]), index, found), tf.shape(nearest))


def _compare(points: _Points, order: tf.Tensor, position: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
    """Finds the nearest candidate of the active points, of equally near ones the first; of others anything."""
    none = tf.shape(position)[0] - 1
    # Cells of many candidates that nobody points to must not make the others wait.
    visits = tf.math.unsorted_segment_sum(tf.cast(active, tf.int32), points.cell, tf.shape(order)[0])
    order = tf.where((visits > 0)[:, tf.newaxis], order, none)

    def some_left(candidate: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(candidate < none)

    def compare(candidate: tf.Tensor, least: tf.Tensor, nearest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        number = tf.gather(candidate, points.cell)
        center = tf.gather(position, number)
        # Not unstacked: LiteRT refuses that where there are no points.
        distance = _square_distance(points.y, center[..., 0]) + _square_distance(points.x, center[..., 1])
        closer = distance < least
        following = tf.reduce_min(tf.where(order > candidate[:, tf.newaxis], order, none), axis=1)
        return following, tf.where(closer, distance, least), tf.where(closer, number, nearest)

    first = tf.reduce_min(order, axis=1)
    # One after another, or the planes of several candidates would be alive at once.
    state = (first, tf.ones_like(points.y) * _FAR, tf.gather(first, points.cell))
    return tf.while_loop(some_left, compare, state, parallel_iterations=1)[2]


def _square_distance(position: tf.Tensor, center: tf.Tensor) -> tf.Tensor:
    square = tf.square(position - center)
    if not is_compiled_by_xla():
        return square
    # The selection keeps the compiler from fusing this product with the sum, which would round only once
    # and tell nearly equal distances apart in another way than the separate operations.
    return tf.where(center < _FAR, square, _FAR)
