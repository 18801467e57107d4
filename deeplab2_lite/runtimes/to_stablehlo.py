"""StableHLO, from the graph that TensorFlow gives to XLA; run by JAX, without TensorFlow.

The program takes its weights as arguments, so that they are stored once, and a training step can give them back.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.runtimes.jax_module import MODULE, WEIGHTS, JaxModule
from deeplab2_lite.runtimes.program import Program
from deeplab2_lite.runtimes.running import Runner

# Read by every version since, and by compilers that are not JAX's.
STABLEHLO_VERSION = "1.0.0"
_ALIAS = re.compile(r"\{(\d+)\}: \((\d+), \{\}")


class Argument(NamedTuple):
    """What the program takes, or gives: an input or output by name, or a weight."""

    name: str
    kind: str
    shape: list[int]
    dtype: str


def convert(program: Program, folder: Path) -> dict[str, Any]:
    """Writes a program of static shape.

    Args:
        program: Of a function that XLA compiles.
        folder: Gets `model.stablehlo`, `weights.npz`, and `jax_module.py`, which runs them.

    Returns:
        What the manifest says beside inputs and outputs: arguments and results in order.
    """
    return convert_function(program.function, [program.input], folder)


def convert_function(
    function: Any, inputs: list[tf.TensorSpec], folder: Path, variables: Sequence[tf.Variable] = ()
) -> dict[str, Any]:
    """Writes a function of static shape, which may update variables.

    Args:
        function: A `tf.function(jit_compile=True)` that gives a dictionary of tensors.
        inputs: What it takes, each with a name.
        folder: As for `convert`.
        variables: Those that it uses within conditions alone: its graph does not list them.

    Returns:
        As `convert`.
    """
    concrete = function.get_concrete_function(*inputs)
    weights = _captured(concrete, variables)
    intermediate = function.experimental_get_compiler_ir(*inputs)
    header = intermediate(stage="hlo").split("\n", 1)[0]
    (folder / MODULE).write_bytes(_portable(intermediate(stage="hlo_serialized")))
    np.savez(folder / WEIGHTS, **weights)
    shutil.copyfile(Path(__file__).with_name("jax_module.py"), folder / "jax_module.py")

    arguments = [Argument(spec.name, "input", spec.shape.as_list(), spec.dtype.name) for spec in inputs]
    arguments += [Argument(name, "weight", list(value.shape), value.dtype.name) for name, value in weights.items()]
    results = [
        Argument(name, "output", tensor.shape.as_list(), tensor.dtype.name)
        for name, tensor in sorted(concrete.structured_outputs.items())
    ]
    # XLA gives updated variables back after the outputs, and says which argument each of them is.
    updates = {int(result): int(argument) for result, argument in _ALIAS.findall(_aliases(header))}
    results += [arguments[updates[number]] for number in sorted(updates)]
    return {
        "arguments": [argument._asdict() for argument in arguments],
        "results": [result._asdict() for result in results],
        "stablehlo": STABLEHLO_VERSION,
    }


def load(folder: Path, threads: int | None = None) -> Runner:
    """Loads what `convert` wrote.

    Args:
        folder: Holds it.
        threads: As XLA takes them; expected None.

    Returns:
        A function from uint8 images to outputs by name.
    """
    module = JaxModule(folder)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(array) for name, array in module(images=images).items()}

    return run


def _captured(concrete: Any, more: Sequence[tf.Variable]) -> dict[str, np.ndarray]:
    """The values of variables and constants that a graph captured, in the order in which XLA takes them."""
    variables = {id(variable.handle): variable for variable in (*concrete.graph.variables, *more)}
    captured = {}
    for number, tensor in enumerate(concrete.captured_inputs):
        variable = variables.get(id(tensor))
        name = "constant" if variable is None else variable.name.removesuffix(":0")
        captured[f"{number:04d}/{name}"] = (tensor if variable is None else variable).numpy()
    return captured


def _aliases(header: str) -> str:
    found = re.search(r"input_output_alias=\{(.*?)\}, entry", header)
    return found[1] if found else ""


def _portable(hlo: bytes) -> bytes:
    """Makes a versioned StableHLO artefact of XLA's own format."""
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax, xla_client
    from jax._src.lib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    text = _jax.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    context = mlir.make_ir_context()
    with context, ir.Location.unknown(context):
        module = ir.Module.parse(text)
        _remove_copies(module)
        return stablehlo.serialize_portable_artifact(module, STABLEHLO_VERSION)


def _remove_copies(module: Any) -> None:
    """Takes out the operation that StableHLO does not have, and that says nothing of values."""
    copies: list[Any] = []

    def visit(operation: Any) -> None:
        for region in operation.regions:
            for block in region:
                for inner in block:
                    if inner.operation.name == "mhlo.copy":
                        copies.append(inner.operation)
                    visit(inner.operation)

    visit(module.operation)
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()
