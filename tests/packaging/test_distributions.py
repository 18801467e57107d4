"""Wheel and sdist: what is in them, and that they run far from the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("setuptools", minversion="77")

import deeplab2_lite

from .building import ROOT, build, contents, copy_of_checkout, files_to_install, metadata


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    return copy_of_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    (wheel,) = build(checkout, tmp_path_factory.mktemp("wheel"), "--wheel")
    return wheel


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel):
    expected = files_to_install()
    assert {"deeplab2_lite/py.typed", "deeplab2_lite/evaluation/demo/page.html"} < expected
    assert set(contents(wheel)) == expected


def test_the_wheel_says_what_it_is(wheel):
    assert wheel.name == f"deeplab2_lite-{deeplab2_lite.__version__}-py3-none-any.whl"
    text = metadata(wheel)
    assert re.search(r"^Version: (.*)$", text, re.M)[1] == deeplab2_lite.__version__
    assert "Typing :: Typed" in text
    assert "from a folder of labelled images" in text  # the README


@pytest.mark.slow
def test_sdist_and_wheel_install_and_run_far_from_the_checkout(checkout, wheel, tmp_path):
    archive, wheel_of_sdist = sorted(build(checkout, tmp_path / "both"), key=lambda path: path.suffix)
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "setup.py"} < names
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]
    assert contents(wheel_of_sdist) == contents(wheel)
    for i, distribution in enumerate((archive, wheel)):
        check_installation(distribution, tmp_path / f"venv{i}")


def check_installation(distribution: Path, venv: Path) -> None:
    """Installs into a fresh environment that sees the packages of this one, but not the checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # Ends up behind the environment's own packages, and lines that begin with "import" of it are not run: an editable
    # install of the checkout stays invisible.
    Path(target, "outer.pth").write_text("\n".join(outer_packages()) + "\n", encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = lambda *command: subprocess.run(  # noqa: E731
        command, cwd=venv, env=environment, capture_output=True, text=True, check=False
    )
    installed = run(
        python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed",
        "--prefix", str(venv), str(distribution),
    )  # fmt: skip
    assert installed.returncode == 0, installed.stdout + installed.stderr
    shown = run(venv / "bin" / "deeplab2-lite", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "train, evaluate and export" in shown.stdout
    asked = run(python, "-c", _QUESTIONS)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.split() == [deeplab2_lite.__version__, str(Path(target, "deeplab2_lite")), "19", "2048"]


_QUESTIONS = """
from pathlib import Path

import deeplab2_lite as dl
from deeplab2_lite.evaluation.metrics.panoptic_quality import PanopticQuality
from deeplab2_lite.trainer import experiment

config = dl.load_config("cityscapes/xception71")
info = dl.load_dataset_info(config.data.dataset_info)
print(dl.__version__, Path(dl.__file__).parent, info.num_classes, info.stuff_area_limit)
"""


def outer_packages() -> list[str]:
    """Folders of installed packages on this process's path."""
    own = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    others = {folder for folder in sys.path if folder.endswith("site-packages") and Path(folder) != ROOT}
    return sorted(own | others)
