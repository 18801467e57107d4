"""Asks a server (TF Serving) for the panoptic map of an image, by gRPC or REST.

    python examples/serving_client.py street.jpg --model cityscapes --output street.png
    python examples/serving_client.py street.jpg --model cityscapes --output street.png --rest --server localhost:8501

The model is exported with `panoptic_png_bytes` among `export.outputs` (docs/serving.md). The PNG holds panoptic ids as
R + 256 G + 65536 B; `--labels` (assets/labels.json of the export) says what is in the image, segment by segment.
Nothing of this library is needed here: REST takes numpy and Pillow, gRPC tensorflow-serving-api besides.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

SIGNATURE, INPUT, OUTPUT = "serving_bytes", "image_bytes", "panoptic_png_bytes"


class RequestRefused(Exception):
    """The server has no answer; the text is its reason."""


def ask_grpc(server: str, model: str, image: bytes, timeout: float) -> bytes:
    """Returns the PNG of an encoded image, by gRPC (port 8500)."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, SIGNATURE
    request.inputs[INPUT].CopyFrom(tf.make_tensor_proto([image]))
    # The other outputs stay where they are.
    request.output_filter.append(OUTPUT)
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server, options=unlimited) as channel:
        try:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=timeout)
        except grpc.RpcError as error:
            raise RequestRefused(error.details()) from None
    return tf.make_ndarray(answer.outputs[OUTPUT])[0]


def ask_rest(server: str, model: str, image: bytes, timeout: float) -> bytes:
    """Returns the PNG of an encoded image, by REST (port 8501)."""
    row = {INPUT: {"b64": base64.b64encode(image).decode()}}
    body = json.dumps({"signature_name": SIGNATURE, "instances": [row]}).encode()
    url = f"http://{server}/v1/models/{model}:predict"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=timeout) as response:
            (prediction,) = json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        raise RequestRefused(json.load(error)["error"]) from None
    except OSError as error:
        raise RequestRefused(f"{url}: {error}") from None
    # A signature of one output answers with it alone, one of several with all of them by name.
    encoded = prediction if "b64" in prediction else prediction[OUTPUT]
    return base64.b64decode(encoded["b64"])


def read_ids(png: bytes) -> np.ndarray:
    """Returns panoptic ids, int32 [height, width]."""
    return np.asarray(Image.open(io.BytesIO(png)), np.int32) @ np.array([1, 256, 65536], np.int32)


def describe(ids: np.ndarray, labels: dict) -> list[str]:
    """Returns a line a segment, largest first: pixels, class, and the number of a thing."""
    names = {category["id"]: category["name"] for category in labels["categories"]}
    names[labels["ignore_label"]] = "(void)"
    lines = []
    for area, panoptic_id in sorted(zip(*np.unique(ids, return_counts=True)[::-1], strict=True), reverse=True):
        class_id, instance = divmod(int(panoptic_id), labels["label_divisor"])
        lines.append(f"{area:9d} pixels  {names[class_id]}" + (f" {instance}" if instance else ""))
    return lines


def colored(ids: np.ndarray, labels: dict) -> np.ndarray:
    """Returns a picture, uint8 [height, width, 3]: a colour a class, things a shade each, void black."""
    colors = np.zeros((max(labels["ignore_label"], len(labels["categories"])) + 1, 3))
    for category in labels["categories"]:
        colors[category["id"]] = category["color"]
    class_ids, instances = np.divmod(ids, labels["label_divisor"])
    # Seven steps that neighbours rarely share.
    shade = np.where(instances == 0, 1, 1 - 0.09 * (instances * 3 % 7))
    return (colors[class_ids] * shade[..., None]).astype(np.uint8)


def main() -> int:
    """Runs the client; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="JPEG, PNG, BMP, GIF or WebP")
    parser.add_argument("--model", required=True, metavar="NAME")
    parser.add_argument("--server", metavar="HOST:PORT", help="default localhost:8500, with --rest localhost:8501")
    parser.add_argument("--rest", action="store_true", help="ask by REST, not by gRPC")
    parser.add_argument("--output", type=Path, metavar="PNG", help="gets the panoptic ids")
    parser.add_argument("--labels", type=Path, metavar="JSON", help="say what was found")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="with --labels: gets the segments in colours")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS")
    arguments = parser.parse_args()
    server = arguments.server or ("localhost:8501" if arguments.rest else "localhost:8500")
    ask = ask_rest if arguments.rest else ask_grpc
    try:
        png = ask(server, arguments.model, arguments.image.read_bytes(), arguments.timeout)
    except (RequestRefused, OSError) as error:
        print(f"{arguments.image}: {error}", file=sys.stderr)
        return 1
    if arguments.output:
        arguments.output.write_bytes(png)
    ids = read_ids(png)
    print(f"{ids.shape[0]} x {ids.shape[1]} pixels, {len(np.unique(ids))} segments")
    if arguments.labels:
        labels = json.loads(arguments.labels.read_text())
        print("\n".join(describe(ids, labels)))
        if arguments.picture:
            Image.fromarray(colored(ids, labels)).save(arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
