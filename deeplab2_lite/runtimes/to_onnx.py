"""ONNX, by tf2onnx; run by ONNX Runtime.

Three operations get conversions of their own, since those of tf2onnx are not what TensorFlow computes, or take
memory for segments times pixels.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.runtimes.program import INPUT, Program
from deeplab2_lite.runtimes.running import Runner

FILE = "model.onnx"
# The first with sums in ScatterElements is 16; 17 is read by every runtime of the last years.
OPSET = 17


def convert(program: Program, folder: Path) -> None:
    """Writes a program.

    Args:
        program: What to convert, of any size.
        folder: Gets `model.onnx`.
    """
    import onnx
    import tf2onnx

    handlers = {
        "UnsortedSegmentSum": (_segment_sum, []),
        "SelectV2": (_select, []),
        "FloorDiv": (_floor_division, []),
    }
    path = folder / FILE
    with _quiet():
        tf2onnx.convert.from_function(
            program.function, [program.input], opset=OPSET, custom_op_handlers=handlers, output_path=str(path)
        )
    _fix_input(path, program.input_shape)
    # tf2onnx only logs what it cannot convert, and leaves TensorFlow's operation in the file.
    onnx.checker.check_model(str(path))


def load(folder: Path, threads: int | None = None) -> Runner:
    """Loads what `convert` wrote.

    Args:
        folder: Holds `model.onnx`.
        threads: Of ONNX Runtime; None takes a thread for each core.

    Returns:
        A function from uint8 images to outputs by name.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {INPUT: images}), strict=True))

    return run


def _fix_input(path: Path, shape: Sequence[int | None]) -> None:
    import onnx

    if None not in shape[:3]:
        model = onnx.load(str(path))
        for dimension, side in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
            dimension.dim_value = side
        onnx.save(model, str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of tf2onnx, and that which TensorFlow's grappler writes for it."""
    logger = logging.getLogger("tf2onnx")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        # C++ writes past Python's sys.stderr.
        with open(os.devnull, "w") as nowhere:
            kept = os.dup(2)
            os.dup2(nowhere.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                os.close(kept)
    finally:
        logger.setLevel(before)


def _segment_sum(context: Any, node: Any, name: str, _: Any) -> None:
    """tf2onnx would sort the segments, and make a table of them all by the pixels of the largest."""
    from onnx import TensorProto, helper

    data, ids, count = node.input
    (output,), shape, dtype = node.output, context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    if context.get_rank(data) != context.get_rank(ids):
        raise ValueError(f"{name}: sums of rows are not converted")
    zero = helper.make_tensor("value", context.get_dtype(data), [1], [0])
    flat = context.make_const(f"{name}_flat", np.array([-1], np.int64)).output[0]
    one = context.make_const(f"{name}_one", np.array([1], np.int64)).output[0]
    size = context.make_node("Cast", [count], attr={"to": TensorProto.INT64}).output[0]
    sums = context.make_node(
        "ConstantOfShape", [context.make_node("Reshape", [size, one]).output[0]], attr={"value": zero}
    ).output[0]
    addends, places = (context.make_node("Reshape", [part, flat]).output[0] for part in (data, ids))
    context.remove_node(node.name)
    context.make_node(
        "ScatterElements",
        [sums, places, addends],
        attr={"axis": 0, "reduction": "add"},
        name=name,
        outputs=[output],
        shapes=[shape],
        dtypes=[dtype],
    )


def _select(context: Any, node: Any, name: str, _: Any) -> None:
    """tf2onnx would multiply by 0 and 1, which makes NaN of what is infinite and not selected."""
    node.type = "Where"


def _floor_division(context: Any, node: Any, name: str, _: Any) -> None:
    """tf2onnx would round the quotient of negative integers towards 0."""
    from onnx import TensorProto

    dividend, divisor = node.input
    (output,), shape, dtype = node.output, context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    is_float = dtype in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    if is_float:
        quotient = context.make_node("Div", [dividend, divisor]).output[0]
        context.remove_node(node.name)
        context.make_node("Floor", [quotient], name=name, outputs=[output], shapes=[shape], dtypes=[dtype])
        return
    # ONNX's Mod of integers has the sign of the divisor, as Python's.
    rest = context.make_node("Mod", [dividend, divisor]).output[0]
    whole = context.make_node("Sub", [dividend, rest]).output[0]
    context.remove_node(node.name)
    context.make_node("Div", [whole, divisor], name=name, outputs=[output], shapes=[shape], dtypes=[dtype])
