"""The network's outputs, and bringing them from stride 4 to the resolution of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from deeplab2_lite.errors import UserError
from deeplab2_lite.layers.resizing import resize_align_corners
from deeplab2_lite.postprocessing.compilation import is_compiled_by_xla

# Rows of a stripe: its logits should stay in the cache, yet not be so small that starting operations costs.
_STRIPE = 32
_STRIPES_AT_ONCE = 2

_Resize = Callable[[tf.Tensor, "int | tf.Tensor", "int | tf.Tensor"], tf.Tensor]


class Heads(NamedTuple):
    """The network's outputs at one resolution; None where the model has no such head.

    Attributes:
        semantic_logits: [batch, height, width, classes].
        center_heatmap: [batch, height, width, 1], 1 at the centre of an instance.
        center_offset: [batch, height, width, 2], (dy, dx) to the instance's centre, in pixels of this
            resolution.
    """

    semantic_logits: tf.Tensor | None
    center_heatmap: tf.Tensor | None
    center_offset: tf.Tensor | None


class Upsampling(NamedTuple):
    """A resolution to bring heads to, and the part of it that is wanted: the rest is padding.

    Attributes:
        height: Height of the padded image in pixels, static or a scalar tensor; a float, and then no whole
            number, where the heads are of a scaled image.
        width: Its width, likewise.
        rows: Height of the image without padding, at the top.
        columns: Its width, at the left.
    """

    height: int | float | tf.Tensor
    width: int | float | tf.Tensor
    rows: int | tf.Tensor
    columns: int | tf.Tensor

    def brought_to(self, rows: int | tf.Tensor, columns: int | tf.Tensor) -> Upsampling:
        """Returns how the heads come to another resolution than that of the image which the network saw.

        Args:
            rows: Height of the image at that resolution; its corners stay corners.
            columns: Its width.

        Returns:
            The upsampling to there, in one step.
        """
        height, width = (
            1 + (_as_float(padded) - 1) * (_as_float(wanted) - 1) / _maximum(_as_float(seen) - 1, 1.0)
            for padded, seen, wanted in ((self.height, self.rows, rows), (self.width, self.columns, columns))
        )
        return Upsampling(height, width, rows, columns)

    @property
    def is_fractional(self) -> bool:
        """Whether the padded image has no whole number of pixels."""
        return any(s.dtype.is_floating if tf.is_tensor(s) else isinstance(s, float) for s in (self.height, self.width))

    def apply(self, heads: Heads | Mapping[str, tf.Tensor]) -> Heads:
        """Upsamples all outputs, and cuts off the padding.

        Args:
            heads: As for `upsample_heads`.

        Returns:
            The heads at rows x columns, float32.
        """
        if self.is_fractional:
            return _upsample(as_heads(heads), self.height, self.width, self._sample)
        # XLA turns the one operation into a convolution, which takes ten times as long; and what is not the result
        # of a loop it computes anew wherever it is needed.
        resize = _resize_by_stripes if is_compiled_by_xla() else resize_align_corners
        whole = _upsample(as_heads(heads), self.height, self.width, resize)
        return Heads(*(head if head is None else head[:, : self.rows, : self.columns] for head in whole))

    def _sample(self, head: tf.Tensor, height: float | tf.Tensor, width: float | tf.Tensor) -> tf.Tensor:
        return map_stripes(lambda stripe, _: stripe, head, self, tf.float32, channels=head.shape[-1])


def upsample_heads(heads: Heads | Mapping[str, tf.Tensor], height: int | tf.Tensor, width: int | tf.Tensor) -> Heads:
    """Resizes all outputs bilinearly with aligned corners, offsets in value as well as in size.

    Args:
        heads: The model's outputs, as a mapping by the names of `Heads` or as `Heads`.
        height: Height of the image in pixels, static or a scalar tensor.
        width: Its width, likewise.

    Returns:
        The heads at height x width, float32: a heatmap in half precision would gain ties. Offsets are
        multiplied by (height - 1) / (their height - 1), and likewise across; by 1 where their side is 1.

    Raises:
        UserError: No output is there, or a size is not positive.
    """
    heads = as_heads(heads)
    for name, size in (("height", height), ("width", width)):
        if not tf.is_tensor(size) and size < 1:
            raise UserError(f"upsample_heads: {name}: expected a positive size in pixels, got {size}")
    return _upsample(heads, height, width, resize_align_corners)


def as_heads(outputs: Heads | Mapping[str, tf.Tensor]) -> Heads:
    """Reads a network's outputs.

    Args:
        outputs: As a mapping by the names of `Heads`, or as `Heads`.

    Returns:
        The outputs.

    Raises:
        UserError: None is there.
    """
    heads = outputs if isinstance(outputs, Heads) else Heads(*(outputs.get(name) for name in Heads._fields))
    if all(head is None for head in heads):
        raise UserError(f"upsample_heads: expected a mapping with one of {', '.join(Heads._fields)} at least")
    return heads


def _upsample(heads: Heads, height: int | tf.Tensor, width: int | tf.Tensor, resize: _Resize) -> Heads:
    single = (head if head is None else tf.cast(head, tf.float32) for head in heads)
    logits, heatmap, offset = (head if head is None else resize(head, height, width) for head in single)
    if offset is not None:
        old_height, old_width = (_side(heads.center_offset, axis) for axis in (1, 2))
        offset *= tf.stack([_scale(height, old_height), _scale(width, old_width)])
    return Heads(logits, heatmap, offset)


def _side(head: tf.Tensor, axis: int) -> int | tf.Tensor:
    static = head.shape[axis]
    return tf.shape(head)[axis] if static is None else static


def _scale(new: int | tf.Tensor, old: int | tf.Tensor) -> tf.Tensor:
    steps = tf.cast(new - 1, tf.float32) / tf.cast(tf.maximum(old - 1, 1), tf.float32)
    return tf.where(tf.equal(old, 1), 1.0, steps)


def map_stripes(
    compute: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    head: tf.Tensor,
    upsampling: Upsampling | None,
    dtype: tf.DType,
    channels: int | None = None,
) -> tf.Tensor:
    """Computes values of the pixels from a head that is upsampled some rows at a time, never held as a whole.

    Each stripe of rows is interpolated by the very operations, in the very order, of bilinear resizing,
    so that its values are those of `upsample_heads`.

    Args:
        compute: From a stripe, float32 [batch, stripe, columns, channels], and its rows' numbers in the image,
            int32 [stripe], to values [batch, stripe, columns], or [.., channels].
        head: [batch, height, width, channels], floating point.
        upsampling: To which resolution; None takes the head as it is.
        dtype: Of the values.
        channels: Values a pixel; None for one, without a dimension of its own.

    Returns:
        [batch, rows, columns], or [.., channels].
    """
    head = tf.cast(head, tf.float32)
    old_height, old_width = _side(head, 1), _side(head, 2)
    if upsampling is None:
        rows, columns = old_height, old_width

        def stripe_of(wanted: tf.Tensor) -> tf.Tensor:
            return tf.gather(head, wanted, axis=1)
    else:
        rows, columns = upsampling.rows, upsampling.columns
        across = _Interpolation.of(old_width, upsampling.width, columns)
        down = _Interpolation.of(old_height, upsampling.height, rows)
        # A stripe lies between so many rows of the head.
        steps = _quotient((_STRIPE - 1) * (old_height - 1), _maximum(upsampling.height - 1, 1))
        reach = _minimum(steps + 3, old_height)

        def stripe_of(wanted: tf.Tensor) -> tf.Tensor:
            before, after, weight = (tf.gather(part, wanted) for part in down)
            start = tf.minimum(before[0], old_height - reach)
            size = tf.stack([_side(head, 0), reach, old_width, head.shape[3]])
            coarse = _between(tf.slice(head, tf.stack([0, start, 0, 0]), size), across, axis=2)
            return _between(coarse, _Interpolation(before - start, after - start, weight), axis=1)

    def values(first: tf.Tensor) -> tf.Tensor:
        # All stripes have one static size: the rows beyond the last one repeat it.
        wanted = tf.minimum(first + tf.range(_STRIPE), rows - 1)
        return compute(stripe_of(wanted), wanted)

    depth = [] if channels is None else [channels]
    signature = tf.TensorSpec([head.shape[0], _STRIPE, _static(columns), *depth], dtype)
    stripes = tf.map_fn(
        values, tf.range(0, rows, _STRIPE), fn_output_signature=signature, parallel_iterations=_STRIPES_AT_ONCE
    )
    order = [1, 0, 2, 3, 4][: 4 + len(depth)]
    whole = tf.reshape(tf.transpose(stripes, order), tf.stack([_side(head, 0), -1, columns, *depth]))
    return tf.ensure_shape(whole[:, :rows], [head.shape[0], _static(rows), _static(columns), *depth])


class _Interpolation(NamedTuple):
    """Between which two old positions each new one lies, and how far along, as `ResizeBilinear` rounds it."""

    before: tf.Tensor
    after: tf.Tensor
    weight: tf.Tensor

    @classmethod
    def of(cls, old: int | tf.Tensor, new: int | tf.Tensor, wanted: int | tf.Tensor) -> _Interpolation:
        step = tf.cast(old - 1, tf.float32) / tf.cast(_maximum(new - 1, 1), tf.float32)
        position = tf.range(tf.cast(wanted, tf.float32)) * step
        before = tf.cast(tf.floor(position), tf.int32)
        after = tf.minimum(tf.cast(tf.math.ceil(position), tf.int32), old - 1)
        return cls(before, after, position - tf.floor(position))


def _resize_by_stripes(head: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Does as `resize_align_corners` on float32."""
    upsampling = Upsampling(height, width, height, width)
    return map_stripes(lambda stripe, _: stripe, head, upsampling, tf.float32, channels=head.shape[-1])


def _between(values: tf.Tensor, interpolation: _Interpolation, axis: int) -> tf.Tensor:
    before, after = (tf.gather(values, index, axis=axis) for index in interpolation[:2])
    weight = tf.reshape(interpolation.weight, [-1, *[1] * (values.shape.rank - 1 - axis)])
    return before + (after - before) * weight


def _static(size: int | tf.Tensor) -> int | None:
    return None if tf.is_tensor(size) else size


def _as_float(size: int | float | tf.Tensor) -> float | tf.Tensor:
    return tf.cast(size, tf.float32) if tf.is_tensor(size) else float(size)


def _quotient(a: int | tf.Tensor, b: int | float | tf.Tensor) -> int | tf.Tensor:
    """Returns a / b without its fraction."""
    if tf.is_tensor(b) and b.dtype.is_floating:
        return tf.cast(tf.cast(a, b.dtype) / b, tf.int32)
    if tf.is_tensor(a) and isinstance(b, float):
        return tf.cast(tf.cast(a, tf.float32) / b, tf.int32)
    return a // b if tf.is_tensor(a) or tf.is_tensor(b) else int(a // b)


def _minimum(a: int | tf.Tensor, b: int | tf.Tensor) -> int | tf.Tensor:
    return tf.minimum(a, b) if tf.is_tensor(a) or tf.is_tensor(b) else min(a, b)


def _maximum(a: int | tf.Tensor, b: int) -> int | tf.Tensor:
    return tf.maximum(a, b) if tf.is_tensor(a) else max(a, b)
