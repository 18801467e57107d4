"""The command that segments a user's images: `deeplab2-lite predict`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from deeplab2_lite import __version__
from deeplab2_lite.data.conversion.options import add_high_depth_argument
from deeplab2_lite.data.images import SUFFIXES, read_rgb
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.journal import Journal, file_stamp
from deeplab2_lite.evaluation.model_arguments import (
    add_model_argument,
    add_view_arguments,
    describe_models,
    overrides_of,
)
from deeplab2_lite.files import writing_to

# Not hidden: who empties the folder by hand empties it of this, too.
UNFINISHED = "unfinished.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    add_model_argument(parser, required=True)
    parser.add_argument("--input", required=True, metavar="PATH", help="an image, or a folder of images")
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="gets panoptic.json and panoptic/*.png (COCO panoptic format), and overlay/*.png to look at",
    )
    parser.add_argument(
        "--instances",
        choices=("coco", "cityscapes"),
        help="also scored instance masks: instances.json (COCO results), or instances/*_pred.txt with masks, as "
        "cityscapesScripts reads them",
    )
    add_high_depth_argument(parser)
    add_view_arguments(parser)
    parser.epilog = (
        "After an error or Ctrl-C the JSON files hold the images done so far, and the same command goes on with the "
        f"rest (of what is done, DIR/{UNFINISHED} knows until the end); with another model, input or flag it begins "
        "anew."
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: No model or image is there, an image cannot be read, or the output cannot be written.
    """
    paths = find_images(Path(arguments.input))
    from deeplab2_lite.predictor import Predictor
    from deeplab2_lite.visualize import overlay_panoptic

    folder = Path(arguments.output)
    with writing_to(folder):
        (folder / "overlay").mkdir(parents=True, exist_ok=True)
    command = _command(arguments)
    predictor = Predictor(arguments.model, overrides=overrides_of(arguments))
    with writing_to(folder):
        outputs = _Outputs(predictor.info, folder, arguments.instances)
        journal = Journal(folder / UNFINISHED, command)
    done = {
        path.name: entry
        for path in paths
        if (entry := journal.entries.get(path.name)) and entry["image"] == file_stamp(path) and outputs.have(path)
    }
    earlier = len(done)
    try:
        for path in tqdm([p for p in paths if p.name not in done], desc="predict", unit="image", disable=None):
            stamp = file_stamp(path)
            image = read_rgb(path, arguments.high_depth)
            result = predictor(image)
            overlay = overlay_panoptic(image, result.panoptic, predictor.info)
            with writing_to(folder):
                entry = {"image": stamp, **outputs.write(path, overlay, result, predictor.instance_scores)}
                journal.append(path.name, entry)
            done[path.name] = entry
    finally:
        if done:
            with writing_to(folder):
                outputs.finish([done[path.name] for path in paths if path.name in done])
    journal.remove()
    note = f" ({earlier} of them by an earlier, interrupted run)" if earlier else ""
    print(f"{len(paths)} images{note}: {', '.join(str(path) for path in outputs.paths)}")


def find_images(path: Path) -> list[Path]:
    """Lists the images that a path names.

    Args:
        path: An image file, or a folder.

    Returns:
        Files in order of name.

    Raises:
        UserError: There are none, or two of the same stem, whose results would overwrite each other.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"--input: no such file or folder: {path}")
    paths = sorted(
        p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not paths:
        raise UserError(f"--input: no images in {path}; expected files ending in {', '.join(SUFFIXES)}")
    stems: dict[str, Path] = {}
    for found in paths:
        if found.stem in stems:
            raise UserError(f"--input: {stems[found.stem]} and {found.name} have the same stem; rename one")
        stems[found.stem] = found
    return paths


class _Outputs:
    """The files of a run: those of each image, and the JSON over all of them."""

    def __init__(self, info: DatasetInfo, folder: Path, instances: str | None) -> None:
        from deeplab2_lite.evaluation.submission.coco_panoptic import CocoPanopticWriter
        from deeplab2_lite.evaluation.submission.instances import CityscapesInstanceWriter, CocoInstanceWriter

        self._overlays = folder / "overlay"
        self._maps = folder / "panoptic"
        self._panoptic = CocoPanopticWriter(info, folder / "panoptic.json", self._maps)
        self.paths = [folder / "panoptic.json", self._maps, self._overlays]
        self._coco = self._cityscapes = None
        if instances == "coco":
            self.paths.append(folder / "instances.json")
            self._coco = CocoInstanceWriter(info, self.paths[-1])
        elif instances == "cityscapes":
            self.paths.append(folder / "instances")
            self._cityscapes = CityscapesInstanceWriter(info, self.paths[-1])

    def write(self, path: Path, overlay: np.ndarray, result: Any, instance_scores: np.ndarray) -> dict[str, Any]:
        """Writes an image's own files; returns what `finish` takes of it, as JSON can hold it."""
        from deeplab2_lite.visualize import save_image

        entry = {"panoptic": self._panoptic.write(path.name, result.panoptic)}
        if self._coco is not None:
            entry["instances"] = self._coco.write(path.name, result, instance_scores)
        if self._cityscapes is not None:
            self._cityscapes.add(path.name, result, instance_scores)
        save_image(self._overlays / f"{path.stem}.png", overlay)
        return entry

    def have(self, path: Path) -> bool:
        """Whether an image's own files are there."""
        files = [self._maps / f"{path.stem}.png", self._overlays / f"{path.stem}.png"]
        if self._cityscapes is not None:
            files.append(self._cityscapes.list_path(path.name))
        return all(file.is_file() for file in files)

    def finish(self, entries: list[dict[str, Any]]) -> None:
        """Writes the JSON over all images."""
        for entry in entries:
            self._panoptic.restore(entry["panoptic"])
            if self._coco is not None:
                self._coco.restore(entry["instances"])
        self._panoptic.finish()
        if self._coco is not None:
            self._coco.finish()


def _command(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the outputs of an image depend on, beside the image."""
    return {
        "version": __version__,
        **describe_models(arguments.model),
        "settings": overrides_of(arguments),
        "input": str(Path(arguments.input).resolve()),
        "instances": arguments.instances,
        "high_depth": arguments.high_depth,
    }
