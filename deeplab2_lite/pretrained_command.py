"""The command `deeplab2-lite import-weights`: weights of other code bases, made ready to train on from."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplab2_lite.config_loading import load_config
from deeplab2_lite.errors import UserError

# What `pretrained.SOURCES` has; it imports TensorFlow.
_SOURCES = ("deeplab2", "keras_applications", "pytorch", "tf_slim")
SUFFIX = ".npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument("--source", required=True, metavar="NAME", help=f"one of: {', '.join(_SOURCES)}")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="PATH",
        help="deeplab2, tf_slim: a checkpoint's name before .index; keras_applications: an .h5 file, or 'imagenet' to "
        "download it; pytorch: a file of torch.save, .safetensors or .npz",
    )
    parser.add_argument("--experiment", metavar="NAME", help="packaged experiment whose network they are for")
    parser.add_argument(
        "--config_file", action="append", default=[], metavar="YAML", help="configuration; repeatable, later wins"
    )
    parser.add_argument("--params_override", default="", metavar="A.B=C,...", help="settings that win over all files")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"where to write them: *{SUFFIX}")
    parser.add_argument("--fresh_logits", action="store_true", help="leave out the layer that says the classes")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: A setting or a file is at fault.
    """
    sources = [*([arguments.experiment] if arguments.experiment else []), *arguments.config_file]
    config = load_config(sources, arguments.params_override)
    output = Path(arguments.output)
    if output.suffix != SUFFIX:
        raise UserError(f"--output: {output} has another suffix than {SUFFIX}")
    if not output.parent.is_dir():
        raise UserError(f"--output: no folder {output.parent}")
    # TensorFlow takes seconds to import; what is wrong above is said before.
    from deeplab2_lite.pretrained import read_weights, write_weights

    translated = read_weights(config, arguments.source, arguments.weights, arguments.fresh_logits)
    write_weights(output, translated.weights, config)
    print(translated.report.table())
    print("Try next:")
    print(f"  deeplab2-lite train --params_override=train.init_checkpoint={output}")
    print(output)
