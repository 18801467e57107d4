"""Segmenting a video: the same video with what was found drawn over it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.following import Follower
from deeplab2_lite.evaluation.predict_outputs import Outputs, needs_heads, picture_folder, seen_of
from deeplab2_lite.evaluation.progress import Progress
from deeplab2_lite.evaluation.video import SUFFIX, VideoReader, VideoWriter
from deeplab2_lite.files import atomic_path, writing_to
from deeplab2_lite.layer_pictures import draw_layer


def video_paths(path: Path, folder: Path, pictures: Sequence[str]) -> dict[str, Path]:
    """Returns the videos that are made of a video, by what is drawn."""
    return {name: picture_folder(folder, name) / f"{path.stem}{SUFFIX}" for name in pictures}


def predict_video(path: Path, folder: Path, predictor: Any, pictures: Sequence[str], frames: Outputs | None) -> int:
    """Segments the frames of a video.

    Args:
        path: The video.
        folder: What `--output` names.
        predictor: Segments a frame.
        pictures: What to draw, "overlay" or of `LAYERS`; each becomes a video, whole or not at all.
        frames: What else is written of every frame; its name is its number, of six digits, from 0.

    Returns:
        The number of frames.

    Raises:
        UserError: The video cannot be decoded, or nothing can be written.
    """
    reader = VideoReader(path)
    with contextlib.ExitStack() as stack:
        with writing_to(folder):
            files = {}
            for name, file in video_paths(path, folder, pictures).items():
                file.parent.mkdir(parents=True, exist_ok=True)
                files[name] = stack.enter_context(atomic_path(file, SUFFIX))
        films = _Films(files, reader.rate, predictor.info)
        # Closed before the files get their names.
        stack.callback(films.close)
        progress = stack.enter_context(Progress(reader.announced, f"predict {path.name}", "frame"))
        entries = []
        for number, image in enumerate(reader):
            observation = predictor.observe(image, heads=needs_heads(pictures))
            with writing_to(folder):
                films.write(image, observation)
                if frames is not None:
                    entries.append(frames.write(f"{number:06d}.png", image, observation))
            progress.step()
        films.close()
        for file in files.values():
            _check(file, number + 1, folder)
    if frames is not None:
        with writing_to(folder):
            frames.finish(entries)
    if reader.announced is not None and number + 1 < reader.announced:
        # The number is an estimate in some formats, so that this is no error.
        print(f"{path}: {number + 1} of {reader.announced} frames could be decoded", file=sys.stderr)
    return number + 1


class _Films:
    """The videos that are made of one, frame by frame."""

    def __init__(self, files: dict[str, Path], rate: float, info: Any) -> None:
        self._files, self._rate, self._info = files, rate, info
        self._writers: dict[str, VideoWriter] = {}
        self._follow = Follower(info)

    def write(self, image: np.ndarray, observation: Any) -> None:
        """Adds a frame to each."""
        seen = seen_of(image, observation, self._follow(observation.result.panoptic))
        for name, file in self._files.items():
            picture = draw_layer(name, seen, self._info, legend=False, scale=1)
            if name not in self._writers:
                self._writers[name] = VideoWriter(file, self._rate, *picture.shape[:2])
            self._writers[name].write(picture)

    def close(self) -> None:
        """Ends the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _check(file: Path, frames: int, folder: Path) -> None:
    """OpenCV says nothing of what it could not write, such as on a full disk."""
    try:
        written = VideoReader(file).announced
    except UserError:
        written = 0
    if written != frames:
        raise UserError(f"--output: {folder}: the video could not be written whole; is there room for it?")
