"""What the benchmark says: beside what was published, on the terminal, in files, and of mistakes."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.benchmark import measuring as benchmarks
from deeplab2_lite.benchmark import plot as benchmark_plot
from deeplab2_lite.benchmark.machine import describe_machine
from deeplab2_lite.benchmark.measuring import benchmark_experiment, benchmark_model, default_input_size
from deeplab2_lite.benchmark.report import format_benchmark, format_summary, to_csv, to_json
from deeplab2_lite.benchmark.stages import INSTANCES
from deeplab2_lite.benchmark.timing import Timing
from deeplab2_lite.complexity.tables import TABLE_9
from deeplab2_lite.config import PublishedConfig
from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.evaluation import benchmark_command

from .fakes import MACHINE, fake_benchmark

EXPERIMENT = "shapes/mobilenet_v3_small"

# ---- what was published


@pytest.mark.parametrize("row", TABLE_9, ids=lambda row: row.experiment)
def test_packaged_experiments_bear_their_row_of_table_9(row):
    config = load_config(row.experiment)
    published = config.published
    assert (published.pq, published.milliseconds, published.input_size) == (row.pq, row.milliseconds, row.input_size)
    assert published.device == "Tesla V100" and published.source.startswith("paper, Table")
    assert default_input_size(config) == row.input_size
    assert default_input_size(dataclasses.replace(config, published=None)) == row.input_size
    assert resolve_dataset_info(config).name == row.data_set


PUBLISHED = PublishedConfig("paper, Table 9", pq=59.7, milliseconds=100, device="Tesla V100", input_size=(1025, 2049))
STAGES = (
    Timing("preparing", (0.002, 0.001, 0.003), 2**20),
    Timing("backbone", (0.2, 0.1, 0.3)),
    Timing("merging", (0.1, 0.1, 0.4), 2**19),
    Timing(INSTANCES, (0.05, 0.05, 0.05)),
)


def test_comparison_is_of_one_size():
    assert fake_benchmark(published=PUBLISHED).ratio_to_published == pytest.approx(5)
    assert fake_benchmark(published=PUBLISHED, batch_size=4).ratio_to_published == pytest.approx(1.25)
    for other in (
        fake_benchmark(published=PUBLISHED, image_sizes=((513, 1025),)),
        fake_benchmark(published=PUBLISHED, image_sizes=((1025, 2049), (513, 1025))),
        fake_benchmark(published=dataclasses.replace(PUBLISHED, input_size=None)),
        fake_benchmark(),
    ):
        assert other.comparable == PublishedConfig() and other.ratio_to_published is None
    assert fake_benchmark(published=dataclasses.replace(PUBLISHED, milliseconds=None)).ratio_to_published is None


# ---- reports


def test_the_table_of_stages():
    text = format_benchmark(fake_benchmark(stages=STAGES, published=PUBLISHED, xla=True, precision="bfloat16"))
    head, _, drawn_too, _, *table = text.splitlines()
    assert head == "cityscapes/resnet50_beta: 1025 x 2049, batch of 1, 3 runs, bfloat16, XLA"
    assert drawn_too == "20 instances in place of its own (20 found)."
    rule = "-" * len(table[1])
    end_to_end, beside = "end to end, image to panoptic map", "beside it: instance table and scores"
    assert [line.split() for line in table[:-1]] == [
        ["stage", "median", "ms", "quartiles", "ms", "share", "peak", "MiB"],
        [rule],
        ["preparing", "2.0", "1.5", "..", "2.5", "0.7%", "1.0"],
        ["network", "200.0", "150.0", "..", "250.0", "66.2%"],
        ["backbone", "200.0", "150.0", "..", "250.0", "66.2%"],
        ["post-processing", "100.0", "100.0", "..", "250.0", "33.1%"],
        ["merging", "100.0", "100.0", "..", "250.0", "33.1%", "0.5"],
        [rule],
        ["sum", "of", "stages", "302.0", "251.5", "..", "502.5", "100.0%"],
        [*end_to_end.split(), "500.0", "375.0", "..", "750.0", "3.0"],
        [*beside.split(), "50.0", "50.0", "..", "50.0"],
    ]
    assert table[4].startswith("  backbone") and table[6].startswith("  merging")
    assert table[-1] == (
        "published (paper, Table 9): PQ 59.7, 100 ms on a Tesla V100 at 1025 x 2049; "
        "an image takes 5.00 times as long here"
    )


def test_the_line_on_what_was_published_says_what_there_is():
    def line(published):
        return format_benchmark(fake_benchmark(published=published)).splitlines()[-1]

    assert line(PublishedConfig(pq=50.0)) == "published: PQ 50.0"
    assert line(PublishedConfig(milliseconds=38.5)) == "published: 38.5 ms"
    assert line(PublishedConfig("here")).startswith("end to end")


def test_the_table_of_networks():
    others = fake_benchmark("coco/resnet50_beta", (1.2346,), image_sizes=((641, 641),), published=PUBLISHED)
    text = format_summary([fake_benchmark(published=PUBLISHED), others])
    assert [line.split() for line in text.splitlines()] == [
        ["network", "image", "PQ", "published", "ms", "here", "ms", "ratio"],
        ["-" * len(text.splitlines()[0])],
        ["cityscapes/resnet50_beta", "1025", "x", "2049", "59.7", "100", "500.0", "5.00"],
        ["coco/resnet50_beta", "641", "x", "641", "-", "-", "1,234.6", "-"],
    ]


def test_the_rows_of_the_csv():
    rows = list(csv.DictReader(io.StringIO(to_csv([fake_benchmark(stages=STAGES, published=PUBLISHED)], MACHINE))))
    assert [row["stage"] for row in rows] == [
        "preparing",
        "backbone",
        "merging",
        "instance table and scores",
        "sum of stages",
        "end to end",
    ]
    assert rows[2] == {
        "name": "cityscapes/resnet50_beta",
        "data_set": "cityscapes",
        "backbone": "resnet50_beta",
        "image_size": "1025 x 2049",
        "batch_size": "1",
        "precision": "float32",
        "xla": "False",
        "device": "Some CPU",
        "stage": "merging",
        "median_ms": "100.0000",
        "lower_quartile_ms": "100.0000",
        "upper_quartile_ms": "250.0000",
        "peak_bytes": str(2**19),
        "published_pq": "59.7",
        "published_ms": "100",
        "published_device": "Tesla V100",
    }
    assert rows[4]["median_ms"] == "302.0000" and rows[4]["peak_bytes"] == ""


def test_the_json_holds_every_run():
    content = json.loads(to_json([fake_benchmark(stages=STAGES, published=PUBLISHED), fake_benchmark()], MACHINE))
    assert content["machine"] == dataclasses.asdict(MACHINE)
    first, second = content["benchmarks"]
    assert first["stages"][1] == {"name": "backbone", "seconds": [0.2, 0.1, 0.3], "peak_bytes": None}
    assert first["end_to_end"]["seconds"] == [0.5, 0.25, 1.0]
    assert (first["published"]["pq"], first["ratio_to_published"], first["seconds_per_image"]) == (59.7, 5.0, 0.5)
    assert (second["published"], second["ratio_to_published"], second["image_sizes"]) == (None, None, [[1025, 2049]])


# ---- the picture


def test_the_picture_shows_what_was_measured_beside_what_was_published(monkeypatch, tmp_path):
    figures = []

    class Recorded(benchmark_plot.Figure):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            figures.append(self)

    monkeypatch.setattr(benchmark_plot, "Figure", Recorded)
    found = [
        fake_benchmark(published=PUBLISHED),
        fake_benchmark("cityscapes/xception71", (4.0,), dataclasses.replace(PUBLISHED, pq=63.0, milliseconds=175.0)),
        fake_benchmark("coco/mobilenet_v3_large", (1.0,), dataclasses.replace(PUBLISHED, pq=30.0, milliseconds=None)),
        fake_benchmark("mine/resnet50", (2.0,), dataclasses.replace(PUBLISHED, pq=40.0), batch_size=4),
        fake_benchmark("other/resnet101_beta", (3.0,)),
    ]
    path = tmp_path / "benchmark.png"
    assert benchmark_plot.plot_benchmarks(found, MACHINE, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size[0] >= 1000
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    (axes,) = figures[0].axes
    lines = {}
    for line in axes.lines:
        filled = line.get_markerfacecolor() != "white"
        lines.setdefault((line.get_color(), line.get_marker(), filled), line.get_xydata().tolist())
    assert lines == {
        ("#0072B2", "o", True): [[0.5, 59.7], [4.0, 63.0]],
        ("#0072B2", "o", False): [[0.1, 59.7], [0.175, 63.0]],
        ("#009E73", "^", True): [[1.0, 30.0]],
        ("#CC79A7", "D", True): [[0.5, 40.0]],
        ("#CC79A7", "D", False): [[0.1, 40.0]],
    }
    names = sorted((text.get_text(), *text.xy) for text in axes.texts)
    assert names == [
        ("MNV3", 1.0, 30.0),
        ("R-50", 0.1, 40.0),
        ("R-50", 0.1, 59.7),
        ("R-50", 0.5, 40.0),
        ("R-50", 0.5, 59.7),
        ("X-71", 0.175, 63.0),
        ("X-71", 4.0, 63.0),
    ]
    labels = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert labels == ["Cityscapes", "COCO", "mine", "here: Some CPU", "published: Tesla V100"]


def test_there_is_no_picture_without_pq(tmp_path):
    other_size = fake_benchmark(published=PUBLISHED, image_sizes=((513, 1025),))
    assert not benchmark_plot.plot_benchmarks([fake_benchmark(), other_size], MACHINE, tmp_path / "benchmark.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backbone", "short"),
    [
        ("xception71", "X-71"),
        ("resnet101_beta", "R-101"),
        ("mobilenet_v3_large", "MNV3"),
        ("mobilenet_v3_small", "MNV3-S"),
        ("hrnet_w48_plus_atrous", "HRNet-w48+_atrous"),
        ("auto_deeplab_xl_plus_plus", "AD-xl++"),
    ],
)
def test_short_names(backbone, short):
    assert benchmark_plot.short_name(backbone) == short


# ---- the command


def test_help_comes_without_tensorflow():
    script = """
import sys
from deeplab2_lite.cli import main
try:
    main(["benchmark", "--help"])
except SystemExit as end:
    assert end.code == 0
assert "tensorflow" not in sys.modules and "matplotlib" not in sys.modules
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--input_size" in done.stdout and "benchmark.png" in done.stdout


def test_the_command_from_end_to_end(capsys, tmp_path):
    words = ["--input_size=33x49", "--runs=1", "--instances=1", f"--output={tmp_path / 'deep' / 'out'}"]
    published = "published={source: mine, pq: 50, milliseconds: 0.001, input_size: [33, 49]}"
    assert cli.main(["benchmark", f"--experiment={EXPERIMENT}", *words, f"--params_override={published}"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{describe_machine()}\n\n{EXPERIMENT}: 33 x 49, batch of 1, 1 run\n")
    assert "\n1 instance in place of its own (1 found)." in captured.out
    assert "\npublished (mine): PQ 50.0, 0.001 ms at 33 x 49; an image takes " in captured.out
    folder = tmp_path / "deep" / "out"
    # One experiment makes no picture.
    assert sorted(path.name for path in folder.iterdir()) == ["benchmark.csv", "benchmark.json"]
    (found,) = json.loads((folder / "benchmark.json").read_text())["benchmarks"]
    assert found["image_sizes"] == [[33, 49]]
    assert len(found["stages"]) == 8 and all(stage["seconds"][0] > 0 for stage in found["stages"])
    # The machine is busy: one run of each says little, but the order of magnitude is one.
    total = sum(stage["seconds"][0] for stage in found["stages"] if stage["name"] != INSTANCES)
    assert 0.02 < total / found["end_to_end"]["seconds"][0] < 50


@pytest.fixture
def experiments_seen(monkeypatch):
    """Stands in for the measuring: notes what is asked for."""
    seen = []

    def measure_nothing(config, input_size, **options):
        seen.append((config.name, input_size, options))
        return fake_benchmark(config.name, published=config.published)

    monkeypatch.setattr(benchmarks, "benchmark_experiment", measure_nothing)
    return seen


def test_several_experiments_give_table_and_picture(experiments_seen, capsys, tmp_path):
    names = ["cityscapes/resnet50_beta", "cityscapes/mobilenet_v3_large"]
    words = [f"--experiment={name}" for name in names]
    assert cli.main(["benchmark", *words, "--xla", "--batch_size=4", f"--output={tmp_path}"]) == 0
    options = {"batch_size": 4, "instances": 20, "runs": 10, "xla": True}
    assert experiments_seen == [(name, None, options) for name in names]
    out = capsys.readouterr().out
    assert f"\n{format_summary([fake_benchmark(n, published=load_config(n).published) for n in names])}\n" in out
    files = ["benchmark.csv", "benchmark.json", "benchmark.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert out.endswith(", ".join(str(tmp_path / file) for file in files) + "\n")
    # A single experiment into the same folder leaves no picture of others behind.
    assert cli.main(["benchmark", words[0], "--input_size=65x97", f"--output={tmp_path}"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == files[:2]
    assert experiments_seen[-1][1] == (65, 97)


def test_what_is_measured_is_kept_if_a_later_one_fails(monkeypatch, capsys, tmp_path):
    def measure_first(config, input_size, **options):
        if config.name == "coco/resnet50_beta":
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\ntensor")
        return fake_benchmark(config.name)

    monkeypatch.setattr(benchmarks, "benchmark_experiment", measure_first)
    words = ["--experiment=cityscapes/resnet50_beta", "--experiment=coco/resnet50_beta"]
    assert cli.main(["benchmark", *words, f"--output={tmp_path}"]) == 2
    expected = "error: coco/resnet50_beta: out of memory; expected smaller images or a smaller --batch_size\n"
    assert capsys.readouterr().err == expected
    assert len(json.loads((tmp_path / "benchmark.json").read_text())["benchmarks"]) == 1


def test_a_model_is_measured_on_the_images_of_a_folder(monkeypatch, capsys, tmp_path):
    for name, size in (("b", (5, 7)), ("a", (3, 4))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    seen = []

    def measure_nothing(path, images, runs, xla):
        seen.append((path, [image.shape for image in images], runs, xla))
        return fake_benchmark("runs/x", drawn_instances=None)

    monkeypatch.setattr(benchmarks, "benchmark_model", measure_nothing)
    assert cli.main(["benchmark", "--model=runs/x", f"--input={tmp_path}", "--runs=3"]) == 0
    assert seen == [("runs/x", [(3, 4, 3), (5, 7, 3)], 3, False)]
    assert "20.0 instances found in an image, on average." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "benchmark: expected --experiment, --config_file or --model"),
        (["--experiment=cityscapes/resnet5"], "config 'cityscapes/resnet5': neither a file nor a packaged experiment"),
        (["--experiment=E", "--input_size=1025"], "--input_size: expected HEIGHTxWIDTH such as 1025x2049, got '1025'"),
        (["--experiment=E", "--runs=0"], "--runs: expected 1 or more, got 0"),
        (["--experiment=E", "--batch_size=-1"], "--batch_size: expected 1 or more, got -1"),
        (["--experiment=E", "--instances=-1"], "--instances: expected 0 or more, got -1"),
        (["--experiment=E", "--input=a.png"], "--input: needs --model; an untrained network is timed on random pixels"),
        (["--experiment=E", "--params_override=train.step=1"], "train.step: unknown key; did you mean 'train.steps'?"),
        (
            ["--experiment=E", "--params_override=model.tasks=instance"],
            "shapes/mobilenet_v3_small: model.tasks: 'instance' gives no panoptic map; expected panoptic",
        ),
        (
            ["--experiment=nuclei/mobilenet_v3_large"],
            "nuclei/mobilenet_v3_large: data.dir: not set; expected a folder of TFRecords with its dataset_info.yaml",
        ),
        (["--model=m"], "--input: expected an image or a folder of images for --model"),
        (["--model=m", "--input=/no/where"], "--input: no such file or folder: /no/where"),
        (["--model=m", "--experiment=E"], "--experiment: contradicts --model, which has settings of its own"),
        (
            ["--model=m", "--input=i", "--batch_size=2"],
            "--batch_size: contradicts --model, which is timed on the images of --input, one by one",
        ),
        (["--experiment=E", "--output=FILE/out"], "--output: FILE/out: cannot be written (Not a directory)"),
        (["--experiment=E", "--output=FILE"], "--output: FILE: cannot be written (File exists)"),
    ],
)
def test_mistakes_end_in_one_line(words, message, capsys, tmp_path, monkeypatch, experiments_seen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    assert cli.main(["benchmark", *(word.replace("=E", f"={EXPERIMENT}") for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    assert experiments_seen == [] and [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_the_flags_have_the_defaults_of_the_functions():
    parameters = inspect.signature(benchmark_experiment).parameters
    defaults = benchmark_command._DEFAULTS
    assert {name: parameters[name].default for name in defaults} == defaults
    assert inspect.signature(benchmark_model).parameters["runs"].default == defaults["runs"]
