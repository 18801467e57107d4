"""What the commands that run models ask alike: which models, and how they look at an image."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deeplab2_lite.evaluation.journal import file_stamp

# Flags, and the fields of `InferenceConfig` that they set.
_VIEWS = {"flip": "flip_left_right", "scales": "scales", "tile_size": "tile_size", "tile_overlap": "tile_overlap"}
# What was not given is None, and stays as the model has it.
VIEW_FLAGS = (*_VIEWS, "params_override")
# What changes with a model's weights or settings.
_MODEL_FILES = ("saved_model.pb", "variables/*", "assets/*", "config.yaml", "dataset_info.yaml", "checkpoints/*")


def add_model_argument(parser: Any, required: bool = False) -> None:
    """Adds `--model`, which may be repeated.

    Args:
        parser: An `argparse` parser or group.
        required: Whether it must be given.
    """
    parser.add_argument(
        "--model",
        action="append",
        required=required,
        metavar="DIR",
        help="model folder or exported SavedModel; several model folders (repeat the flag) are averaged as an "
        "ensemble, whose post-processing is that of the first",
    )


def add_view_arguments(parser: Any) -> None:
    """Adds how a model folder's networks look at an image, and settings that win over the folder's.

    Args:
        parser: An `argparse` parser or group.
    """
    parser.add_argument("--flip", action="store_true", default=None, help="average over the mirror image, too")
    parser.add_argument("--scales", nargs="+", type=float, metavar="S", help="average over scales, such as 0.5 1 1.5 2")
    parser.add_argument(
        "--tile_size", nargs=2, type=int, metavar=("H", "W"), help="predict by overlapping tiles, for large images"
    )
    parser.add_argument("--tile_overlap", type=int, metavar="N", help="least pixels that tiles share (default: 128)")
    parser.add_argument(
        "--params_override",
        metavar="A.B=C,...",
        help="settings that win over the model's, such as model.backbone.output_stride=8: the same weights at another "
        "output stride",
    )


def overrides_of(arguments: argparse.Namespace) -> str:
    """Returns `--params_override` with the flags that say the same in fewer words.

    Args:
        arguments: Parsed, of `add_view_arguments`.

    Returns:
        Settings as `load_config` takes them.
    """
    parts = [] if arguments.params_override is None else [arguments.params_override]
    for flag, key in _VIEWS.items():
        if getattr(arguments, flag) is not None:
            parts.append(f"inference.{key}={json.dumps(getattr(arguments, flag))}")
    return ",".join(parts)


def describe_models(models: Sequence[str]) -> dict[str, Any]:
    """Returns what tells these models from others, and from themselves after further training, as JSON can hold it."""
    folders = [Path(model) for model in models]
    files = [path for folder in folders for pattern in _MODEL_FILES for path in sorted(folder.glob(pattern))]
    return {
        "models": [str(folder.resolve()) for folder in folders],
        "model_files": [file_stamp(path) for path in files],
    }
