"""Latency from image to panoptic map, stage by stage and end to end, as the paper's Table 9 has it.

Images and results stay on the device: neither reading a file nor copying to and from the host counts.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from deeplab2_lite.benchmark.scene import draw_heads
from deeplab2_lite.benchmark.stages import END_TO_END, PART_OF_STAGE, InferenceStages, Watch
from deeplab2_lite.benchmark.timing import Clock, Round, Timing, measure
from deeplab2_lite.config import ExperimentConfig, PublishedConfig, Size
from deeplab2_lite.config_loading import load_config, resolve_dataset_info
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.export import CONFIG_ASSET
from deeplab2_lite.inference import InferenceSettings
from deeplab2_lite.loading import is_saved_model, load_inference, load_model_dir
from deeplab2_lite.model import build_model
from deeplab2_lite.postprocessing.upsampling import Heads

DEFAULT_RUNS = 10
DEFAULT_INSTANCES = 20
_SEED = 0


@dataclass(frozen=True)
class Benchmark:
    """What was measured of one network.

    Attributes:
        name: Of the experiment, or the path of the model.
        data_set: Name of the label space.
        backbone: Name of the backbone; "" where the model does not say.
        image_sizes: Height and width of each image, or of those of the batch.
        batch_size: Images that are segmented at once.
        precision: Compute type of the network; "" where the model does not say.
        xla: Whether XLA compiled it.
        drawn_instances: Instances of the drawn scene that post-processing worked on; None where the network is
            trained, and works on real images.
        found_instances: Instances of an image in the result, on average.
        stages: Those that lead to the panoptic map, and what else was timed; none of a SavedModel.
        end_to_end: From image to panoptic map in one compiled function: the figure to quote.
        published: What was published of it.
    """

    name: str
    data_set: str
    backbone: str
    image_sizes: tuple[Size, ...]
    batch_size: int
    precision: str
    xla: bool
    drawn_instances: int | None
    found_instances: float
    stages: tuple[Timing, ...]
    end_to_end: Timing
    published: PublishedConfig | None

    @property
    def seconds_per_image(self) -> float:
        """From image to panoptic map: the median of a batch, by its images."""
        return self.end_to_end.median / self.batch_size

    @property
    def comparable(self) -> PublishedConfig:
        """What was published for images of this very size; empty if it is for another, or nobody says for which."""
        published = self.published
        return published if published and set(self.image_sizes) == {published.input_size} else PublishedConfig()

    @property
    def ratio_to_published(self) -> float | None:
        """How many times as long an image takes here as was published for its size."""
        milliseconds = self.comparable.milliseconds
        return None if milliseconds is None else 1000 * self.seconds_per_image / milliseconds

    def total(self, name: str, part: str | None = None) -> Timing:
        """Adds up stages, run by run.

        Args:
            name: What to call the sum.
            part: A value of `PART_OF_STAGE`; None takes all that leads to the panoptic map.

        Returns:
            Their sum; without memory, which stages do not hold at the same time.
        """
        parts = [s.seconds for s in self.stages if s.name in PART_OF_STAGE and part in (None, PART_OF_STAGE[s.name])]
        return Timing(name, tuple(math.fsum(run) for run in zip(*parts, strict=True)))


def benchmark_experiment(
    config: ExperimentConfig,
    input_size: Size | None = None,
    *,
    batch_size: int = 1,
    instances: int = DEFAULT_INSTANCES,
    runs: int = DEFAULT_RUNS,
    xla: bool = False,
    info: DatasetInfo | None = None,
    clock: Clock = time.perf_counter,
) -> Benchmark:
    """Times the network of an experiment with random weights.

    The network sees images of random pixels, on which it takes as long as on any. What it says of them is
    not what a trained one says, so post-processing takes the heads of a drawn scene in their place: stage by
    stage, and in the one function too.

    Args:
        config: Of the experiment.
        input_size: Height and width of the images as the network sees them; None takes `default_input_size`.
        batch_size: Images at once.
        instances: Of the drawn scene.
        runs: That count.
        xla: Whether XLA compiles the functions.
        info: Label space; None takes the configuration's.
        clock: Tells the time in seconds.

    Returns:
        The times.

    Raises:
        UserError: The experiment gives no panoptic map, or an image has no room for the instances.
    """
    if config.model.tasks != "panoptic":
        raise UserError(f"model.tasks: '{config.model.tasks}' gives no panoptic map; expected panoptic")
    info = info or resolve_dataset_info(config)
    size = input_size or default_input_size(config)
    settings = InferenceSettings.from_config(config, info)
    if instances > settings.top_k:
        raise UserError(f"--instances: expected at most postprocessing.top_k, {settings.top_k}, got {instances}")
    if settings.longest_side is not None:
        settings = settings._replace(longest_side=max(size))
    drawn = _drawn_batch(info, size, instances, settings, batch_size, config.model.head_stride)
    pixels = np.random.default_rng(_SEED).integers(0, 256, (batch_size, *size, 3), np.uint8)
    images = tf.constant(pixels)
    stages = InferenceStages(build_model(config, info.num_classes), settings, xla)
    rounds = [lambda watch: stages.run(images, watch, drawn).end_to_end]
    measured = measure(rounds, info.label_divisor, runs, clock)
    return Benchmark(
        name=config.name,
        data_set=info.name,
        backbone=config.model.backbone.name,
        image_sizes=(size,),
        batch_size=batch_size,
        precision=config.train.precision,
        xla=xla,
        drawn_instances=instances,
        found_instances=measured.instances,
        stages=measured.stages,
        end_to_end=measured.end_to_end,
        published=config.published,
    )


def benchmark_model(
    path: str | Path,
    images: Iterable[np.ndarray],
    *,
    runs: int = DEFAULT_RUNS,
    xla: bool = False,
    clock: Clock = time.perf_counter,
) -> Benchmark:
    """Times a trained model on images.

    Args:
        path: A model folder; or a SavedModel, of which only the whole can be timed.
        images: RGB, uint8 [height, width, 3], of any sizes; each is segmented by itself.
        runs: That count, for each image.
        xla: Whether XLA compiles the functions, for each size anew.
        clock: Tells the time in seconds.

    Returns:
        The times of all runs of all images.

    Raises:
        UserError: The path is neither, or the model gives no panoptic map.
    """
    path = Path(path)
    if is_saved_model(path):
        if xla:
            raise UserError(
                f"--xla: {path}: a SavedModel's graph is made for TensorFlow itself; expected a model folder"
            )
        loaded = load_inference(path)
        config, info = load_config(path / "assets" / CONFIG_ASSET), loaded.info
        # The map alone is asked for, so that nothing computes the tables.
        signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
        whole = tf.function(lambda x: loaded.infer(x)[0].panoptic, input_signature=signature, autograph=False)

        def run(x: tf.Tensor, watch: Watch) -> tf.Tensor:
            return watch(END_TO_END, whole, x)
    else:
        trained = load_model_dir(path)
        config, info = trained.config, trained.info
        if config.model.tasks != "panoptic":
            raise UserError(f"{path}: model.tasks '{config.model.tasks}' gives no panoptic map; expected panoptic")
        stages = InferenceStages(trained.network, InferenceSettings.from_config(config, info), xla)

        def run(x: tf.Tensor, watch: Watch) -> tf.Tensor:
            return stages.run(x, watch).end_to_end

    sizes: list[Size] = []

    def rounds() -> Iterator[Round]:
        # One by one: a folder of images may be larger than the memory.
        for image in images:
            sizes.append(image.shape[:2])
            yield functools.partial(run, tf.constant(image[np.newaxis]))

    measured = measure(rounds(), info.label_divisor, runs, clock)
    return Benchmark(
        name=str(path),
        data_set=info.name,
        backbone=config.model.backbone.name,
        image_sizes=tuple(sizes),
        batch_size=1,
        precision=config.train.precision,
        xla=xla,
        drawn_instances=None,
        found_instances=measured.instances,
        stages=measured.stages,
        end_to_end=measured.end_to_end,
        published=config.published,
    )


def default_input_size(config: ExperimentConfig) -> Size:
    """Returns the size at which an experiment is timed, in the packaged ones that of the paper's Table 9.

    Args:
        config: `published.input_size` is the size; without it a square of `data.longest_side`; without that
            `data.crop_size`.

    Returns:
        Height and width.
    """
    if config.published is not None and config.published.input_size is not None:
        return config.published.input_size
    side = config.data.longest_side
    return config.data.crop_size if side is None else (side, side)


def _drawn_batch(
    info: DatasetInfo, size: Size, instances: int, settings: InferenceSettings, batch_size: int, heads_at: int
) -> Heads:
    stride = settings.output_stride
    # Padded to the next multiple of the output stride plus 1, and at the stride of the heads.
    head_size = tuple(-(-(-(-(side - 1) // stride) * stride + 1) // heads_at) for side in size)
    scenes = [
        draw_heads(
            info,
            head_size,
            size,
            instances,
            settings.nms_kernel,
            settings.center_threshold,
            _SEED + number,
            heads_at,
        )
        for number in range(batch_size)
    ]
    return Heads(*(tf.constant(np.stack(parts)) for parts in zip(*scenes, strict=True)))
