"""What the documentation's site needs beyond its pages: hooks that mkdocs.yml names.

The README is the site's first page; the API reference, the experiments and the notebook become pages; links that lead
out of docs/ in the repository lead to these pages here. The package is laid out as its installation lays it out, since
what reads its docstrings looks at files and not at what Python imports.
"""

from __future__ import annotations

import ast
import importlib
import json
import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
BESIDE_THE_PACKAGE = ("data", "evaluation", "trainer", "configs")

# Pages of the reference: title, what it is, and modules or packages, whose public names are shown. A package that loads
# its names on first use has them in `_NAMES`, others in `__all__`. No name is on two pages.
REFERENCE: dict[str, tuple[str, tuple[str, ...]]] = {
    "deeplab2_lite": ("Names of the package itself, as in `import deeplab2_lite as dl`:", ("errors",)),
    "config": ("An experiment's settings.", ("config", "config_loading")),
    "dataset_info": ("Label spaces.", ("label_space", "dataset_info")),
    "model": ("Networks and their layers.", ("model", "layers")),
    "losses": ("Losses.", ("losses",)),
    "postprocessing": ("From heads to panoptic maps.", ("postprocessing",)),
    "inference": ("Images through trained models.", ("inference", "loading", "predictor", "export")),
    "visualize": ("Pictures.", ("visualize",)),
    "pretrained": ("Weights of other code bases.", ("pretrained",)),
    "data": ("Records and training input.", ("data.records", "data.pipeline", "data.augment", "data.targets")),
    "evaluation": ("Figures by the official rules.", ("evaluation", "evaluation.evaluate", "evaluation.report")),
    "keras": (
        "Networks as Keras models that fit.",
        ("panoptic_deeplab", "trainer.fitting", "data.fitting", "trainer.evaluation_callback", "panoptic_losses"),
    ),
    "runtimes": ("Models for other runtimes.", ("runtimes.request", "runtimes.exporting", "runtimes.comparing")),
    "serving": ("Models for TF Serving.", ("serving.versions", "serving.freezing", "serving.outputs")),
    "trainer": ("The training loop.", ("trainer.experiment", "trainer.loop", "trainer.panoptic")),
}


# ---- Before the files are read


def on_startup(command: str, dirty: bool) -> None:
    """Lays out the package: mkdocstrings drops a folder that is not there when the configuration is read."""
    _lay_out_package(ROOT / "build" / "api" / "deeplab2_lite")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Completes the navigation."""
    named = set(_pages(config.nav))
    rest = {path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).glob("*.md")} - named
    for section in config.nav:
        if "Guides" in section:
            section["Guides"] += sorted(rest)
        if "Reference" in section:
            section["Reference"] = [*(f"api/{page}.md" for page in REFERENCE), "experiments.md"]
    return config


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        yield from _pages(list(nav.values()))
    else:
        for item in nav or ():
            yield from _pages(item)


def _lay_out_package(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "deeplab2_lite", folder, ignore=_other_than_python)
    for name in BESIDE_THE_PACKAGE:
        shutil.copytree(ROOT / name, folder / name, ignore=_other_than_python)


def _other_than_python(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__" or (Path(name).suffix and Path(name).suffix != ".py")]


# ---- Pages that are made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    made = {
        "index.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "experiments.md": _experiments(),
        **{f"api/{page}.md": _reference(page) for page in REFERENCE},
    }
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            made[file.src_uri.removesuffix(".ipynb") + ".md"] = _notebook(Path(file.abs_src_path))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def _reference(page: str) -> str:
    text, modules = REFERENCE[page]
    lines = [f"# {page}", "", text, ""]
    if page == "deeplab2_lite":
        lines += [_where(name) for name in public_names(page)]
    names = [name for module in modules for name in public_names(module)]
    return "\n".join([*lines, "", *(f"::: {name}\n" for name in names)])


def _where(name: str) -> str:
    short = name.rpartition(".")[2]
    return f"- [`dl.{short}`]({short}.md)" if short in REFERENCE else f"- [`dl.{short}`][{name}]"


def public_names(module: str) -> list[str]:
    """Returns the public names of a module below `deeplab2_lite`, each with the module that it is defined in."""
    full = module if module == "deeplab2_lite" else f"deeplab2_lite.{module}"
    source = _source(full)
    assigned = {
        target.id: node.value
        for node in source.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if "_NAMES" in assigned:
        homes = importlib.import_module(full)._NAMES
        return [f"{full}.{home}" if home == name else f"{full}.{home}.{name}" for name, home in homes.items()]
    if "__all__" in assigned:
        homes = {
            alias.name: node.module for node in source.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        return [f"{homes.get(name, full)}.{name}" for name in ast.literal_eval(assigned["__all__"])]
    defined = [node.name for node in source.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [f"{full}.{name}" for name in defined if not name.startswith("_")]


def _source(module: str) -> ast.Module:
    path = ROOT / "build" / "api" / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _experiments() -> str:
    lines = ["# Experiments", "", "The packaged files, by the names that `--experiment` and `dl.load_config` take."]
    for folder in sorted(path for path in (ROOT / "configs").iterdir() if path.is_dir() and any(path.glob("*.yaml"))):
        lines += ["", f"## {folder.name} {{#{folder.name}}}"]
        for path in sorted(folder.glob("*.yaml")):
            lines += ["", f"### {folder.name}/{path.stem} {{#{folder.name}-{path.stem}}}", "", "```yaml"]
            lines += [*path.read_text(encoding="utf-8").rstrip().splitlines(), "```"]
    return "\n".join(lines) + "\n"


def _notebook(path: Path) -> str:
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})")
            else:
                shown = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{shown.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


# ---- Links


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lets links between files of the repository lead to pages of the site."""
    made_from = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
    source = made_from.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        there = _on_site(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)), anchor)
        if there is None:
            return match[0]
        path, _, anchor = there.partition("#")
        relative = posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({relative}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)", link, markdown)


def _on_site(path: str, anchor: str) -> str | None:
    """Returns the page, or file, of the site for a path of the repository."""
    if path == "README.md":
        return f"index.md{anchor}"
    if path == "CHANGELOG.md":
        return f"changelog.md{anchor}"
    if path.startswith("docs/"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/")) + anchor
    if path.startswith("configs/"):
        return "experiments.md#" + path.removeprefix("configs/").removesuffix(".yaml").replace("/", "-")
    module = path.removeprefix("deeplab2_lite/").removesuffix(".py").replace("/", ".")
    for page, (_, modules) in REFERENCE.items():
        if module in modules:
            return f"api/{page}.md"
    return None
