"""The notebook runs from its first cell to its last, and learns what it says."""

from __future__ import annotations

import json
import re

import pytest

from .pages import DOCS

PATH = DOCS / "notebooks" / "panoptic_deeplab_tour.ipynb"


def text_of(notebook: dict) -> str:
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    return "\n".join("".join(output.get("text", "")) for output in outputs)


def test_what_is_stored_is_light_and_tells_no_machine():
    raw = PATH.read_text(encoding="utf-8")
    assert len(raw) < 400_000
    notebook = json.loads(raw)
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), f"cell {number}", "exec")
            assert all(output["output_type"] != "error" for output in cell["outputs"])
    assert not re.search(r"/root|/home|/tmp", text_of(notebook))
    check(text_of(notebook))


def check(text: str) -> None:
    assert re.search(r"^10 centres, the first at", text, re.M)
    assert "as it is                PQ 100.0   SQ 100.0   RQ 100.0" in text
    losses = [float(value) for value in re.search(r"^loss (.*)$", text, re.M)[1].replace("...", "").split()]
    assert losses[-1] < losses[0] / 10
    (learnt,) = re.findall(r"^PQ +([\d.]+)", text, re.M)
    assert float(learnt) > 60


@pytest.mark.slow
def test_it_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(PATH, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    check(text_of(notebook))
