"""The flags of `deeplab2-lite evaluate`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from deeplab2_lite.evaluation.model_arguments import VIEW_FLAGS, add_model_argument, add_view_arguments

# Not hidden: who empties the folder by hand empties it of this, too.
UNFINISHED = "unfinished_evaluation.jsonl"
# Flags that mean something with a model alone, or with files alone.
MODEL_FLAGS = ("data", "split", *VIEW_FLAGS)
FILE_FLAGS = ("truth_dir", "prediction_dir", "instances", "images", "allow_extra", "num_processes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    _add_model_arguments(parser.add_argument_group("a model on records"))
    _add_file_arguments(parser.add_argument_group("predictions that are files, in the COCO panoptic format"))
    _add_shared_arguments(parser.add_argument_group("both"))
    parser.epilog = (
        "After an error or Ctrl-C the same command goes on with the rest, and gives the same figures (of what is done, "
        f"DIR/{UNFINISHED} knows until the end); with another model, input or flag it begins anew."
    )


def default_processes() -> int:
    """Returns how many processes count files."""
    return min(os.cpu_count() or 1, 16)


def _add_model_arguments(group: Any) -> None:
    add_model_argument(group)
    group.add_argument("--data", metavar="DIR", help="folder of records (default: that of the model's configuration)")
    group.add_argument("--split", metavar="NAME", help="split of the records (default: the model's data.eval_split)")
    add_view_arguments(group)


def _add_file_arguments(group: Any) -> None:
    group.add_argument("--truth", metavar="JSON", help="the truth")
    group.add_argument("--truth_dir", metavar="DIR", help="its PNGs (default: the JSON's path without .json)")
    group.add_argument("--prediction", metavar="JSON", help="the predictions")
    group.add_argument("--prediction_dir", metavar="DIR", help="their PNGs (default: likewise)")
    group.add_argument("--instances", metavar="JSON", help="COCO results with scored masks, for instance AP")
    group.add_argument("--images", metavar="DIR", help="the images, for pictures")
    group.add_argument(
        "--allow_extra",
        action="store_true",
        default=None,
        help="leave out predictions of images without truth, which are an error otherwise",
    )
    group.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help=f"processes that read and count; the figures do not depend on it (default: {default_processes()})",
    )


def _add_shared_arguments(group: Any) -> None:
    group.add_argument(
        "--dataset_info",
        metavar="NAME_OR_FILE",
        help="label space (default: that beside the records, or the categories of --truth)",
    )
    group.add_argument(
        "--output",
        metavar="DIR",
        help="gets metrics.json, metrics.csv, images.csv, images.jsonl, report.html and pictures/ (default: "
        "MODEL/evaluation of one model folder, else ./evaluation)",
    )
    group.add_argument(
        "--instance_rules",
        nargs="+",
        choices=("coco", "cityscapes"),
        default=["coco"],
        metavar="RULES",
        help="whose rules score instances, coco or cityscapes or both; tables show the first (default: coco)",
    )
    group.add_argument("--boundary", action="store_true", help="also boundary PQ and boundary IoU")
    group.add_argument(
        "--dilation_ratio",
        type=float,
        metavar="R",
        help="width of boundaries as a share of the image's diagonal (default: as usual for the data set, 0.005 for "
        "Cityscapes, else 0.02)",
    )
    group.add_argument(
        "--baseline",
        metavar="DIR",
        help="folder of an earlier evaluation: differences by figure, class and image, with confidence intervals",
    )
    group.add_argument("--pictures", type=int, default=16, metavar="N", help="draw the N worst images (default: 16)")
    group.add_argument("--html", action=argparse.BooleanOptionalAction, default=True, help="write report.html")
