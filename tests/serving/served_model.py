"""TF Serving's Predict on a SavedModel: the same protos, the same loader, the same Session beneath."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import predict_pb2


class ServedModel:
    """A loaded version; `predict` may be called by many threads."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._version = name, int(folder.name)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self.meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        self._run = {}
        for key, signature in self.meta_graph.signature_def.items():
            if key.startswith("__"):
                continue
            options = config_pb2.CallableOptions()
            options.feed.extend(tensor.name for tensor in signature.inputs.values())
            options.fetch.extend(tensor.name for tensor in signature.outputs.values())
            # Unlike Session.run, this leaves shapes to the graph, as a server does.
            self._run[key] = self._session._make_callable_from_options(options)

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Answers as TF Serving does; raises ValueError or tf.errors.OpError with what a client is told."""
        name = request.model_spec.signature_name or "serving_default"
        if request.model_spec.name != self.name or name not in self._run:
            raise ValueError(f"Servable not found for request: Latest({request.model_spec.name}), signature {name}")
        signature = self.meta_graph.signature_def[name]
        if set(request.inputs) != set(signature.inputs):
            raise ValueError(f"input must be {sorted(signature.inputs)}, got {sorted(request.inputs)}")
        for key, expected in signature.inputs.items():
            if request.inputs[key].dtype != expected.dtype:
                raise ValueError(f"input {key}: expected type {expected.dtype}, got {request.inputs[key].dtype}")
        feeds = [tf.make_ndarray(request.inputs[key]) for key in signature.inputs]
        outputs = dict(zip(signature.outputs, self._run[name](*feeds), strict=True))
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = self.name, name
        response.model_spec.version.value = self._version
        for key in request.output_filter or outputs:
            if key not in outputs:
                raise ValueError(f"output tensor alias not found in signature: {key}")
            response.outputs[key].CopyFrom(tf.make_tensor_proto(np.asarray(outputs[key])))
        return response

    def close(self) -> None:
        self._session.close()
