"""The command that measures a model, or predictions that are files: `deeplab2-lite evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.evaluate_arguments import (
    FILE_FLAGS,
    MODEL_FLAGS,
    UNFINISHED,
    add_arguments,
    default_processes,
)
from deeplab2_lite.evaluation.model_arguments import overrides_of
from deeplab2_lite.files import writing_to

__all__ = ["add_arguments", "run"]

if TYPE_CHECKING:
    from deeplab2_lite.evaluation.comparison.differences import Comparison
    from deeplab2_lite.evaluation.html.pictures import Sample
    from deeplab2_lite.evaluation.report import EvaluationReport
    from deeplab2_lite.evaluation.sources.source import Source


def run(arguments: argparse.Namespace) -> None:
    """Runs the command.

    Args:
        arguments: Of `add_arguments`.

    Raises:
        UserError: A flag, model, record or file is at fault, or the output cannot be written.
    """
    _check(arguments)
    from deeplab2_lite.evaluation.evaluation_files import read_evaluation

    # What is wrong with it is said before the work, not after.
    baseline = None if arguments.baseline is None else read_evaluation(arguments.baseline)
    source = _open(arguments)
    if baseline is not None:
        _check_label_space(baseline, source)
    folder = _output_folder(arguments)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)

    from deeplab2_lite.evaluation.evaluate import Evaluation
    from deeplab2_lite.evaluation.sources.source import count_source

    rules = list(dict.fromkeys(arguments.instance_rules))
    settings = {
        "instance_rules": rules,
        "boundary": arguments.boundary,
        "dilation_ratio": arguments.dilation_ratio,
    }
    evaluation = Evaluation(source.info, **settings)
    with writing_to(folder):
        journal, earlier = count_source(source, evaluation, folder / UNFINISHED, settings)
    report = _with_other_rules(evaluation.report(source.step), rules[1:])
    comparison = None
    if baseline is not None:
        from deeplab2_lite.evaluation.comparison.differences import compare

        comparison = compare(report, baseline)
    with writing_to(folder):
        text = _write(source, report, comparison, folder, arguments)
        journal.remove()
    note = f" ({earlier} of the images were counted by an earlier, interrupted run)" if earlier else ""
    print(f"{text}\n{folder}{note}")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.model is None:
        for flag in ("truth", "prediction"):
            if getattr(arguments, flag) is None:
                raise UserError(f"--{flag}: missing; expected --model, or both --truth and --prediction")
    elif arguments.truth is not None or arguments.prediction is not None:
        raise UserError("--model: contradicts --truth and --prediction; expected a model or files")
    unused, needed = (MODEL_FLAGS, "--model") if arguments.model is None else (FILE_FLAGS, "--truth and --prediction")
    for flag in unused:
        if getattr(arguments, flag) is not None:
            raise UserError(f"--{flag}: has no meaning without {needed}")
    if arguments.dilation_ratio is not None and not arguments.boundary:
        raise UserError("--dilation_ratio: has no meaning without --boundary")
    if arguments.pictures < 0:
        raise UserError(f"--pictures: expected 0 or more, got {arguments.pictures}")
    if arguments.num_processes is not None and arguments.num_processes < 1:
        raise UserError(f"--num_processes: expected 1 or more, got {arguments.num_processes}")


def _open(arguments: argparse.Namespace) -> Source:
    if arguments.model is None:
        from deeplab2_lite.evaluation.sources.folders import open_folders

        paths = {
            name: None if getattr(arguments, name) is None else Path(getattr(arguments, name))
            for name in ("truth_dir", "prediction_dir", "instances", "images")
        }
        return open_folders(
            Path(arguments.truth),
            Path(arguments.prediction),
            **paths,
            dataset_info=arguments.dataset_info,
            allow_extra=bool(arguments.allow_extra),
            num_processes=arguments.num_processes or default_processes(),
        )
    for path in arguments.model:
        if not Path(path).is_dir():
            raise UserError(f"--model: no folder {path}; expected a model folder or a SavedModel")
    # TensorFlow takes seconds to import; what is wrong above is said before.
    from deeplab2_lite.evaluation.sources.models import ModelRequest, open_models

    return open_models(
        ModelRequest(
            tuple(map(Path, arguments.model)),
            arguments.data,
            arguments.split,
            arguments.dataset_info,
            overrides_of(arguments),
        )
    )


def _check_label_space(baseline: EvaluationReport, source: Source) -> None:
    from deeplab2_lite.dataset_info import label_space_difference

    difference = label_space_difference(baseline.info, source.info)
    if difference is not None:
        raise UserError(f"--baseline: of another label space: {difference}")


def _output_folder(arguments: argparse.Namespace) -> Path:
    if arguments.output is not None:
        return Path(arguments.output)
    models = arguments.model or []
    if len(models) == 1 and not (Path(models[0]) / "saved_model.pb").is_file():
        return Path(models[0]) / "evaluation"
    return Path("evaluation")


def _with_other_rules(report: EvaluationReport, others: list[str]) -> EvaluationReport:
    """Adds the figures of the rules that tables do not show."""
    from deeplab2_lite.evaluation.metrics.instance_ap import InstanceAP

    extra = dict(report.extra)
    for rules in others if report.instance is not None else ():
        metric = InstanceAP(report.info, rules)
        for counts in report.images:
            metric.add(counts.instance[rules])
        result = metric.result()
        extra.update({f"instance_{rules}/AP": result.ap, f"instance_{rules}/AP50": result.ap50})
    return dataclasses.replace(report, extra=extra)


def _write(
    source: Source,
    report: EvaluationReport,
    comparison: Comparison | None,
    folder: Path,
    arguments: argparse.Namespace,
) -> str:
    """Writes all files; returns what the terminal shows."""
    from deeplab2_lite.evaluation.evaluate import write_report
    from deeplab2_lite.evaluation.evaluation_files import write_images

    text = write_report(report, folder)
    write_images(report, folder)
    comparison_file = folder / "comparison.json"
    comparison_file.unlink(missing_ok=True)
    if comparison is not None:
        from deeplab2_lite.evaluation.comparison.table import format_comparison, write_comparison

        write_comparison(comparison, comparison_file)
        text += f"\n{format_comparison(comparison)}"
    samples = list(_worst(source, report, folder / "pictures", arguments.pictures))
    html_file = folder / "report.html"
    html_file.unlink(missing_ok=True)
    if arguments.html:
        from deeplab2_lite.evaluation.html.report import write_html_report

        write_html_report(report, html_file, samples=samples, comparison=comparison)
    return text


def _worst(source: Source, report: EvaluationReport, folder: Path, count: int) -> Iterator[Sample]:
    """Draws the worst images, and yields them."""
    from deeplab2_lite.evaluation.comparison.image_scores import image_scores
    from deeplab2_lite.evaluation.evaluation_pictures import clear_pictures, write_picture
    from deeplab2_lite.evaluation.html.pictures import Sample

    clear_pictures(folder)
    chosen = image_scores(report).worst_first()[:count]
    if chosen:
        folder.mkdir(exist_ok=True)
    for rank, (index, maps) in enumerate(zip(chosen, source.maps(chosen), strict=True), 1):
        sample = Sample(report.images[index].name, *maps)
        write_picture(folder, rank, sample, report.info, report.panoptic is not None)
        yield sample
