"""Panoptic-DeepLab in TensorFlow 2 / Keras: train, evaluate, export and serve panoptic models.

    import deeplab2_lite as dl

Public names are loaded on first use, so that `import deeplab2_lite` costs nothing and the command
line can answer before TensorFlow is there.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "setup.py").is_file() and (_ROOT / "trainer").is_dir():
    # In a checkout data/, evaluation/, trainer/ and configs/ lie beside this folder, not in it.
    __path__.append(str(_ROOT))

_SUBMODULES = (
    "backbones",
    "benchmark",
    "complexity",
    "data",
    "evaluation",
    "layers",
    "losses",
    "postprocessing",
    "pretrained",
    "trainer",
)
_NAMES = {
    "DatasetInfo": "dataset_info",
    "EvaluationCallback": "trainer.evaluation_callback",
    "ExperimentConfig": "config",
    "PanopticDeepLab": "panoptic_deeplab",
    "Predictor": "predictor",
    "Targets": "panoptic_losses",
    "UserError": "errors",
    "build_model": "model",
    "compiled_model": "trainer.fitting",
    "export_saved_model": "export",
    "load_config": "config_loading",
    "load_dataset_info": "dataset_info",
    "load_model": "loading",
    "visualize": "visualize",
}

__all__ = ["__version__", *_SUBMODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        module = importlib.import_module(f"{__name__}.{_NAMES[name]}")
        return module if name == _NAMES[name] else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
