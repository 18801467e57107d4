"""The ways to train that `training_step.py` compares, and the process that runs one of them.

A contender is an entry of `CONTENDERS`: overrides of the experiment, and what prepares its steps where `bare_step` is
not enough. `python benchmarks/training_contenders.py "XLA" --batch_size=2` answers as `step_process.serve` says.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from step_process import serve

if TYPE_CHECKING:
    import tf_keras as keras

    from deeplab2_lite.config import ExperimentConfig

# Runs so many steps, and returns the last one's loss.
Run = Callable[[int], float]


@dataclass(frozen=True)
class Training:
    """A contender that is ready.

    Attributes:
        run: Runs steps.
        network: That it trains.
    """

    run: Run
    network: keras.Model


def bare_step(config: ExperimentConfig, jit_compile: bool = False) -> Training:
    """Forward, losses at full resolution, backward and update in one function, again and again on one drawn batch."""
    import tensorflow as tf

    from deeplab2_lite.dataset_info import load_dataset_info
    from deeplab2_lite.model import build_model
    from deeplab2_lite.trainer.optimization import build_optimizer
    from deeplab2_lite.trainer.panoptic import PanopticTrainer

    batch = draw_batch(config)
    network = build_model(config, load_dataset_info(config.data.dataset_info).num_classes, config.data.crop_size)
    variables = network.trainable_variables
    optimizer = build_optimizer(config.train.optimizer, config.train.steps, variables)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            terms = PanopticTrainer.batch_losses(network(batch.image, training=True), batch, config).values()
            loss = tf.add_n([t.weight * t.term.numerator / t.term.denominator for t in terms])
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def run(steps: int) -> float:
        for _ in range(steps):
            loss = step()
        return float(loss)

    return Training(run, network)


def whole_loop(config: ExperimentConfig) -> Training:
    """The loop that users run, with all its accounts, on the same batch again and again; its input costs nothing."""
    import tensorflow as tf

    from deeplab2_lite.dataset_info import load_dataset_info
    from deeplab2_lite.model import build_model
    from deeplab2_lite.panoptic_losses import TOTAL
    from deeplab2_lite.trainer.panoptic import PanopticTrainer
    from deeplab2_lite.trainer.training_state import TrainingState

    class DrawnTrainer(PanopticTrainer):
        @staticmethod
        def input_dataset(config: ExperimentConfig, *_: Any) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensors(draw_batch(config)).repeat()

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    info = load_dataset_info(config.data.dataset_info)
    with strategy.scope():
        network = build_model(config, info.num_classes, config.data.crop_size)
        state = TrainingState(network, config.train, config.train.steps)
    trainer = DrawnTrainer(config, info, None, strategy, state)

    def run(steps: int) -> float:
        return trainer.train(tf.constant(steps))[f"losses/train_{TOTAL}"]

    return Training(run, network)


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Attributes:
        name: In the table.
        overrides: Of the experiment, as on a command line.
        prepare: Builds what it trains from the experiment.
        environment: Variables that its process starts with.
    """

    name: str
    overrides: str = ""
    prepare: Callable[[ExperimentConfig], Training] = bare_step
    environment: dict[str, str] = field(default_factory=dict)


CONTENDERS = (
    Contender("tf.function"),
    Contender("XLA", prepare=lambda config: bare_step(config, jit_compile=True)),
    Contender("bfloat16", "train.precision=bfloat16"),
    Contender("loop", prepare=whole_loop),
    Contender("loop, XLA", "runtime.xla=true", whole_loop),
    Contender("loop, bfloat16", "train.precision=bfloat16", whole_loop),
    Contender("loop, float16", "train.precision=float16", whole_loop),
    Contender("loop, recomputed", "train.recompute_activations=true", whole_loop),
    Contender("loop, 2 parts", "train.accumulation_steps=2", whole_loop),
    Contender("loop, 2 parts, recomputed", "train.accumulation_steps=2,train.recompute_activations=true", whole_loop),
    Contender("loop, averaged weights", "train.ema_decay=0.9999", whole_loop),
)


def draw_batch(config: ExperimentConfig) -> Any:
    """Draws images and targets of which no pixel is void: a network takes as long on them as on any."""
    import numpy as np
    import tensorflow as tf

    from deeplab2_lite.data.pipeline import TrainingBatch
    from deeplab2_lite.dataset_info import load_dataset_info
    from deeplab2_lite.panoptic_losses import Targets

    generator = np.random.default_rng(0)
    shape = (config.train.batch_size, *config.data.crop_size)

    def uniform(*depth: int) -> tf.Tensor:
        return tf.constant(generator.uniform(0, 1, (*shape, *depth)), tf.float32)

    classes = load_dataset_info(config.data.dataset_info).num_classes
    targets = Targets(
        semantic=tf.constant(generator.integers(0, classes, shape), tf.int32),
        semantic_weight=uniform() + 0.01,
        center_heatmap=uniform(),
        center_weight=uniform(),
        center_offset=uniform(2),
        offset_weight=uniform(),
    )
    return TrainingBatch(255 * uniform(3), targets, tf.range(shape[0], dtype=tf.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender", choices=[contender.name for contender in CONTENDERS])
    parser.add_argument("--experiment", default="cityscapes/resnet50_beta")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--crop_size", type=int, nargs=2, default=(257, 513), metavar=("HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # What importing takes is no part of what training takes.
    from deeplab2_lite.complexity.counting import count_parameters
    from deeplab2_lite.config_loading import load_config
    from deeplab2_lite.trainer import optimization, panoptic  # noqa: F401

    contender = next(c for c in CONTENDERS if c.name == arguments.contender)
    height, width = arguments.crop_size
    size = f"train.batch_size={arguments.batch_size},data.crop_size=[{height},{width}]"
    config = load_config(arguments.experiment, ",".join(filter(None, (size, contender.overrides))))

    def prepare() -> tuple[Run, int]:
        training = contender.prepare(config)
        return training.run, count_parameters(training.network)

    serve(prepare)


if __name__ == "__main__":
    main()
