"""Runs an exported StableHLO folder: a module that needs JAX and NumPy alone, and travels with the export.

from jax_module import JaxModule
module = JaxModule("export/stablehlo")
outputs = module(images=np.zeros([1, 513, 1025, 3], np.uint8))   # a dictionary of arrays
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src.lib import xla_client

MODULE, WEIGHTS, MANIFEST = "model.stablehlo", "weights.npz", "manifest.json"


class JaxModule:
    """A compiled program with its weights on a device; of a training step, with its state."""

    def __init__(self, folder: str | Path, device: Any = None) -> None:
        """Compiles.

        Args:
            folder: Holds `model.stablehlo`, `weights.npz` and `manifest.json`.
            device: Of JAX; None takes the first.
        """
        folder = Path(folder)
        self.device = device or jax.devices()[0]
        manifest = json.loads((folder / MANIFEST).read_text())
        self._arguments, self._outputs = manifest["arguments"], manifest["results"]
        client, options = self.device.client, xla_client.CompileOptions()
        code = (folder / MODULE).read_bytes()
        if hasattr(client, "compile_and_load"):
            self._program = client.compile_and_load(code, xla_client.DeviceList((self.device,)), options)
        else:
            self._program = client.compile(code, options)
        with np.load(folder / WEIGHTS) as weights:
            self._values = {a["name"]: self.put(weights[a["name"]]) for a in self._arguments if a["kind"] == "weight"}

    def put(self, array: np.ndarray) -> jax.Array:
        """Copies an array to the device, with its type: JAX makes int32 of int64 otherwise."""
        enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
        with enable_x64(True):
            return jax.device_put(array, self.device)

    def __call__(self, **inputs: Any) -> dict[str, jax.Array]:
        """Runs the program.

        Args:
            inputs: By name, of the shapes and types in `manifest.json`; NumPy's, or put on the device before.

        Returns:
            Outputs by name. Results that are state become the arguments of the next call.
        """
        values = self._values | {n: v if isinstance(v, jax.Array) else self.put(v) for n, v in inputs.items()}
        arguments = [values[argument["name"]] for argument in self._arguments]
        results = self._program.execute_sharded(arguments).disassemble_into_single_device_arrays()
        outputs = {}
        for result, (array,) in zip(self._outputs, results, strict=True):
            (self._values if result["kind"] == "weight" else outputs)[result["name"]] = array
        return outputs

    def state(self) -> dict[str, np.ndarray]:
        """Returns weights, and what else the program updates, by name."""
        return {name: np.asarray(array) for name, array in self._values.items()}
