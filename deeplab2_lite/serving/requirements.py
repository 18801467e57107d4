"""What an export needs beside the library's own dependencies: all that is said before TensorFlow is imported."""

from __future__ import annotations

import importlib.util

from deeplab2_lite.config import ExportConfig
from deeplab2_lite.errors import UserError


def check_packages(config: ExportConfig) -> None:
    """Refuses an export whose packages are not installed.

    Args:
        config: What is to be exported.

    Raises:
        UserError: Warm-up requests are asked for, and nothing is there to write them.
    """
    if config.warmup_sizes and not _is_installed("tensorflow_serving"):
        raise UserError(
            "export.warmup_sizes: needs tensorflow-serving-api, which is not installed; "
            "pip install 'deeplab2_lite[serving]'"
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # Something stands in its place in sys.modules.
        return False
