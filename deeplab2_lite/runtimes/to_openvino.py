"""OpenVINO's own files, from the SavedModel; run by its CPU plug-in.

Sums by segment get a conversion of their own: OpenVINO's takes time for segments times pixels, a minute an image.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.runtimes.program import Program
from deeplab2_lite.runtimes.running import Runner
from deeplab2_lite.runtimes.to_saved_model import convert as convert_to_saved_model

FILE = "model.xml"


def convert(program: Program, folder: Path) -> None:
    """Writes a program.

    Args:
        program: What to convert.
        folder: Gets `model.xml` and `model.bin`.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.tensorflow import ConversionExtension

    with tempfile.TemporaryDirectory() as saved:
        convert_to_saved_model(program, Path(saved))
        # What `openvino.convert_model` wraps, less its telemetry, which forks this process.
        front_end = FrontEndManager().load_by_framework("tf")
        front_end.add_extension(ConversionExtension("UnsortedSegmentSum", _segment_sum))
        model = front_end.convert(front_end.load(saved))
        # In half precision, its default, weights would be those of another network.
        openvino.save_model(model, str(folder / FILE), compress_to_fp16=False)


def load(folder: Path, threads: int | None = None) -> Runner:
    """Loads what `convert` wrote.

    Args:
        folder: Holds `model.xml`.
        threads: Of OpenVINO; None takes a thread for each core.

    Returns:
        A function from uint8 images to outputs by name.
    """
    import openvino

    # Where the processor has bfloat16, OpenVINO would compute in it unasked.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or 0}
    compiled = openvino.Core().compile_model(str(folder / FILE), "CPU", settings)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        results = compiled([images])
        return {output.any_name: results[output] for output in compiled.outputs}

    return run


def _segment_sum(node: Any) -> list[Any]:
    from openvino import opset12 as operations

    data, ids, count = (node.get_input(number) for number in range(3))
    flat, one = (operations.constant(np.array([size], np.int32)) for size in (-1, 1))
    zero = operations.convert_like(operations.constant(np.array(0, np.int32)), data)
    sums = operations.broadcast(zero, operations.reshape(count, one, False))
    places, addends = (operations.reshape(part, flat, False) for part in (ids, data))
    axis = operations.constant(np.array(0, np.int32))
    return operations.scatter_elements_update(sums, places, addends, axis, "sum", True).outputs()
