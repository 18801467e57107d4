"""The command that segments a user's images: `deeplab2-lite predict`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from deeplab2_lite import __version__
from deeplab2_lite.data.conversion.options import add_high_depth_argument
from deeplab2_lite.data.images import read_rgb
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.inputs import find_inputs
from deeplab2_lite.evaluation.journal import Journal, file_stamp
from deeplab2_lite.evaluation.model_arguments import (
    add_model_argument,
    add_view_arguments,
    describe_models,
    overrides_of,
)
from deeplab2_lite.evaluation.predict_outputs import Outputs, needs_heads
from deeplab2_lite.evaluation.predict_video import predict_video, video_paths
from deeplab2_lite.evaluation.progress import Progress
from deeplab2_lite.evaluation.video import VideoReader
from deeplab2_lite.files import writing_to
from deeplab2_lite.layer_pictures import HEAD_LAYERS, LAYERS

# Not hidden: who empties the folder by hand empties it of this, too.
UNFINISHED = "unfinished.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    add_model_argument(parser, required=True)
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="PATH",
        help="images, folders of images, globs such as 'photos/**/*.jpg', and videos (with the extra 'video')",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="gets panoptic.json and panoptic/*.png (COCO panoptic format), and overlay/*.png to look at; of a video "
        "overlay/*.mp4",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        default=[],
        choices=LAYERS,
        metavar="NAME",
        help=f"also draw these, as layers/NAME/*: {', '.join(LAYERS)} (all of them side by side); heatmap and offsets "
        "need a model folder: an export does not give them",
    )
    parser.add_argument("--no_legend", action="store_true", help="pictures without the legend below")
    parser.add_argument(
        "--instances",
        choices=("coco", "cityscapes"),
        help="also scored instance masks: instances.json (COCO results), or instances/*_pred.txt with masks, as "
        "cityscapesScripts reads them",
    )
    parser.add_argument(
        "--video_frames",
        action="store_true",
        help="of a video also the files of its frames: NAME/panoptic.json, NAME/panoptic/000000.png and so on, with "
        "--instances those too",
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
    inputs = find_inputs(arguments.input)
    # What cannot be decoded is said before the model is loaded.
    for path in inputs.videos:
        VideoReader(path).close()
    from deeplab2_lite.predictor import Predictor

    folder = Path(arguments.output)
    with writing_to(folder):
        (folder / "overlay").mkdir(parents=True, exist_ok=True)
    command = _command(arguments)
    predictor = Predictor(arguments.model, overrides=overrides_of(arguments))
    _check_layers(arguments, predictor)
    with writing_to(folder):
        journal = Journal(folder / UNFINISHED, command)
    summaries = []
    if inputs.images:
        summaries.append(_predict_images(inputs.images, arguments, predictor, journal))
    if inputs.videos:
        summaries.append(_predict_videos(inputs.videos, arguments, predictor, journal))
    journal.remove()
    print("\n".join(summaries))


def _pictures(arguments: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys(["overlay", *arguments.layers]))


def _check_layers(arguments: argparse.Namespace, predictor: Any) -> None:
    missing = [] if predictor.has_heads else [name for name in arguments.layers if name in HEAD_LAYERS]
    if missing:
        raise UserError(
            f"--layers: the export {arguments.model[0]} gives no {missing[0]}, its maps alone; expected a model folder"
        )


def _predict_images(paths: list[Path], arguments: argparse.Namespace, predictor: Any, journal: Journal) -> str:
    """Segments the images that are not done yet; returns what was done."""
    folder, pictures = Path(arguments.output), _pictures(arguments)
    with writing_to(folder):
        outputs = Outputs(
            predictor.info,
            folder,
            instances=arguments.instances,
            pictures=pictures,
            legend=not arguments.no_legend,
        )
    done = {
        path.name: entry
        for path in paths
        if (entry := journal.entries.get(path.name)) and entry["image"] == file_stamp(path) and outputs.have(path.name)
    }
    earlier = len(done)
    # A network that says nothing else of an image is not asked twice as much.
    try:
        with Progress(len(paths) - earlier, "predict", "image") as progress:
            for path in paths:
                if path.name in done:
                    continue
                stamp = file_stamp(path)
                image = read_rgb(path, arguments.high_depth)
                observation = predictor.observe(image, heads=needs_heads(pictures))
                with writing_to(folder):
                    entry = {"image": stamp, **outputs.write(path.name, image, observation)}
                    journal.append(path.name, entry)
                done[path.name] = entry
                progress.step()
    finally:
        if done:
            with writing_to(folder):
                outputs.finish([done[path.name] for path in paths if path.name in done])
    note = f" ({earlier} of them by an earlier, interrupted run)" if earlier else ""
    return f"{len(paths)} images{note}: {', '.join(str(path) for path in outputs.paths)}"


def _predict_videos(paths: list[Path], arguments: argparse.Namespace, predictor: Any, journal: Journal) -> str:
    """Segments the videos that are not done yet; returns what was done."""
    folder, pictures = Path(arguments.output), _pictures(arguments)
    summaries = []
    for path in paths:
        films = video_paths(path, folder, pictures)
        frames_folder = folder / path.stem
        entry, stamp = journal.entries.get(path.name), file_stamp(path)
        is_done = entry is not None and entry["video"] == stamp and all(film.is_file() for film in films.values())
        if arguments.video_frames:
            is_done = is_done and (frames_folder / "panoptic.json").is_file()
        if not is_done:
            outputs = None
            if arguments.video_frames:
                with writing_to(folder):
                    outputs = Outputs(predictor.info, frames_folder, instances=arguments.instances)
            entry = {"video": stamp, "frames": predict_video(path, folder, predictor, pictures, outputs)}
            with writing_to(folder):
                journal.append(path.name, entry)
        written = [*films.values(), *([frames_folder] if arguments.video_frames else [])]
        summaries.append(f"{path.name}, {entry['frames']} frames: {', '.join(map(str, written))}")
    return "\n".join(summaries)


def _command(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the outputs of an image depend on, beside the image."""
    return {
        "version": __version__,
        **describe_models(arguments.model),
        "settings": overrides_of(arguments),
        "input": [str(Path(word).resolve()) for word in arguments.input],
        "instances": arguments.instances,
        "layers": arguments.layers,
        "legend": not arguments.no_legend,
        "high_depth": arguments.high_depth,
    }
