"""Two folders of panoptic maps with their JSONs, as a user has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo, load_dataset_info
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.report import EvaluationReport
from deeplab2_lite.evaluation.submission.coco_panoptic import CocoPanopticWriter

INFO = DatasetInfo(
    "street",
    (
        ClassInfo("road", False, (120, 60, 120), 7),
        ClassInfo("sky", False, (60, 120, 200), 11),
        ClassInfo("car", True, (0, 0, 140), 24),
        ClassInfo("person", True, (220, 20, 60), 26),
    ),
)


def scene(seed: int, height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A truth with void and crowd, and a prediction that is right in most cells; panoptic ids."""
    random = np.random.default_rng(seed)
    ids = np.array([0, 1000, INFO.void_id, 2001, 2002, 2000, 3001, 3002])
    maps = []
    for choices in (ids, ids[[0, 1, 2, 3, 4, 6, 7]]):
        cells = random.choice(choices, (height // 20, width // 20))
        maps.append(np.kron(cells, np.ones((20, 20), int)).astype(np.int32))
    truth, other = maps
    keep = np.kron(random.random((height // 20, width // 20)) < 0.7, np.ones((20, 20), bool))
    prediction = np.where(keep, truth, other)
    return truth, np.where(prediction == 2000, 2001, prediction)


def write_folders(folder: Path, count: int) -> tuple[Path, Path]:
    """Writes truths and predictions; returns the two JSONs."""
    paths = []
    for part, name in enumerate(("truth", "prediction")):
        writer = CocoPanopticWriter(INFO, folder / f"{name}.json", folder / name)
        for seed in range(count):
            writer.add(f"city_{seed:02d}.png", scene(seed)[part])
        paths.append(writer.finish())
    (folder / "images").mkdir(exist_ok=True)
    for seed in range(count):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"city_{seed:02d}.png")
    return paths[0], paths[1]


def expected_report(truth_json: Path, seeds: range, **settings) -> EvaluationReport:
    """The figures by the Python API, from maps that never were files."""
    evaluation = Evaluation(load_dataset_info(truth_json), **settings)
    for seed in seeds:
        truth, prediction = scene(seed)
        evaluation.add(evaluation.count(truth, ImagePrediction(prediction // 1000, prediction), f"city_{seed:02d}.png"))
    return evaluation.report(None)


def edit_json(path: Path, change) -> None:
    """Applies a function to the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
