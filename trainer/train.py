"""The command that trains, evaluates and exports: `python trainer/train.py --mode=train_and_eval`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from deeplab2_lite.command import run_command
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import load_config, packaged_experiments, parse_overrides
from deeplab2_lite.config_validation import validate
from deeplab2_lite.errors import UserError
from deeplab2_lite.serving.requirements import check_packages
from deeplab2_lite.trainer.budget import parse_duration
from deeplab2_lite.trainer.run_clock import RunClock

MODES = ("train", "eval", "train_and_eval", "continuous_eval", "export")
DEFAULT_EXPERIMENT = "shapes/mobilenet_v3_small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command.

    Args:
        parser: Theirs.
    """
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help=f"packaged experiment; default {DEFAULT_EXPERIMENT}. One of: {', '.join(packaged_experiments())}",
    )
    parser.add_argument(
        "--config_file", action="append", default=[], metavar="YAML", help="configuration; repeatable, later wins"
    )
    parser.add_argument("--params_override", default="", metavar="A.B=C,...", help="settings that win over all files")
    parser.add_argument("--mode", choices=MODES, default="train_and_eval", help="default: %(default)s")
    parser.add_argument("--model_dir", metavar="DIR", help="folder of the run; default runs/NAME")
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="such as 60min, 90s or 1h30min: steps and learning-rate schedule are fitted into this time",
    )
    parser.add_argument(
        "--profile",
        metavar="START,END",
        help="write a trace of these steps for TensorBoard's profiler, such as 100,110",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        default="newest",
        help="with --mode=eval or export: newest, best (of train.best_metric), or a step; default: %(default)s",
    )
    parser.add_argument("--tpu", metavar="NAME", help="TPU to run on, or 'local'")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: A setting, path, record or checkpoint is at fault.
    """
    clock = RunClock()
    config = _load(arguments)
    _check_tasks(config, arguments.mode)
    if arguments.mode in ("train_and_eval", "export"):
        check_packages(config.export)
    model_dir = Path(arguments.model_dir or Path("runs") / config.name)
    # TensorFlow takes seconds to import; what is wrong above is said before.
    from deeplab2_lite.trainer.evaluation_runs import evaluate, evaluate_continuously
    from deeplab2_lite.trainer.experiment import Experiment
    from deeplab2_lite.trainer.profiling import parse_profiled_steps
    from deeplab2_lite.trainer.training_run import train

    mode = arguments.mode
    if arguments.profile is not None and "train" not in mode:
        raise UserError(f"--profile: has no meaning with --mode={mode}, which trains nothing")
    if arguments.checkpoint != "newest" and mode not in ("eval", "export"):
        raise UserError(f"--checkpoint: has no meaning with --mode={mode}; expected eval or export")
    profiled = None if arguments.profile is None else parse_profiled_steps(arguments.profile)
    if mode in ("eval", "export") and not model_dir.is_dir():
        raise UserError(f"--model_dir: no folder {model_dir}; expected one that --mode=train wrote")
    experiment = Experiment(config, model_dir, training="train" in mode, clock=clock)
    if arguments.checkpoint != "newest":
        experiment.restore(experiment.step_of(arguments.checkpoint))
    if mode in ("train", "train_and_eval"):
        train(experiment, mode == "train_and_eval", profiled)
    elif mode == "eval":
        evaluate(experiment)
    elif mode == "continuous_eval":
        evaluate_continuously(experiment)
    if not experiment.is_chief:
        return
    if mode == "export" or (mode == "train_and_eval" and config.model.tasks == "panoptic"):
        experiment.export()
    _tell_what_next(config, mode, model_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with its flags; returns the exit status."""
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__)
    add_arguments(parser)
    return run_command(run, parser.parse_args(argv))


def _load(arguments: argparse.Namespace) -> ExperimentConfig:
    sources = [*([arguments.experiment] if arguments.experiment else []), *arguments.config_file]
    saved = Path(arguments.model_dir or "") / "config.yaml"
    if not sources and arguments.model_dir and saved.is_file():
        # A run goes on, is evaluated and exported with the settings that it was started with.
        sources = [saved]
    if not sources and arguments.model_dir and any((saved.parent / "checkpoints").glob("[0-9]*")):
        raise UserError(f"{saved}: no such file, but checkpoints beside it; expected that with which they were trained")
    budget = _budget(arguments)
    config = load_config(sources or [DEFAULT_EXPERIMENT], arguments.params_override)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **budget))
    if arguments.tpu is not None:
        config = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, tpu=arguments.tpu))
        validate(config)
    return config


def _budget(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Returns what the flags change of `train`'s budget."""
    overrides = parse_overrides(arguments.params_override).get("train")
    overrides = overrides if isinstance(overrides, dict) else {}
    if arguments.budget is None:
        # Steps that are asked for end a run's budget: what comes later wins.
        ends = "steps" in overrides and "budget_seconds" not in overrides
        return {"budget_seconds": None} if ends else {}
    if "train" not in arguments.mode:
        raise UserError(f"--budget: has no meaning with --mode={arguments.mode}, which trains nothing")
    if "steps" in overrides:
        raise UserError("--budget: contradicts train.steps in --params_override; expected one of both")
    return {"budget_seconds": parse_duration(arguments.budget)}


def _check_tasks(config: ExperimentConfig, mode: str) -> None:
    tasks = config.model.tasks
    if tasks == "instance" and mode not in ("train", "export"):
        raise UserError(
            f"--mode={mode}: an instance-only network says no classes, so there is nothing to evaluate; "
            "expected --mode=train, or model.tasks panoptic or semantic"
        )
    if tasks != "panoptic" and mode == "export":
        raise UserError(f"--mode=export: model.tasks '{tasks}' gives no panoptic map; expected model.tasks panoptic")


def _tell_what_next(config: ExperimentConfig, mode: str, model_dir: Path) -> None:
    exported = model_dir / "export" / "saved_model"
    print("Try next:")
    print(f"  tensorboard --logdir {model_dir}")
    if config.model.tasks == "classification":
        print(f"  deeplab2-lite train --experiment=NAME --params_override=train.init_checkpoint={model_dir}")
        print(model_dir)
        return
    print(f"  deeplab2-lite predict --model {exported if exported.is_dir() else model_dir} --input IMAGES --output OUT")
    if mode in ("train_and_eval", "export"):
        print(f"  saved_model_cli show --dir {exported} --all")
    else:
        print(f"  deeplab2-lite train --mode=export --model_dir {model_dir}")
    print(model_dir)


if __name__ == "__main__":
    sys.exit(main())
