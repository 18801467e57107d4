"""Counting on the device that makes the prediction: a small matrix leaves it instead of a map."""

from __future__ import annotations

import tensorflow as tf

from deeplab2_lite.dataset_info import DatasetInfo

# Pixels that a product of one-hot matrices takes at once; far below 2^24, up to which float32 counts exactly.
_BLOCK = 2**15


def confusion_on_device(
    truth: tf.Tensor, prediction: tf.Tensor, info: DatasetInfo, *, by_products: bool = False
) -> tf.Tensor:
    """Counts which classes meet on how many pixels, for each image of a batch; XLA compiles it.

    Args:
        truth: Panoptic ids, int32 [batch, height, width].
        prediction: Semantic ids of the same shape; what is no class is void.
        info: The label space.
        by_products: Multiply one-hot matrices instead of adding pixel by pixel: the same counts, for devices such
            as a TPU, which multiply matrices fast and scatter slowly.

    Returns:
        int32 [batch, classes + 1, classes + 1]: pixels of each true class (row) that were predicted as each class
        (column; the last is void), without those whose truth is void. The last row has pixels whose truth is
        neither void nor a class: the matrix is that of `MeanIoU.count_matrix`.
    """
    classes = info.num_classes
    batch = truth.shape[0] or tf.shape(truth)[0]
    truth = tf.reshape(truth // info.label_divisor, [batch, -1])
    prediction = tf.reshape(prediction, [batch, -1])
    is_class = (truth >= 0) & (truth < classes)
    # Void gets a row of its own, which is cut off.
    rows = tf.where(is_class, truth, tf.where(truth == info.ignore_label, classes + 1, classes))
    columns = tf.where((prediction >= 0) & (prediction < classes), prediction, classes)
    count = _count_by_products if by_products else _count_by_sums
    return count(rows, columns, classes + 2, classes + 1)[:, : classes + 1]


def _count_by_sums(rows: tf.Tensor, columns: tf.Tensor, num_rows: int, num_columns: int) -> tf.Tensor:
    """Returns int32 [batch, num_rows, num_columns] from int32 [batch, pixels] each."""
    batch = rows.shape[0] or tf.shape(rows)[0]
    cells = num_rows * num_columns
    images = tf.range(batch, dtype=tf.int32)[:, tf.newaxis]
    index = tf.reshape((images * num_rows + rows) * num_columns + columns, [-1])
    counts = tf.math.unsorted_segment_sum(tf.ones_like(index), index, batch * cells)
    return tf.reshape(counts, [batch, num_rows, num_columns])


def _count_by_products(rows: tf.Tensor, columns: tf.Tensor, num_rows: int, num_columns: int) -> tf.Tensor:
    """Returns what `_count_by_sums` returns."""
    batch = rows.shape[0] or tf.shape(rows)[0]
    pixels = rows.shape[1] or tf.shape(rows)[1]
    blocks = -(-pixels // _BLOCK)
    # What fills up the last block is of no row.
    filling = [[0, 0], [0, blocks * _BLOCK - pixels]]
    rows = tf.reshape(tf.pad(rows, filling, constant_values=-1), [batch, blocks, _BLOCK])
    columns = tf.reshape(tf.pad(columns, filling), [batch, blocks, _BLOCK])

    def add_block(block: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        true = tf.one_hot(rows[:, block], num_rows, dtype=tf.float32)
        predicted = tf.one_hot(columns[:, block], num_columns, dtype=tf.float32)
        product = tf.linalg.matmul(true, predicted, transpose_a=True)
        return block + 1, counts + tf.cast(tf.round(product), tf.int32)

    counts = tf.zeros([batch, num_rows, num_columns], tf.int32)
    _, counts = tf.while_loop(
        lambda block, _: block < blocks,
        add_block,
        [tf.constant(0), counts],
        [tf.TensorShape([]), tf.TensorShape([rows.shape[0], num_rows, num_columns])],
    )
    return counts
