"""What runs StableHLO needs JAX and NumPy alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from deeplab2_lite.loading import TrainedModel
from deeplab2_lite.runtimes.exporting import export
from deeplab2_lite.runtimes.program import reference_function
from deeplab2_lite.runtimes.request import ExportRequest

SCRIPT = """
import sys
sys.modules["tensorflow"] = sys.modules["deeplab2_lite"] = None
sys.path.insert(0, sys.argv[1])
import numpy as np
from jax_module import JaxModule
outputs = JaxModule(sys.argv[1])(images=np.load(sys.argv[2]))
np.save(sys.argv[3], outputs["semantic_logits"])
"""


def test_without_tensorflow(model: TrainedModel, scenes, tmp_path: Path) -> None:
    folder = export(model, ExportRequest("stablehlo", (65, 97), postprocessing=False), tmp_path / "out")
    np.save(tmp_path / "images.npy", scenes[0][None])
    paths = [str(folder), str(tmp_path / "images.npy"), str(tmp_path / "found.npy")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True, timeout=300, cwd=tmp_path)
    expected = reference_function(model, postprocessing=False)(scenes[0][None])["semantic_logits"].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-4 * np.ptp(expected))
