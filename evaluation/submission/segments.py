"""Checks of panoptic submissions: a JSON in COCO's format, and a folder of PNGs of segment ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from deeplab2_lite.data.record_format import panoptic_from_channels
from deeplab2_lite.evaluation.submission.archive import DamagedFile, SubmissionFiles
from deeplab2_lite.evaluation.submission.findings import Findings, count_values, expected_size, read_png
from deeplab2_lite.evaluation.submission.formats import SubmissionFormat
from deeplab2_lite.evaluation.submission.images import ExpectedImage
from deeplab2_lite.evaluation.submission.progress import progress

_MAX_SEGMENT_ID = 2**24 - 1


class _Annotation(NamedTuple):
    key: str
    png: str
    segments: list[dict[str, Any]]


def check_panoptic(
    files: SubmissionFiles,
    names: Iterable[str],
    form: SubmissionFormat,
    expected: Mapping[str, ExpectedImage] | None,
    findings: Findings,
    stem: str | None,
) -> int:
    """Checks JSON and PNGs.

    Sources: cocodataset.org (#format-data, #format-results, #upload), and the scripts that score: panopticapi's
    evaluation.py and cityscapesScripts' evalPanopticSemanticLabeling.py. Stricter than they are: areas must be right,
    crowds and a stuff class in two segments are refused, for a server counts them as misses.

    Args:
        files: The submission.
        names: Its files that can be checked.
        form: The format.
        expected: The images that must be there; None takes any.
        findings: Gets what is wrong.
        stem: Name that the JSON must bear, without its ending; None takes any.

    Returns:
        How many images have an annotation and a PNG.
    """
    names = list(names)
    json_name = _find_json(names, form, stem, findings)
    if json_name is None:
        return 0
    folder = PurePosixPath(json_name).stem
    pngs = _find_pngs(names, json_name, folder, findings)
    rows = _read_annotations(files, json_name, findings)
    if rows is None:
        return 0
    annotations = _match(rows, json_name, folder, pngs, form, expected, findings)
    things = {c.original_id: c.isthing for c in form.submitted_info(form.info).classes}
    for annotation in progress(annotations, "check"):
        _check_segments(annotation, json_name, things, findings)
        size = expected_size(form, expected, annotation.key)
        channels = read_png(files, annotation.png, ("RGB",), size, findings, annotation.key)
        if channels is not None:
            _compare(annotation, channels, json_name, findings)
    return len(annotations)


def _find_json(names: list[str], form: SubmissionFormat, stem: str | None, findings: Findings) -> str | None:
    found = [name for name in names if name.endswith(".json")]
    if not found:
        findings.add("missing", f"{stem or '*'}.json", "no JSON; expected one at the root")
        return None
    at_root = [name for name in found if "/" not in name]
    if not at_root:
        findings.add("depth", found[0], f"is in a folder; expected '{PurePosixPath(found[0]).name}' at the root")
        return None
    chosen = f"{stem}.json" if f"{stem}.json" in at_root else at_root[0]
    for name in found:
        if name != chosen:
            findings.add("extra", name, f"is a second JSON beside {chosen}; expected one")
    own = PurePosixPath(chosen).stem
    if form.json_named_as_zip and (own != stem if stem is not None else not re.fullmatch(form.zip_stem, own)):
        example = stem or PurePosixPath(form.zip_example).stem
        findings.add("json", chosen, f"is not named as the zip must be; expected a name such as {example}.json")
    return chosen


def _find_pngs(names: list[str], json_name: str, folder: str, findings: Findings) -> set[str]:
    pngs = set()
    for name in names:
        path = PurePosixPath(name)
        if path.suffix == ".json":
            continue
        if path.suffix != ".png":
            findings.add("extra", name, f"expected {json_name} and PNGs alone")
        elif path.parts[:-1] != (folder,):
            findings.add("depth", name, f"expected in the folder '{folder}/' at the root, which {json_name} names")
        else:
            pngs.add(path.name)
    return pngs


def _read_annotations(files: SubmissionFiles, name: str, findings: Findings) -> list[Any] | None:
    try:
        content = json.loads(files.read(name))
    except DamagedFile as error:
        findings.add("archive", name, str(error))
        return None
    except (ValueError, RecursionError) as error:
        findings.add("json", name, f"not valid JSON ({error})")
        return None
    rows = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        findings.add("json", name, "no list 'annotations'; expected COCO's panoptic format")
        return None
    return rows


def _match(
    rows: list[Any],
    json_name: str,
    folder: str,
    pngs: set[str],
    form: SubmissionFormat,
    expected: Mapping[str, ExpectedImage] | None,
    findings: Findings,
) -> list[_Annotation]:
    """Pairs annotations with images and PNGs; what stands alone is found."""
    keys = None if expected is None else {image.image_id: key for key, image in expected.items()}
    annotations: dict[int | str, _Annotation] = {}
    used: set[str] = set()
    for index, row in enumerate(rows):
        problem = _problem_of_row(row, form)
        if problem:
            findings.add("json", json_name, f"annotations[{index}]: {problem}")
            continue
        image_id, png = row["image_id"], row["file_name"]
        key = _known_key(image_id, form) if keys is None else keys.get(image_id)
        where = f"annotation of image {image_id!r}"
        if key is None:
            findings.add("extra", json_name, f"{where}: no image that {form.name} asks for; expected no such one")
            used.add(png)
        elif image_id in annotations:
            findings.add("double", json_name, f"{where}: is there twice; expected once", key)
            used.add(png)
        elif png in used:
            findings.add("double", json_name, f"{where}: its PNG '{png}' is that of another image, too", key)
        elif png not in pngs:
            findings.add("missing", f"{folder}/{png}", f"no such PNG; expected one, as {json_name} says", key)
            annotations[image_id] = _Annotation(key, "", [])
        else:
            used.add(png)
            annotations[image_id] = _Annotation(key, f"{folder}/{png}", row["segments_info"])
    for image_id, key in (keys or {}).items():
        if image_id not in annotations:
            findings.add("missing", key, f"no annotation of image {image_id!r} in {json_name}; expected one", key)
    if not rows and not keys:
        findings.add("missing", json_name, "no annotations; expected one for each image")
    for png in sorted(pngs - used):
        findings.add("extra", f"{folder}/{png}", f"is in no annotation of {json_name}; expected no such PNG")
    return [annotation for annotation in annotations.values() if annotation.png]


def _known_key(image_id: int | str, form: SubmissionFormat) -> str | None:
    """Returns the key of an image that no list names; None if its id is not as those of the data set."""
    key = str(image_id)
    return key if form.integer_ids or re.fullmatch(form.image_key, key) else None


def _problem_of_row(row: Any, form: SubmissionFormat) -> str:
    if not isinstance(row, dict):
        return "expected an object with image_id, file_name and segments_info"
    if type(row.get("image_id")) is not (int if form.integer_ids else str):
        return f"image_id: expected {'an integer' if form.integer_ids else 'text'}, got {row.get('image_id')!r}"
    if not isinstance(row.get("file_name"), str):
        return f"file_name: expected the name of a PNG, got {row.get('file_name')!r}"
    segments = row.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        return "segments_info: expected a list of objects"
    for segment in segments:
        for name in ("id", "category_id"):
            if type(segment.get(name)) is not int:
                return f"segments_info: {name}: expected an integer, got {segment.get(name)!r}"
    return ""


def _check_segments(annotation: _Annotation, json_name: str, things: Mapping[int, bool], findings: Findings) -> None:
    """Checks what the JSON says of an image by itself."""
    ids: set[int] = set()
    stuff: set[int] = set()
    for segment in annotation.segments:
        segment_id, category = segment["id"], segment["category_id"]
        where = f"segment {segment_id} of {annotation.png}"
        if segment_id == 0:
            findings.add(
                "void", json_name, f"{where}: 0 stands for void; expected 1..{_MAX_SEGMENT_ID}", annotation.key
            )
        elif not 0 < segment_id <= _MAX_SEGMENT_ID:
            findings.add("ids", json_name, f"{where}: expected an id of 1..{_MAX_SEGMENT_ID}", annotation.key)
        if segment_id in ids:
            findings.add("ids", json_name, f"{where}: two segments have this id; expected one", annotation.key)
        ids.add(segment_id)
        if category not in things:
            valid = f"one of the {len(things)} of {min(things)}..{max(things)} that are evaluated"
            findings.add(
                "category", json_name, f"{where}: unknown category_id {category}; expected {valid}", annotation.key
            )
        elif not things[category]:
            if category in stuff:
                text = f"{where}: a second segment of stuff, category_id {category}; expected one"
                findings.add("stuff", json_name, text, annotation.key)
            stuff.add(category)
        if segment.get("iscrowd", 0) != 0:
            findings.add("iscrowd", json_name, f"{where}: is a crowd; expected 0 of predictions", annotation.key)


def _compare(annotation: _Annotation, channels: np.ndarray, json_name: str, findings: Findings) -> None:
    """Compares what JSON and PNG say of an image's segments."""
    areas = count_values(panoptic_from_channels(channels))
    areas.pop(0, None)
    listed = {segment["id"]: segment.get("area") for segment in annotation.segments}
    for segment_id in areas.keys() - listed.keys():
        text = f"segment {segment_id} is in the PNG but not in {json_name}; expected both"
        findings.add("segments", annotation.png, text, annotation.key)
    for segment_id, area in listed.items():
        if segment_id == 0:
            continue
        if segment_id not in areas:
            text = f"segment {segment_id} is in {json_name} but not in the PNG; expected both"
            findings.add("segments", annotation.png, text, annotation.key)
        elif area is not None and area != areas[segment_id]:
            text = f"segment {segment_id} of {annotation.png} has area {area}; expected {areas[segment_id]} pixels"
            findings.add("area", json_name, text, annotation.key)
