"""Frames of video files, in and out, by OpenCV, which is the optional extra `video`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deeplab2_lite.errors import UserError

# VP9 in MP4: of what OpenCV's wheels can write, it is what browsers and players show alike.
CODEC = "vp09"
SUFFIX = ".mp4"
_UNKNOWN_RATE = 25.0


class VideoReader:
    """The frames of a file, one after the other.

    Attributes:
        path: The file.
        rate: Frames a second; 25 where the file does not say.
        announced: How many frames the file says it has; None where it does not.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file and decodes its first frame.

        Args:
            path: The file.

        Raises:
            UserError: OpenCV is not installed, or the file is no video that it can decode.
        """
        cv2 = load_opencv()
        self.path = path
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        self._first = _rgb(self._capture.read()) if self._capture.isOpened() else None
        if self._first is None:
            self._capture.release()
            raise UserError(f"{path}: not a video that OpenCV can decode, or damaged")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if np.isfinite(rate) and 0 < rate <= 1000 else _UNKNOWN_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.announced = int(count) if 0 < count < 1e9 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the frames, RGB uint8 [height, width, 3], upright, all of one size; once."""
        frame = self._first
        while frame is not None:
            if frame.shape != self._first.shape:
                raise UserError(f"{self.path}: its frames change size, which one video cannot")
            yield frame
            frame = _rgb(self._capture.read())
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._capture.release()


class VideoWriter:
    """A video file that grows frame by frame."""

    def __init__(self, path: Path, rate: float, height: int, width: int) -> None:
        """Opens the file.

        Args:
            path: The file.
            rate: Frames a second.
            height: Of the frames. Where a side is odd, the video is a pixel larger: VP9 wants even ones.
            width: Likewise.

        Raises:
            UserError: It cannot be written.
        """
        cv2 = load_opencv()
        self._padding = (height % 2, width % 2)
        size = (width + self._padding[1], height + self._padding[0])
        fourcc = cv2.VideoWriter.fourcc(*CODEC)
        self._writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, rate, size)
        if not self._writer.isOpened():
            raise UserError(f"--output: {path}: OpenCV cannot write a video there")

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame, RGB uint8 [height, width, 3]."""
        rows, columns = self._padding
        padded = np.pad(frame, ((0, rows), (0, columns), (0, 0)), mode="edge")
        self._writer.write(np.ascontiguousarray(padded[..., ::-1]))

    def close(self) -> None:
        """Writes what is left, and the index without which the file cannot be played."""
        self._writer.release()


def load_opencv() -> ModuleType:
    """Imports OpenCV, which is not to print anything of its own.

    Returns:
        The module `cv2`.

    Raises:
        UserError: It is not installed.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError:
        raise UserError("videos need OpenCV: pip install 'deeplab2_lite[video]'") from None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _rgb(read: tuple[bool, Any]) -> np.ndarray | None:
    succeeded, frame = read
    return np.ascontiguousarray(frame[..., ::-1]) if succeeded else None
