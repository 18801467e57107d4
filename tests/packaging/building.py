"""The checkout's distributions, built from a copy, so that the checkout stays as it is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Folders that install under the import name deeplab2_lite, beside that folder itself.
INSTALLED_BELOW = ("configs", "data", "evaluation", "trainer")
_BUILT_FROM = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")


def files_to_install() -> set[str]:
    """All files of the checkout that an installation must have, by their paths there."""
    names = set()
    for folder in ("deeplab2_lite", *INSTALLED_BELOW):
        below = "" if folder == "deeplab2_lite" else "deeplab2_lite/"
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                names.add(below + path.relative_to(ROOT).as_posix())
    return names


def copy_of_checkout(folder: Path) -> Path:
    for name in ("deeplab2_lite", *INSTALLED_BELOW, "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _BUILT_FROM:
        shutil.copy(ROOT / name, folder / name)
    return folder


def build(source: Path, output: Path, *kinds: str) -> list[Path]:
    """Runs `python -m build` by the setuptools that is installed here; returns what lies in `output`."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), *kinds, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return sorted(output.iterdir())


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, but for those about the wheel itself."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")]
        return {name: archive.read(name) for name in names}


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()
