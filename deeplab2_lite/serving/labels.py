"""The label space as JSON, for clients that read no YAML."""

from __future__ import annotations

import json
from pathlib import Path

from deeplab2_lite.files import write_text_atomically
from deeplab2_lite.label_space import DatasetInfo

LABELS_FILE = "labels.json"


def save_labels(info: DatasetInfo, folder: str | Path) -> Path:
    """Writes what the ids of the maps mean.

    Args:
        info: The label space.
        folder: Gets `labels.json`: how panoptic ids are built, and `categories` as in COCO's panoptic format.

    Returns:
        The file.
    """
    categories = [
        {"id": number, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
        for number, c in enumerate(info.classes)
    ]
    content = {
        "label_divisor": info.label_divisor,
        "ignore_label": info.ignore_label,
        "void_panoptic_id": info.void_id,
        "categories": categories,
    }
    return write_text_atomically(Path(folder) / LABELS_FILE, json.dumps(content, indent=1) + "\n")
