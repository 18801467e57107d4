"""The command that segments a user's images: `deeplab2-lite predict`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from deeplab2_lite.data.images import SUFFIXES, read_rgb
from deeplab2_lite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder or exported SavedModel")
    parser.add_argument("--input", required=True, metavar="PATH", help="an image, or a folder of images")
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="gets panoptic.json and panoptic/*.png (COCO panoptic format), and overlay/*.png to look at",
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: No model or image is there, or an image cannot be read.
    """
    paths = find_images(Path(arguments.input))
    from deeplab2_lite.evaluation.submission import CocoPanopticWriter
    from deeplab2_lite.inference import Predictor
    from deeplab2_lite.visualize import overlay_panoptic, save_image

    output = Path(arguments.output)
    overlays = output / "overlay"
    try:
        overlays.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {overlays}: cannot be made ({error.strerror})") from None
    predictor = Predictor(arguments.model)
    writer = CocoPanopticWriter(predictor.info, output / "panoptic.json", output / "panoptic")
    for path in tqdm(paths, desc="predict", unit="image", disable=None):
        image = read_rgb(path)
        panoptic = predictor(image).panoptic
        writer.add(path.name, panoptic)
        save_image(overlays / f"{path.stem}.png", overlay_panoptic(image, panoptic, predictor.info))
    writer.finish()
    print(f"{len(paths)} images: {output / 'panoptic.json'}, {output / 'panoptic'}, {overlays}")


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
