"""Many requests at once, good and bad: every good one is answered rightly, every bad one refused, and memory stays."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("tensorflow_serving")

from tensorflow_serving.apis import predict_pb2

from .conftest import Trained
from .encoding import decode, encode, example, malformed
from .served_model import ServedModel

THREADS = 16


class Case(NamedTuple):
    """A request, and the maps that answer it; None where it must be refused with the message."""

    request: predict_pb2.PredictRequest
    expected: np.ndarray | None
    message: str = ""


class Outcome(NamedTuple):
    """What came of a request."""

    milliseconds: float
    equal: float | None
    refusal: str | None


def _request(signature: str, **inputs: object) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "shapes", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    request.output_filter.append("panoptic_pred")
    return request


def _good_cases(trained: Trained, scenes: list[np.ndarray]) -> list[Case]:
    cases = []
    for scene in scenes:
        for format_name in ("PNG", "JPEG"):
            files = [encode(image, format_name) for image in (scene, scene[:, ::-1])]
            pixels = [decode(file) for file in files]
            maps = np.stack([trained.panoptic(image) for image in pixels])
            cases += [
                Case(_request("serving_default", images=np.stack(pixels)), maps),
                Case(_request("serving_bytes", image_bytes=files[:1]), maps[:1]),
                Case(_request("serving_examples", examples=[example(file) for file in files]), maps),
            ]
    return cases


def _bad_cases(scene: np.ndarray) -> list[Case]:
    cases = []
    for encoded, message in malformed(scene).values():
        cases.append(Case(_request("serving_bytes", image_bytes=[encoded]), None, message))
        cases.append(Case(_request("serving_examples", examples=[example(encoded)]), None, message))
    rank = "images: expected uint8 [batch, height, width, 3], got "
    arrays = {
        f"{rank}[65, 97, 3]": np.zeros((65, 97, 3), np.uint8),
        f"{rank}[3]": np.zeros(3, np.uint8),
        f"{rank}[]": np.zeros((), np.uint8),
        f"{rank}[1, 65, 97, 4]": np.zeros((1, 65, 97, 4), np.uint8),
        f"{rank}[1, 1, 65, 97, 3]": np.zeros((1, 1, 65, 97, 3), np.uint8),
        "images: 3 x 20000 pixels": np.zeros((1, 3, 20_000, 3), np.uint8),
        "images: an empty batch": np.zeros((0, 65, 97, 3), np.uint8),
        "images: an image without pixels, [1, 0, 97, 3]": np.zeros((1, 0, 97, 3), np.uint8),
    }
    cases += [Case(_request("serving_default", images=array), None, text) for text, array in arrays.items()]
    cases.append(Case(_request("serving_default", images=np.zeros((1, 65, 97, 3), np.float32)), None, "expected type"))
    cases.append(Case(_request("serving_bytes", image_bytes=np.array([], object)), None, "an empty batch"))
    cases.append(
        Case(_request("serving_bytes", image_bytes=[[b"a"]]), None, "image_bytes: expected strings [batch], got [1, 1]")
    )
    cases.append(Case(_request("serving_examples", examples=b"a"), None, "examples: expected strings [batch], got []"))
    cases.append(Case(_request("serving_examples", examples=[b"no record"]), None, "Could not parse example"))
    return cases


def _send(model: ServedModel, case: Case) -> Outcome:
    # From bytes to bytes, as over a wire.
    request = predict_pb2.PredictRequest.FromString(case.request.SerializeToString())
    start = time.perf_counter()
    try:
        response = model.predict(request)
    except (ValueError, tf.errors.OpError) as error:
        return Outcome(1e3 * (time.perf_counter() - start), None, str(error))
    found = tf.make_ndarray(response.outputs["panoptic_pred"])
    equal = None if case.expected is None else float(np.mean(found == case.expected))
    return Outcome(1e3 * (time.perf_counter() - start), equal, None)


def _resident_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def _load(model: ServedModel, trained: Trained, scenes: list[np.ndarray], count: int) -> dict[str, float]:
    """Sends requests, one in five of them bad, and checks what comes back; returns figures."""
    draw = random.Random(0)
    good, bad = _good_cases(trained, scenes), _bad_cases(scenes[0])
    # All of the bad ones come, whatever is drawn.
    bad_ones = [bad[number % len(bad)] for number in range(count // 5)]
    cases = bad_ones + [draw.choice(good) for _ in range(count - len(bad_ones))]
    draw.shuffle(cases)
    first = count // 5
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(lambda case: _send(model, case), cases[:first]))
        before = _resident_megabytes()
        start = time.perf_counter()
        outcomes += pool.map(lambda case: _send(model, case), cases[first:])
        seconds = time.perf_counter() - start
    for case, outcome in zip(cases, outcomes, strict=True):
        if case.expected is None:
            assert outcome.refusal is not None and case.message in outcome.refusal, (case.message, outcome)
        else:
            assert outcome.refusal is None and outcome.equal >= 0.999, outcome
    answered = [outcome for outcome in outcomes if outcome.equal is not None]
    return {
        "answered": len(answered),
        "answered with the very map": sum(outcome.equal == 1 for outcome in answered),
        "refused": len(outcomes) - len(answered),
        "kinds of bad requests": len(bad),
        "requests a second": (count - first) / seconds,
        "median ms": float(np.median([outcome.milliseconds for outcome in answered])),
        "MB after a fifth": before,
        "MB at the end": _resident_megabytes(),
    }


def test_mixed_requests(served_model: ServedModel, trained: Trained, scenes) -> None:
    figures = _load(served_model, trained, scenes, count=200)
    assert figures["answered"] == 160 and figures["refused"] == 40 >= figures["kinds of bad requests"]


@pytest.mark.slow
def test_a_thousand_mixed_requests(served_model: ServedModel, trained: Trained, scenes, capsys) -> None:
    figures = _load(served_model, trained, scenes, count=1000)
    with capsys.disabled():
        print("\n" + "\n".join(f"{name}: {value:.6g}" for name, value in figures.items()))
    assert figures["answered"] == 800 and figures["refused"] == 200
    assert figures["MB at the end"] - figures["MB after a fifth"] < 50
