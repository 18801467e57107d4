"""Requests that TF Serving runs before it says that a model is ready, so that the first client does not wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import Size

# Fixed by TF Serving, below the folder of a version.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_GREY = 128


def write_warmup_requests(saved_model: Path, sizes: Sequence[Size], model_name: str) -> Path:
    """Writes a request of a grey image for each size and signature.

    Args:
        saved_model: Its folder.
        sizes: Heights and widths.
        model_name: That the requests bear.

    Returns:
        The file, a TFRecord of `PredictionLog`.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    path = saved_model / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in sizes:
            for signature, name, tensor in _inputs(size):
                request = predict_pb2.PredictRequest()
                request.model_spec.name, request.model_spec.signature_name = model_name, signature
                request.inputs[name].CopyFrom(tensor)
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())
    return path


def _inputs(size: Size) -> Iterator[tuple[str, str, tf.compat.v1.TensorProto]]:
    """The three signatures, their inputs, and a batch of one image for each."""
    # One value stands for all elements.
    images = tf.make_tensor_proto(_GREY, tf.uint8, [1, *size, 3])
    encoded = tf.io.encode_jpeg(np.full((*size, 3), _GREY, np.uint8)).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    yield "serving_default", "images", images
    yield "serving_bytes", "image_bytes", tf.make_tensor_proto([encoded])
    yield "serving_examples", "examples", tf.make_tensor_proto([example.SerializeToString()])
