"""The benchmark of the training step measures what it says: equal networks and losses, rounds in turn, ratios."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from deeplab2_lite.config_loading import load_config
from deeplab2_lite.model import build_model
from deeplab2_lite.trainer.panoptic import PanopticTrainer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
_SIZE = (65, 129)


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def _answering(loop: str) -> list[str]:
    """Returns the command of a process that answers as a contender does, and needs no network for it."""
    script = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); from step_process import serve\n{loop}"
    return [sys.executable, "-c", script]


_SLEEPER = """
import time
calls = []
def run(steps):
    calls.append(steps)
    block = bytearray(200 * 2**20)
    time.sleep(steps * {seconds})
    return float(sum(calls))
serve(lambda: (run, {parameters}))
"""


def test_rounds_of_a_process(benchmark_module) -> None:
    measure = benchmark_module("training_step").measure
    commands = {
        name: (_answering(_SLEEPER.format(seconds=seconds, parameters=7)), {})
        for name, seconds in (("slow", 0.6), ("quick", 0.3))
    }
    measured = measure(commands, rounds=2, steps=3)
    assert list(measured) == ["slow", "quick"]
    for name, seconds in (("slow", 0.6), ("quick", 0.3)):
        # Two steps warm up.
        assert [m.round.loss for m in measured[name]] == [5.0, 8.0]
        # Of one step, not of three.
        assert seconds <= min(m.round.seconds for m in measured[name]) < 2.9 * seconds
        peaks = [m.round.peak_mb for m in measured[name] if m.round.peak_mb is not None]
        # Less where the system takes memory back that is not used.
        assert not peaks or 100 < max(peaks) < 250


def test_networks_of_other_sizes_are_refused(benchmark_module) -> None:
    commands = {str(n): (_answering(_SLEEPER.format(seconds=0, parameters=n)), {}) for n in (7, 8)}
    with pytest.raises(RuntimeError, match=r"as many parameters, got \{'7': 7, '8': 8\}"):
        benchmark_module("training_step").measure(commands, rounds=1, steps=1)


def test_rows_compare_with_the_faster_format(benchmark_module) -> None:
    benchmark = benchmark_module("training_step")
    Round = benchmark_module("step_process").Round

    def rounds(*seconds: float) -> list:
        return [benchmark.Measured(Round(s, 2 * s, 0.0, 100 * s), 0.25) for s in seconds]

    measured = {
        "ours": rounds(2.0, 1.0, 1.0),
        "PyTorch": rounds(9.0, 9.0, 9.0),
        "PyTorch channels_last": rounds(4.0, 3.0, 5.0),
        "PyTorch channels_last, bfloat16": rounds(1.0, 1.0, 1.0),
    }
    by_name = {row["contender"]: row for row in benchmark.rows(measured, batch_size=4)}
    assert all(tuple(row) == benchmark.COLUMNS for row in by_name.values())
    assert by_name["ours"] == {
        "contender": "ours",
        "batch_size": 4,
        "seconds": 1.0,
        "lower_quartile": 1.0,
        "upper_quartile": 1.5,
        "fastest": 1.0,
        "cpu_seconds": 2.0,
        "images_per_second": 4.0,
        "peak_mb": 200,
        "times_pytorch": 3.0,
        "others_percent": 25,
    }
    assert by_name["PyTorch channels_last"]["times_pytorch"] == 1
    alone = benchmark.rows({"ours": measured["ours"]}, batch_size=4)
    assert alone[0]["times_pytorch"] is None


def test_a_bare_step_trains(benchmark_module) -> None:
    contenders = benchmark_module("training_contenders")
    overrides = "data.crop_size=[33,65],train.batch_size=2,data.dataset_info=cityscapes"
    training = contenders.bare_step(load_config("shapes/mobilenet_v3_small", overrides))
    before = [variable.numpy() for variable in training.network.variables]
    losses = [training.run(1), training.run(10)]
    assert losses[1] < losses[0]
    after = [variable.numpy() for variable in training.network.variables]
    assert not any(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_twin_is_the_same_network(benchmark_module) -> None:
    torch = pytest.importorskip("torch")
    twin = benchmark_module("pytorch_twin")
    config = load_config("cityscapes/resnet50_beta", f"data.crop_size=[{_SIZE[0]},{_SIZE[1]}],train.batch_size=2")
    ours, theirs = build_model(config, 19, _SIZE), twin.PanopticDeepLab(19)
    _bring_over(ours, theirs)
    batch = benchmark_module("training_contenders").draw_batch(config)
    outputs = ours(batch.image, training=True)
    images, targets = torch.from_numpy(batch.image.numpy()).permute(0, 3, 1, 2), batch.targets
    torch_outputs = theirs.train()(images)
    for own, other in zip(outputs.values(), torch_outputs, strict=True):
        np.testing.assert_allclose(own, other.detach().permute(0, 2, 3, 1), rtol=1e-3, atol=1e-4)
    terms = PanopticTrainer.batch_losses(outputs, batch, config).values()
    loss = sum(float(t.weight * t.term.numerator / t.term.denominator) for t in terms)
    maps = [torch.from_numpy(np.array(target)) for target in targets]
    torch_targets = twin.Targets(maps[0].long(), *maps[1:4], maps[4].permute(0, 3, 1, 2), maps[5])
    torch_loss = twin.total_loss(torch_outputs, torch_targets, config.losses.offset_weight)
    assert float(torch_loss) == pytest.approx(loss, rel=1e-4)


def _bring_over(ours, theirs) -> None:
    """Copies all weights by name; both sides have to be used up."""
    kinds = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    kinds |= {"kernel": "weight", "depthwise_kernel": "weight", "bias": "bias"}
    state = {name: value for name, value in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    for variable in ours.variables:
        *path, kind = variable.name.removesuffix(":0").split("/")
        value = state.pop(".".join([*path, kinds[kind]]))
        array = variable.numpy()
        if kind == "kernel":
            array = array.transpose(3, 2, 0, 1)
        elif kind == "depthwise_kernel":
            array = array.transpose(2, 3, 0, 1)
        value.copy_(value.new_tensor(array))
    assert not state
    assert sum(p.numel() for p in theirs.parameters()) == sum(int(tf.size(v)) for v in ours.trainable_variables)
