"""The console command `deeplab2-lite`: one subcommand a task."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from deeplab2_lite import __version__
from deeplab2_lite.command import run_command

# Modules with add_arguments(parser) and run(arguments), by subcommand. They are imported when needed,
# and none of them imports TensorFlow before its flags are read.
_COMMANDS = {
    "train": ("deeplab2_lite.trainer.train", "train, evaluate and export (--mode)"),
    "learning-curve": (
        "deeplab2_lite.trainer.learning_curve_command",
        "draw losses and figures of runs over each other",
    ),
    "evaluate": ("deeplab2_lite.evaluation.evaluate_command", "measure a model, or predictions that are files"),
    "predict": ("deeplab2_lite.evaluation.predict", "segment images, folders of images and videos"),
    "demo": ("deeplab2_lite.evaluation.demo.command", "show a model at work on a web page of this machine"),
    "submit": ("deeplab2_lite.evaluation.submission.command", "make or check files that the benchmark servers take"),
    "import-weights": ("deeplab2_lite.pretrained_command", "read weights of other code bases to train on from"),
    "export": (
        "deeplab2_lite.evaluation.export_command",
        "convert a trained model to ONNX, OpenVINO, LiteRT, StableHLO or a SavedModel, and compare it there",
    ),
    "complexity": (
        "deeplab2_lite.complexity.command",
        "count parameters, multiply-adds and activation memory of a network, or of the paper's tables",
    ),
    "benchmark": (
        "deeplab2_lite.evaluation.benchmark_command",
        "time inference by stage, from image to panoptic map, beside what was published",
    ),
    "data-service": ("deeplab2_lite.data.data_service_command", "make training input for other machines"),
    "convert": ("", "turn labelled images into TFRecords"),
    "inspect": ("deeplab2_lite.data.inspection.command", "show what TFRecords hold, and what is wrong with them"),
}
# Layouts, of which each has a module of its name in data/converters/.
_CONVERTERS = {
    "cityscapes": "Cityscapes as downloaded, fine or coarse labels",
    "coco_instances": "images with COCO instance annotations (JSON)",
    "coco_panoptic": "images with COCO-panoptic PNGs and JSON",
    "image_folders": "a folder of images for each class, to pre-train on",
    "instance_masks": "images with masks of instance ids",
    "labelme": "images with labelme's JSON files",
    "mapillary_vistas": "Mapillary Vistas 1.1, 1.2 or 2.0 as downloaded",
    "semantic_maps": "images with maps of class ids",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: Its words; None takes those of the process.

    Returns:
        Exit status.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="deeplab2-lite", description="Panoptic-DeepLab in TensorFlow 2.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == "convert":
            converters = command.add_subparsers(dest="converter", required=True, metavar="LAYOUT")
            for converter, converter_text in _CONVERTERS.items():
                layout = converters.add_parser(converter, help=converter_text, description=converter_text)
                if converter in argv[1:2]:
                    _add(layout, f"deeplab2_lite.data.converters.{converter}")
        elif name in argv[:1]:
            _add(command, module)
    arguments = parser.parse_args(argv)
    return run_command(arguments.run, arguments)


def _add(parser: argparse.ArgumentParser, module_name: str) -> None:
    module = importlib.import_module(module_name)
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


if __name__ == "__main__":
    sys.exit(main())
