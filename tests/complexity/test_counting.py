"""What a network costs: every rule against a count by hand, and the command."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from hypothesis import given
from hypothesis import strategies as st

from deeplab2_lite import cli
from deeplab2_lite.complexity.command import parse_size
from deeplab2_lite.complexity.counting import complexity, count_parameters, model_complexity
from deeplab2_lite.complexity.rules import convolution_multiply_adds, postprocessing_flops, profiler_flops
from deeplab2_lite.config import BackboneConfig, BranchConfig, ExperimentConfig, ModelConfig, TrainConfig
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.layers import HardSigmoid, HardSwish, ImageNormalization, ImagePooling, ResizeLike
from deeplab2_lite.layers.normalization import BatchNormalization
from deeplab2_lite.model import build_model

ROOT = Path(__file__).resolve().parent.parent
SMALL = ExperimentConfig(
    model=ModelConfig(
        backbone=BackboneConfig(name="mobilenet_v3_small"),
        semantic=BranchConfig(16, 16, 16, (8, 8)),
        instance=BranchConfig(16, 8, 8, (8, 4)),
    )
)
SHAPES = ["complexity", "--experiment=shapes/mobilenet_v3_small", "--input_size=65x97"]


def applied(layer: keras.layers.Layer, *shapes: tuple[int, ...]) -> keras.layers.Layer:
    inputs = [keras.Input(shape) for shape in shapes]
    layer(inputs if len(inputs) > 1 else inputs[0])
    return layer


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- One layer


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 4 x 6 outputs of 5 channels, each a sum over 3 x 3 x 2.
        (keras.layers.Conv2D(5, 3, padding="same"), 4 * 6 * 5 * 18),
        (keras.layers.Conv2D(4, 3, padding="same", groups=2), 4 * 6 * 4 * 9),
        # 2 x 3 outputs.
        (keras.layers.Conv2D(5, 1, strides=2), 2 * 3 * 5 * 2),
        (keras.layers.Conv2D(5, (3, 1)), 2 * 6 * 5 * 6),
        (keras.layers.DepthwiseConv2D(3, padding="same"), 4 * 6 * 2 * 9),
        (keras.layers.DepthwiseConv2D(5, depth_multiplier=3, padding="same"), 4 * 6 * 6 * 25),
        (keras.layers.Dense(7), 4 * 6 * 7 * 2),
        (BatchNormalization(), 0),
        (keras.layers.ReLU(), 0),
    ],
)
def test_multiply_adds_of_convolutions(layer, expected):
    assert convolution_multiply_adds(applied(layer, (4, 6, 2))) == expected


@pytest.mark.parametrize(
    ("layer", "inputs", "expected"),
    [
        (keras.layers.Conv2D(5, 3, padding="same", use_bias=False), 1, 2 * 4 * 6 * 5 * 18),
        (keras.layers.Conv2D(5, 3, padding="same"), 1, 2 * 4 * 6 * 5 * 18 + 4 * 6 * 5),
        (keras.layers.Dense(7), 1, 2 * 4 * 6 * 7 * 2 + 4 * 6 * 7),
        # At rate 3 the 4 x 6 outputs are computed as 6 x 6, at rate 4 as 4 x 8.
        (keras.layers.Conv2D(5, 3, dilation_rate=3, padding="same", use_bias=False), 1, 2 * 6 * 6 * 5 * 18),
        (keras.layers.DepthwiseConv2D(3, dilation_rate=4, padding="same", use_bias=False), 1, 2 * 4 * 8 * 2 * 9),
        # A 1x1 kernel has no taps to spread.
        (keras.layers.Conv2D(5, 1, dilation_rate=5, use_bias=False), 1, 2 * 4 * 6 * 5 * 2),
        (BatchNormalization(), 1, 48),
        (keras.layers.Add(), 2, 48),
        (keras.layers.Add(), 3, 96),
        (keras.layers.Multiply(), 2, 48),
        (keras.layers.MaxPooling2D(2), 1, 2 * 3 * 2 * 4),
        (keras.layers.MaxPooling2D(1, strides=2), 1, 0),
        (keras.layers.AveragePooling2D(3, strides=1), 1, 2 * 4 * 2 * 9),
        (ImagePooling(), 1, 2 * 24),
        (ImagePooling((3, 5)), 1, 2 * 2 * 2 * 15),
        # A window that is larger than the image is cut.
        (ImagePooling((9, 5)), 1, 1 * 2 * 2 * 20),
        (HardSwish(), 1, 3 * 48),
        (HardSigmoid(), 1, 2 * 48),
        (ImageNormalization((0.0, 0.0), (1.0, 1.0)), 1, 2 * 48),
        (ResizeLike(), 2, 0),
        (keras.layers.ReLU(), 1, 0),
        (keras.layers.ZeroPadding2D(2), 1, 0),
        (keras.layers.Concatenate(), 2, 0),
    ],
)
def test_operations_of_a_layer(layer, inputs, expected):
    assert profiler_flops(applied(layer, *[(4, 6, 2)] * inputs)) == expected


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel=st.sampled_from([1, 3, 5]),
    rate=st.integers(1, 6),
)
def test_atrous_convolutions_are_counted_block_by_block(height, width, kernel, rate):
    layer = applied(
        keras.layers.DepthwiseConv2D(kernel, dilation_rate=rate, padding="same", use_bias=False), (height, width, 1)
    )
    flops = 0
    if kernel == 1:
        flops = 2 * height * width
    else:
        # Every rate-th pixel of the padded image makes a block, and each block is convolved without a rate.
        padded = np.zeros([-(-(n + rate * (kernel - 1)) // rate) * rate for n in (height, width)])
        for i in range(rate):
            for j in range(rate):
                rows, columns = padded[i::rate, j::rate].shape
                flops += 2 * (rows - kernel + 1) * (columns - kernel + 1) * kernel**2
    assert profiler_flops(layer) == flops


@pytest.mark.parametrize("layer", [keras.layers.Conv2DTranspose(3, 3), keras.layers.SeparableConv2D(3, 3)])
def test_weights_without_a_rule_are_refused(layer):
    applied(layer, (4, 4, 2))
    for count in (convolution_multiply_adds, profiler_flops):
        with pytest.raises(UserError, match=f"{layer.name}.*{type(layer).__name__}"):
            count(layer)


def test_steps_after_the_network():
    assert postprocessing_flops(10, 3, instances=False) == {"softmax": 150, "argmax": 30}
    assert postprocessing_flops(10, 3, instances=True) == {"softmax": 150, "argmax": 30, "grouping": 1230}


# ---- A model


def test_parameters_leave_out_moving_statistics():
    model = build_model(SMALL, 5)
    assert count_parameters(model) == sum(np.size(w) for w in model.trainable_weights)
    moving = sum(np.size(w) for w in model.non_trainable_weights)
    assert count_parameters(model) == model.count_params() - moving
    assert moving > 0


def test_sums_and_parts():
    model = build_model(SMALL, 5, (65, 97))
    found = model_complexity(model, "paper")
    assert found.input_size == (65, 97)
    assert found.total.parameters == count_parameters(model)
    assert [part.part for part in found.parts] == [
        "backbone",
        *(f"semantic/{name}" for name in ("aspp", "decoder", "head")),
        *(f"instance/{name}" for name in ("aspp", "decoder", "center_head", "offset_head")),
        "postprocessing",
    ]
    for field in ("parameters", "multiply_adds", "activation_bytes"):
        total = sum(getattr(layer, field) for layer in found.layers)
        assert getattr(found.total, field) == total == sum(getattr(part, field) for part in found.parts)
    # Layers of a part stand together.
    parts = [layer.part for layer in found.layers]
    assert sum(a != b for a, b in itertools.pairwise(parts)) == len(set(parts)) - 1
    assert {layer.name for layer in found.layers if layer.part != "postprocessing"} == {
        layer.name for layer in model.layers if layer.name != "images"
    }
    head = next(layer for layer in found.layers if layer.name == "semantic/head/logits/conv")
    # 17 x 25 pixels, 16 channels to 5 and a bias.
    assert head == (head.name, "Conv2D", "semantic/head", (17, 25, 5), 85, 17 * 25 * 5 * 16.5, 17 * 25 * 5 * 4)
    pixels = 65 * 97
    steps = {layer.name: layer.multiply_adds for layer in found.layers if layer.part == "postprocessing"}
    assert steps == {
        "postprocessing/softmax": pixels * 12.5,
        "postprocessing/argmax": pixels * 2.5,
        "postprocessing/grouping": pixels * 62.5,
    }


@pytest.mark.parametrize(("tasks", "steps"), [("semantic", {"softmax", "argmax"}), ("instance", set())])
def test_one_task_has_its_own_steps(tasks, steps):
    config = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, tasks=tasks))
    found = complexity(config, (33, 33), "paper", 5)
    assert {layer.name for layer in found.layers if layer.part == "postprocessing"} == {
        f"postprocessing/{step}" for step in steps
    }
    conv = complexity(config, (33, 33), num_classes=5)
    assert conv.total.parameters == found.total.parameters
    assert not any(layer.part == "postprocessing" for layer in conv.layers)
    assert 0 < conv.total.multiply_adds < found.total.multiply_adds


def test_low_precision_halves_what_is_computed_in_it():
    low = dataclasses.replace(SMALL, train=TrainConfig(precision="bfloat16"))
    half, full = ({layer.name: layer for layer in complexity(c, (33, 33), num_classes=5).layers} for c in (low, SMALL))
    assert 2 * half["backbone/layer1/conv"].activation_bytes == full["backbone/layer1/conv"].activation_bytes
    logits = "semantic/head/logits/conv"
    assert half[logits].activation_bytes == full[logits].activation_bytes == 9 * 9 * 5 * 4


def test_size_comes_from_the_crop_and_must_be_fixed():
    data = dataclasses.replace(SMALL.data, crop_size=(33, 65), dataset_info="shapes")
    found = complexity(dataclasses.replace(SMALL, data=data))
    assert found.input_size == (33, 65)
    logits = next(layer for layer in found.layers if layer.name == "semantic/head/logits/conv")
    assert logits.output_shape == (9, 17, load_dataset_info("shapes").num_classes)
    with pytest.raises(UserError, match="fixed input_size"):
        model_complexity(build_model(SMALL, 5))


# ---- The command


def test_command_by_part(capsys, tmp_path):
    path = tmp_path / "parts.csv"
    assert cli.main([*SHAPES, "--csv", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = read_csv(path)
    assert lines[0].startswith("shapes/mobilenet_v3_small: 65 x 97, ")
    assert [line.split()[0] for line in lines[4 : 4 + len(rows)]] == [row["part"] for row in rows]
    parameters = sum(int(row["parameters"]) for row in rows)
    multiply_adds = sum(float(row["multiply_adds"]) for row in rows)
    assert lines[-1].split()[:3] == ["total", f"{parameters:,}", f"{multiply_adds / 1e6:,.3f}"]


def test_command_by_layer_and_as_the_paper_counts(capsys, tmp_path):
    path = tmp_path / "layers.csv"
    override = "--params_override=model.tasks=semantic"
    assert cli.main([*SHAPES, override, "--by=layer", "--count=paper", f"--csv={path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {row["layer"]: row for row in read_csv(path)}
    assert "as the paper counts" in lines[0]
    assert rows["backbone/layer1/conv"] == {
        "layer": "backbone/layer1/conv",
        "type": "Conv2D",
        "part": "backbone",
        "output": "33x49x16",
        "parameters": str(27 * 16),
        "multiply_adds": str(33 * 49 * 16 * 27.0),
        "activation_bytes": str(33 * 49 * 16 * 4),
    }
    assert not any(name.startswith("instance/") for name in rows)
    line = next(line for line in lines if line.startswith("backbone/layer1/conv "))
    assert line.split()[1:] == ["Conv2D", "33", "x", "49", "x", "16", "432", "0.699", "0.1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --experiment, --config_file or --tables"),
        (["--experiment=shapes/mobilenet_v3_smal"], "did you mean 'shapes/mobilenet_v3_small'"),
        (["--experiment=shapes/mobilenet_v3_small", "--input_size=65"], "--input_size: expected HEIGHTxWIDTH"),
        (["--experiment=shapes/mobilenet_v3_small", "--csv=nowhere/a.csv"], "--csv: no folder nowhere"),
        (["--tables", "--count=conv"], "--count: contradicts --tables"),
        (["--tables", "--input_size=65x65"], "--input_size: contradicts --tables"),
    ],
)
def test_mistakes_end_in_one_line(flags, message, capsys):
    assert cli.main(["complexity", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_sizes_are_read_as_height_and_width():
    assert parse_size("1025x2049") == (1025, 2049)
    for text in ("1025", "0x5", "5x", "-5x5", "5X5", "1e3x5", "5x5x3"):
        with pytest.raises(UserError, match="HEIGHTxWIDTH"):
            parse_size(text)


def test_help_comes_without_tensorflow():
    script = """
import sys
from deeplab2_lite.cli import main
try:
    main(["complexity", "--help"])
except SystemExit as end:
    assert end.code == 0
assert not {"tensorflow", "tf_keras"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for flag in ("--experiment", "--config_file", "--params_override", "--input_size", "--count", "--by", "--tables"):
        assert flag in done.stdout
