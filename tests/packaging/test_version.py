"""The version stands in one place, and what is said of Python versions agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import deeplab2_lite

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOME = ROOT / "deeplab2_lite" / "__init__.py"


def python_files() -> list[Path]:
    folders = ("deeplab2_lite", "data", "evaluation", "trainer", "configs", "tests", "benchmarks")
    return [ROOT / "setup.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "deeplab2_lite.__version__"}}
    said = re.compile(rf"""^__version__ = |["'=]{re.escape(deeplab2_lite.__version__)}["']""", re.M)
    files = [*python_files(), ROOT / "pyproject.toml", ROOT / "mkdocs.yml"]
    assert [path for path in files if said.search(path.read_text(encoding="utf-8"))] == [HOME]


def test_the_changelog_knows_it():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased, *released = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert unreleased == "Unreleased"
    if released:
        assert released[0] == deeplab2_lite.__version__
    else:
        assert f"What will be {deeplab2_lite.__version__}, the first release." in text


def test_python_versions_agree():
    """Classifiers, `requires-python`, ruff's target and the workflow name the same versions."""
    prefix = "Programming Language :: Python :: 3."
    minors = [int(c.removeprefix(prefix)) for c in PROJECT["project"]["classifiers"] if c.startswith(prefix)]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert PROJECT["project"]["requires-python"] == f">=3.{minors[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{minors[0]}"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in minors]
