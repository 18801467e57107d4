"""Settings and fixtures that all tests share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import gc
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Shared machines are slow at times: a deadline would test the machine. Draws are fixed for CI.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("default")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", autouse=True)
def garbage_of_one_module() -> Iterator[None]:
    """Keeps the garbage collector from looking again at what earlier modules left: seconds each time, at the end."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; the test is skipped where it is missing."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real images are missing: no folder {folder}")
    return folder
