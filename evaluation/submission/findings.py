"""What is wrong with a submission: named checks with a line each, and the reading that all kinds share."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from deeplab2_lite.evaluation.submission.archive import DamagedFile, SubmissionFiles, leaves_root, names_twice
from deeplab2_lite.evaluation.submission.formats import SubmissionFormat
from deeplab2_lite.evaluation.submission.images import ExpectedImage

_PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# Behind the signature, the length and type of the first chunk, width and height.
_PNG_BIT_DEPTH = 24
_MODES = {"1": "1-bit", "L": "8-bit grey", "P": "8-bit palette", "RGB": "8-bit RGB"}


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        check: Name of the rule.
        file: Which file, from the root of the submission; or the image that has none.
        message: What was found, and what was expected.
        image: Key of the image at fault, if it is one.
    """

    check: str
    file: str
    message: str
    image: str | None = None

    def __str__(self) -> str:
        return " ".join(f"{self.file}: {self.message} [{self.check}]".splitlines())


class Findings(list[Finding]):
    """What was found so far."""

    def add(self, check: str, file: str, message: str, image: str | None = None) -> None:
        """Adds a finding; the arguments are those of Finding."""
        self.append(Finding(check, file, message, image))


def check_names(files: SubmissionFiles, findings: Findings) -> tuple[str, ...]:
    """Returns the names that are no fault by themselves, each once."""
    for name in names_twice(files.names):
        findings.add("archive", name, "is twice in the zip; expected once")
    good = []
    for name in dict.fromkeys(files.names):
        if leaves_root(name):
            findings.add("archive", name, "leads out of the zip; expected a relative path with slashes")
        else:
            good.append(name)
    return tuple(good)


def match_images(
    names: Iterable[str],
    form: SubmissionFormat,
    expected: Mapping[str, ExpectedImage] | None,
    findings: Findings,
    ending: str,
) -> dict[str, str]:
    """Finds the file of each image by its name.

    Args:
        names: Of files that end so.
        form: The format.
        expected: The images that must be there; None takes any.
        findings: Gets what is missing, double, too much, or in a folder where it may not be.
        ending: Of the files, for messages.

    Returns:
        File by image key.
    """
    found: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        key = form.key_of(path.name)
        if key is None or (expected is not None and key not in expected):
            findings.add("extra", name, f"is of no image that {form.name} asks for; expected no such file")
        elif len(path.parts) > 1 and not form.nested:
            findings.add("depth", name, f"is in a folder; expected '{path.name}' at the root", key)
            found.setdefault(key, name)
        elif key in found:
            findings.add("double", name, f"is of the same image as '{found[key]}'; expected one of them", key)
        else:
            found[key] = name
    for key in expected or ():
        if key not in found:
            findings.add("missing", key, f"no file of this image; expected {key}{ending}", key)
    if not found and not expected:
        findings.add("missing", f"*{ending}", "no such file; expected one for each image")
    return found


def expected_size(
    form: SubmissionFormat, expected: Mapping[str, ExpectedImage] | None, key: str
) -> tuple[int, int] | None:
    """Returns the height and width that the files of an image must have; None if nothing tells."""
    return form.size if expected is None else expected[key].size


def read_png(
    files: SubmissionFiles,
    name: str,
    modes: Collection[str],
    size: tuple[int, int] | None,
    findings: Findings,
    key: str,
) -> np.ndarray | None:
    """Reads a PNG as the servers do.

    Args:
        files: The submission.
        name: Which.
        modes: Pillow's modes that it may have.
        size: Height and width that it must have; None takes any.
        findings: Gets what is wrong.
        key: Of the image.

    Returns:
        Its array; None if it is unusable.
    """
    try:
        encoded = files.read(name)
    except DamagedFile as error:
        findings.add("archive", name, str(error), key)
        return None
    if not encoded.startswith(_PNG_BEGIN):
        findings.add("png", name, "is no PNG; expected one", key)
        return None
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            depth = encoded[_PNG_BIT_DEPTH]
            if image.mode not in modes or depth > 8:
                kinds = " or ".join(_MODES[mode] for mode in modes)
                findings.add("mode", name, f"has mode {image.mode} with {depth} bits; expected {kinds}", key)
                return None
            if size is not None and (image.height, image.width) != size:
                found = f"{image.height}x{image.width}"
                findings.add("size", name, f"is {found} pixels; expected {size[0]}x{size[1]}", key)
                return None
            array = np.asarray(image)
    except Image.DecompressionBombError:
        findings.add("png", name, f"has more than {2 * Image.MAX_IMAGE_PIXELS} pixels", key)
        return None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        findings.add("png", name, f"is damaged or cut off ({' '.join(str(error).split())})", key)
        return None
    # Pillow forgives a missing end, other readers do not.
    if not encoded.endswith(_PNG_END):
        findings.add("png", name, "is cut off; expected an IEND chunk at its end", key)
        return None
    return array


def count_values(array: np.ndarray) -> dict[int, int]:
    """Counts the pixels of each value of a map, in ascending order of the values.

    Args:
        array: Non-negative integers of any shape.
    """
    flat = array.ravel()
    # Runs of one value are few, and sorting them is cheap.
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(begins, flat.size))
    values, inverse = np.unique(flat[begins], return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, inverse, lengths)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
