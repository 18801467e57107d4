"""A gRPC and a REST server before one `ServedModel`, which answer as TF Serving documents."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from .served_model import ServedModel


class _Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: ServedModel) -> None:
        self._model = model

    def Predict(self, request, context):
        try:
            return self._model.predict(request)
        except (ValueError, tf.errors.OpError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


@contextlib.contextmanager
def grpc_server(model: ServedModel) -> Iterator[str]:
    """Yields the server's address."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Service(model), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def rest_server(model: ServedModel) -> Iterator[str]:
    """Yields the server's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                name = self.path.removeprefix("/v1/models/").removesuffix(":predict")
                status, answer = 200, {"predictions": _rows(model.predict(_request(name, body)))}
            except (ValueError, tf.errors.OpError) as error:
                status, answer = 400, {"error": str(error)}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _request(name: str, body: dict[str, Any]) -> predict_pb2.PredictRequest:
    """Rows become batches; what is {"b64": ...} becomes bytes."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, body["signature_name"]
    for key in body["instances"][0]:
        values = [base64.b64decode(row[key]["b64"], validate=True) for row in body["instances"]]
        request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
    return request


def _rows(response: predict_pb2.PredictResponse) -> list[Any]:
    """Batches become rows, a single output without its name; outputs named *_bytes become {"b64": ...}."""
    batches = {key: tf.make_ndarray(tensor) for key, tensor in response.outputs.items()}
    count = len(next(iter(batches.values())))
    rows = [{key: _json(key, values[i]) for key, values in batches.items()} for i in range(count)]
    return [next(iter(row.values())) for row in rows] if len(batches) == 1 else rows


def _json(key: str, value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if key.endswith("_bytes") else value.tolist()
