"""The documentation's site builds without a warning, and has every page and every public name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deeplab2_lite as dl

from .pages import DOCS

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

ROOT = DOCS.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.rmtree(ROOT / "build" / "api", ignore_errors=True)  # as in a fresh checkout
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def page(site: Path, name: str) -> str:
    return (site / name / "index.html").read_text(encoding="utf-8")


def test_every_page_is_there_and_in_the_navigation(site):
    home = page(site, ".")
    for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]:
        name = path.relative_to(DOCS).with_suffix("").as_posix().removesuffix("/index")
        assert (site / name / "index.html").is_file(), name
        assert f'href="{name}/"' in home, name
    assert "From nothing to" not in home  # the first page is the README
    assert "from a folder of labelled images to a trained" in home


def test_public_names_are_in_the_reference(site):
    reference = "".join(path.read_text(encoding="utf-8") for path in (site / "api").rglob("*.html"))
    names = [name for name in dl.__all__ if name != "__version__" and not isinstance(getattr(dl, name), type(dl))]
    assert {"Predictor", "build_model", "load_config"} <= set(names)
    assert [name for name in names if not re.search(rf'id="deeplab2_lite\.[\w.]*\b{name}"', reference)] == []
    for module, name in [
        ("postprocessing.segmentation", "panoptic_segmentation"),
        ("evaluation.metrics.panoptic_quality", "PanopticQuality.update"),
        ("data.targets", "make_targets"),
        ("trainer.experiment", "Experiment"),
        ("losses", "bootstrapped_cross_entropy"),
    ]:
        assert f'id="deeplab2_lite.{module}.{name}"' in reference, name
    assert "int32 [batch, height, width]" in reference


def test_links_of_the_repository_lead_to_pages_of_the_site(site):
    assert 'href="../experiments/#imagenet"' in page(site, "training")
    assert 'href="../api/config/"' in page(site, "training")
    assert 'href="experiments/#cityscapes-xception71"' in page(site, ".")
    assert 'id="cityscapes-xception71"' in page(site, "experiments")


def test_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="https?://[^"]*"[^>]*>', text) == [], path


def test_files_of_the_repository_that_pages_link_to_exist():
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)", text):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"
