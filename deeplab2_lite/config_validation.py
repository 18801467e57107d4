"""Refusing configurations whose values are out of range or contradict each other."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deeplab2_lite.config import (
    AsppConfig,
    AugmentationConfig,
    BackboneConfig,
    BranchConfig,
    DataConfig,
    DecoderConfig,
    ElasticConfig,
    ExperimentConfig,
    ExportConfig,
    InferenceConfig,
    ModelConfig,
)
from deeplab2_lite.errors import UserError


def validate(config: ExperimentConfig) -> None:
    """Checks a configuration before any work starts.

    Args:
        config: The configuration, of the right types already.

    Raises:
        UserError: One line that names the key by its full path and says what was expected.
    """
    checks = (_check_ranges, _check_tasks, _check_model, _check_data, _check_train, _check_runtime, _check_published)
    for check in checks:
        check(config)
    _check_export(config.export)


def skip_strides_of(backbone: str) -> tuple[int, ...]:
    """Returns the strides of a backbone's features that the paper's decoder reads, coarse to fine; 2 is there too."""
    return _OTHER_SKIP_STRIDES.get(backbone, (8, 4))


_OTHER_SKIP_STRIDES: dict[str, tuple[int, ...]] = {
    "auto_deeplab_xl_plus": (4,),
    "hrnet_w48": (),
    "hrnet_w48_plus": (16, 8, 4),
    "hrnet_w48_plus_atrous": (16, 8, 4),
    "hrnet_wider_plus": (16, 8, 4),
    "hrnet_wider_plus_atrous": (16, 8, 4),
}


def _positive(value: float) -> bool:
    return value > 0 and math.isfinite(value)


def _not_negative(value: float) -> bool:
    return value >= 0 and math.isfinite(value)


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model.aspp.dropout": (lambda v: 0 <= v < 1, "a rate in [0, 1)"),
    "model.decoder.kernel_size": (lambda v: v > 0 and v % 2 == 1, "an odd positive integer"),
    "model.decoder.convolutions_per_stage": (_positive, "a positive integer"),
    "model.head_kernel_size": (lambda v: v > 0 and v % 2 == 1, "an odd positive integer"),
    "model.batch_norm.momentum": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "model.batch_norm.epsilon": (_positive, "a positive number"),
    "data.longest_side": (lambda v: v is None or v > 0, "a positive integer or null"),
    "data.augmentation.min_scale": (_positive, "a positive number"),
    "data.augmentation.max_scale": (_positive, "a positive number"),
    "data.augmentation.scale_step": (_not_negative, "0 or a positive number"),
    "data.augmentation.max_rotation": (lambda v: 0 <= v <= 180, "degrees in [0, 180]"),
    "data.augmentation.elastic.spacing": (lambda v: v >= 1 and math.isfinite(v), "a number of pixels from 1 up"),
    "data.augmentation.elastic.magnitude": (_not_negative, "0 or a positive number"),
    "data.augmentation.photometric.brightness": (lambda v: 0 <= v <= 1, "a number in [0, 1]"),
    "data.augmentation.photometric.contrast": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "data.augmentation.photometric.saturation": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "data.augmentation.photometric.hue": (lambda v: 0 <= v <= 0.5, "a number in [0, 0.5]"),
    "data.augmentation.photometric.policy_magnitude": (lambda v: 0 < v <= 1, "a number in (0, 1]"),
    "targets.center_sigma": (_positive, "a positive number"),
    "targets.small_instance_area": (_not_negative, "0 or a positive integer"),
    "targets.small_instance_weight": (_positive, "a positive number"),
    "losses.semantic_weight": (_not_negative, "0 or a positive number"),
    "losses.hardest_fraction": (lambda v: 0 < v <= 1, "a number in (0, 1]"),
    "losses.center_weight": (_not_negative, "0 or a positive number"),
    "losses.offset_weight": (_not_negative, "0 or a positive number"),
    "classification.first_label": (_not_negative, "0 or a positive integer"),
    "classification.min_area": (lambda v: 0 < v <= 1, "a share in (0, 1]"),
    "classification.max_aspect_ratio": (lambda v: v >= 1 and math.isfinite(v), "a number from 1 up"),
    "classification.crop_fraction": (lambda v: 0 < v <= 1, "a share in (0, 1]"),
    "classification.label_smoothing": (lambda v: 0 <= v < 1, "a share in [0, 1)"),
    "classification.dropout": (lambda v: 0 <= v < 1, "a rate in [0, 1)"),
    "train.steps": (_positive, "a positive integer"),
    "train.budget_seconds": (lambda v: v is None or _positive(v), "a positive number or null"),
    "train.batch_size": (_positive, "a positive integer"),
    "train.steps_per_loop": (_positive, "a positive integer"),
    "train.checkpoint_interval": (_positive, "a positive integer"),
    "train.eval_interval": (lambda v: v is None or v > 0, "a positive integer or null"),
    "train.image_interval": (lambda v: v is None or v > 0, "a positive integer or null"),
    "train.max_to_keep": (_positive, "a positive integer"),
    "train.accumulation_steps": (_positive, "a positive integer"),
    "train.patience": (lambda v: v is None or v > 0, "a positive integer or null"),
    "train.ema_decay": (lambda v: v is None or 0 < v < 1, "a number in (0, 1) or null"),
    "train.max_skipped_batches": (_not_negative, "0 or a positive integer"),
    "train.seed": (_not_negative, "0 or a positive integer"),
    "train.optimizer.learning_rate": (_positive, "a positive number"),
    "train.optimizer.power": (_not_negative, "0 or a positive number"),
    "train.optimizer.end_learning_rate": (_not_negative, "0 or a positive number"),
    "train.optimizer.warmup_steps": (_not_negative, "0 or a positive integer"),
    "train.optimizer.clip_global_norm": (lambda v: v is None or _positive(v), "a positive number or null"),
    "train.optimizer.backbone_multiplier": (_positive, "a positive number"),
    "train.optimizer.batch_norm_multiplier": (_positive, "a positive number"),
    "postprocessing.center_threshold": (math.isfinite, "a finite number"),
    "postprocessing.nms_kernel": (lambda v: v > 0 and v % 2 == 1, "an odd positive integer"),
    "postprocessing.top_k": (_positive, "a positive integer"),
    "postprocessing.stuff_area_limit": (lambda v: v is None or v >= 0, "0, a positive integer or null"),
    "inference.scales": (
        lambda v: len(v) > 0 and all(0 < scale <= 8 for scale in v) and len(set(v)) == len(v),
        "different numbers in (0, 8], at least one",
    ),
    "inference.tile_overlap": (_not_negative, "0 or a positive integer"),
    "evaluation.batch_size": (_positive, "a positive integer"),
    "evaluation.pictures": (lambda v: v >= -1, "-1 (all), 0 or a positive integer"),
    "export.outputs": (lambda v: 0 < len(v) == len(set(v)), "different names, at least one"),
    "export.max_side": (lambda v: v is None or v > 0, "a positive integer or null"),
}


_MOST_SCALES = 1000
# TF Serving reads 1000 records at most, and each of three signatures gets one of every size.
_MOST_WARMUP_SIZES = 333
_DEFAULTS = ExperimentConfig()
_SEGMENTATION_ONLY = (
    *(f"model.{key}" for key in ("aspp", "decoder", "semantic", "instance", "dual_aspp", "dual_decoder")),
    "model.depthwise_norm",
    "model.head_kernel_size",
    "data.shapes",
    "data.longest_side",
    "data.intensity_percentiles",
    *(f"data.augmentation.{key}" for key in ("min_scale", "max_scale", "scale_step", "max_rotation", "elastic")),
    "targets",
    "losses",
    "postprocessing",
    "inference",
    "evaluation.fixed_size",
    "evaluation.pictures",
    "export",
)


def _value(config: ExperimentConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _check_ranges(config: ExperimentConfig) -> None:
    for path, (is_valid, expected) in _RANGES.items():
        value = _value(config, path)
        if not is_valid(value):
            raise UserError(f"{path}: expected {expected}, got {value!r}")


def _check_tasks(config: ExperimentConfig) -> None:
    """Refuses settings of segmentation for a classifier, and those of a classifier for segmentation."""
    is_classifier = config.model.tasks == "classification"
    for path in _SEGMENTATION_ONLY if is_classifier else ("classification",):
        if _value(config, path) != _value(_DEFAULTS, path):
            raise UserError(f"{path}: has no meaning for model.tasks {config.model.tasks}; leave it out")


def _check_model(config: ExperimentConfig) -> None:
    model = config.model
    _check_backbone(model.backbone)
    if model.tasks != "classification":
        _check_branches(model)


def _check_branches(model: ModelConfig) -> None:
    strides = model.decoder.skip_strides
    _check_skip_strides(model)
    for name in ("semantic", "instance"):
        branch = getattr(model, name)
        for key in ("aspp_channels", "decoder_channels", "head_channels"):
            if getattr(branch, key) < 1:
                raise UserError(f"model.{name}.{key}: expected a positive integer, got {getattr(branch, key)}")
        projections = branch.projection_channels
        if len(projections) != len(strides) or any(channels < 1 for channels in projections):
            expected = f"{len(strides)} positive integers" if strides else "[]"
            raise UserError(
                f"model.{name}.projection_channels: expected {expected}, one for each of "
                f"model.decoder.skip_strides, got {list(projections)}"
            )
    if not model.dual_aspp and model.dual_decoder and model.semantic.aspp_channels != model.instance.aspp_channels:
        raise UserError(
            "model.instance.aspp_channels: differs from model.semantic.aspp_channels, but model.dual_aspp is false"
        )
    if model.dual_aspp and not model.dual_decoder:
        raise UserError("model.dual_aspp: true needs model.dual_decoder: true; a single decoder reads a single ASPP")
    rates = model.aspp.atrous_rates
    if rates is not None and (not rates or min(rates) < 1):
        raise UserError(f"model.aspp.atrous_rates: expected positive integers or null, got {list(rates)}")
    if model.aspp.pooling_kernel is not None and min(model.aspp.pooling_kernel) < 1:
        raise UserError(
            f"model.aspp.pooling_kernel: expected positive integers or null, got {list(model.aspp.pooling_kernel)}"
        )
    if not skip_strides_of(model.backbone.name):
        _check_nothing_set_in_vain(model)


def _check_backbone(backbone: BackboneConfig) -> None:
    grid = backbone.multi_grid
    if grid is not None and min(grid) < 1:
        raise UserError(f"model.backbone.multi_grid: expected positive integers or null, got {list(grid)}")
    # (1, 1, 1) is off, which every backbone can be.
    if grid not in (None, (1, 1, 1)) and not backbone.name.startswith(("resnet", "xception")):
        raise UserError(f"model.backbone.multi_grid: has no meaning for {backbone.name}; expected null")
    if backbone.name.startswith("auto_deeplab") and backbone.output_stride != 8:
        raise UserError(
            f"model.backbone.output_stride: {backbone.name} ends at stride 8, whatever lies between; "
            f"expected 8, got {backbone.output_stride}"
        )
    if backbone.name.endswith("_atrous") and backbone.output_stride == 32:
        raise UserError(
            f"model.backbone.output_stride: {backbone.name} is {backbone.name.removesuffix('_atrous')} at a lower "
            "stride; expected 16 or 8, got 32"
        )


def _check_skip_strides(model: ModelConfig) -> None:
    strides, given, name = model.decoder.skip_strides, skip_strides_of(model.backbone.name), model.backbone.name
    allowed = [given[first:] for first in range(len(given))] or [()]
    finest = (*given, 2) if given else ()
    if strides not in allowed and not (given and strides[-1:] == (2,) and strides[:-1] in allowed):
        has = f"the skips {', '.join(map(str, finest))}" if given else "no skips"
        expected = " or ".join(str(list(choice)) for choice in allowed)
        expected += ", or one of them with a further 2" if given else ""
        raise UserError(f"model.decoder.skip_strides: {name} gives {has}; expected {expected}, got {list(strides)}")


def _check_nothing_set_in_vain(model: ModelConfig) -> None:
    """Refuses settings of ASPP and decoder for a backbone that is used without them."""
    unused = [
        ("model.aspp", model.aspp, AsppConfig()),
        ("model.decoder", replace(model.decoder, skip_strides=DecoderConfig().skip_strides), DecoderConfig()),
        ("model.semantic.aspp_channels", model.semantic.aspp_channels, BranchConfig().aspp_channels),
        ("model.instance.aspp_channels", model.instance.aspp_channels, BranchConfig().aspp_channels),
    ]
    for path, value, default in unused:
        if value != default:
            raise UserError(
                f"{path}: has no meaning for {model.backbone.name}, which has neither ASPP nor decoder; leave it out"
            )
    if model.dual_aspp != model.dual_decoder:
        raise UserError(
            f"model.dual_aspp: has no meaning of its own for {model.backbone.name}; expected {model.dual_decoder}, as "
            "model.dual_decoder"
        )


def _check_data(config: ExperimentConfig) -> None:
    data, stride = config.data, config.model.backbone.output_stride
    for axis, size in zip(("height", "width"), data.crop_size, strict=True):
        if size < stride + 1 or (size - 1) % stride != 0:
            below = max(1, (size - 1) // stride) * stride + 1
            raise UserError(
                f"data.crop_size: {axis} {size} is not a multiple of model.backbone.output_stride {stride} plus 1; "
                f"nearest: {below} or {below + stride}"
            )
    percentiles = data.intensity_percentiles
    if percentiles is not None and not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise UserError(
            f"data.intensity_percentiles: expected two numbers in [0, 100], the lower first, got {list(percentiles)}"
        )
    if data.augmentation.max_scale < data.augmentation.min_scale:
        raise UserError(
            f"data.augmentation.max_scale: {data.augmentation.max_scale} is less than "
            f"data.augmentation.min_scale {data.augmentation.min_scale}"
        )
    _check_scale_count(data.augmentation)
    _check_elastic(data.augmentation.elastic)
    photometric = data.augmentation.photometric
    if photometric.policy is None and photometric.policy_magnitude != 1:
        raise UserError("data.augmentation.photometric.policy_magnitude: has no meaning without a policy; leave it out")
    if data.augmentation.rotate_90 and data.crop_size[0] != data.crop_size[1]:
        raise UserError(f"data.augmentation.rotate_90: needs a square data.crop_size, got {list(data.crop_size)}")
    if data.dir is not None and data.shapes is not None:
        raise UserError("data.shapes: contradicts data.dir; the shapes are generated where data.dir is null")
    if data.shapes is not None:
        for key in ("train_images", "val_images", "height", "width"):
            if getattr(data.shapes, key) < 1:
                raise UserError(f"data.shapes.{key}: expected a positive integer, got {getattr(data.shapes, key)}")
        if data.shapes.seed < 0:
            raise UserError(f"data.shapes.seed: expected 0 or a positive integer, got {data.shapes.seed}")
    _check_input(data)
    _check_tiles(config.inference, stride)
    fixed = config.evaluation.fixed_size
    for axis, size in zip(("height", "width"), fixed or (), strict=False):
        if size < stride + 1 or (size - 1) % stride != 0:
            raise UserError(
                f"evaluation.fixed_size: {axis} {size} is not a multiple of model.backbone.output_stride "
                f"{stride} plus 1"
            )
    if fixed is not None and data.longest_side is not None:
        raise UserError("evaluation.fixed_size: contradicts data.longest_side; resize the records when converting")


def _check_tiles(inference: InferenceConfig, stride: int) -> None:
    if inference.tile_size is None:
        if inference.tile_overlap != InferenceConfig().tile_overlap:
            raise UserError("inference.tile_overlap: has no meaning without inference.tile_size; leave it out")
        return
    for axis, size in zip(("height", "width"), inference.tile_size, strict=True):
        if size < stride + 1 or (size - 1) % stride != 0:
            raise UserError(
                f"inference.tile_size: {axis} {size} is not a multiple of model.backbone.output_stride {stride} plus 1"
            )
        if size - inference.tile_overlap < stride:
            raise UserError(
                f"inference.tile_overlap: {inference.tile_overlap} leaves less than an output stride of a tile's "
                f"{axis} {size}; expected {size - stride} at most"
            )


def _check_scale_count(augmentation: AugmentationConfig) -> None:
    # The pipeline lists them all.
    span, step = augmentation.max_scale - augmentation.min_scale, augmentation.scale_step
    if step > 0 and span / step > _MOST_SCALES:
        raise UserError(
            f"data.augmentation.scale_step: {step} makes more than {_MOST_SCALES} scales; expected a larger step, or 0 "
            "to draw any scale"
        )


def _check_elastic(elastic: ElasticConfig) -> None:
    if elastic.magnitude == 0:
        if elastic.spacing != ElasticConfig().spacing:
            raise UserError("data.augmentation.elastic.spacing: has no meaning without a magnitude; leave it out")
    # Of the pixels, one in 80 lies in a fold at a quarter, one in 2500 at a sixth, none in a million at an eighth.
    elif elastic.magnitude > elastic.spacing / 4:
        raise UserError(
            f"data.augmentation.elastic.magnitude: {elastic.magnitude} folds the image over itself; expected at most a "
            f"quarter of data.augmentation.elastic.spacing, {elastic.spacing / 4}"
        )


def _check_input(data: DataConfig) -> None:
    """Refuses places that records and batches cannot come from."""
    if data.dir is not None and "://" in data.dir:
        raise UserError(f"data.dir: expected a folder of this machine, got {data.dir}; mount or copy it")
    for address in data.service:
        if not re.fullmatch(r"grpc://(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):[1-9]\d{0,4}", address):
            raise UserError(f"data.service: expected addresses such as grpc://host:5050, got {address!r}")
    if len(set(data.service)) < len(data.service):
        raise UserError("data.service: holds an address twice")
    if data.service and data.cache:
        raise UserError("data.cache: contradicts data.service, whose machines read the records; expected false")


def _check_train(config: ExperimentConfig) -> None:
    if config.train.init_fresh_logits and config.train.init_checkpoint is None:
        raise UserError("train.init_fresh_logits: has no meaning without train.init_checkpoint")
    optimizer = config.train.optimizer
    if optimizer.warmup_steps >= config.train.steps:
        raise UserError(
            f"train.optimizer.warmup_steps: {optimizer.warmup_steps} leaves nothing of train.steps {config.train.steps}"
        )
    if optimizer.end_learning_rate > optimizer.learning_rate:
        raise UserError("train.optimizer.end_learning_rate: is above train.optimizer.learning_rate")
    if optimizer.batch_norm_multiplier != 1 and config.model.batch_norm.frozen:
        raise UserError(
            "train.optimizer.batch_norm_multiplier: has no meaning with model.batch_norm.frozen; leave it out"
        )
    if config.train.batch_size % config.train.accumulation_steps:
        raise UserError(
            f"train.accumulation_steps: train.batch_size {config.train.batch_size} is not a multiple of "
            f"{config.train.accumulation_steps}"
        )
    if config.train.patience is not None and config.train.best_metric is None:
        raise UserError("train.patience: has no meaning without train.best_metric")
    if config.inference.averaged_weights and config.train.ema_decay is None:
        raise UserError("inference.averaged_weights: there are none without train.ema_decay")
    if "learning_rate" in optimizer.options:
        raise UserError("train.optimizer.options.learning_rate: belongs into train.optimizer.learning_rate")


def _check_runtime(config: ExperimentConfig) -> None:
    runtime = config.runtime
    if runtime.tpu is not None and runtime.strategy not in ("auto", "tpu"):
        raise UserError(f"runtime.tpu: is set, but runtime.strategy is '{runtime.strategy}'")
    if runtime.devices is not None and (runtime.strategy == "tpu" or runtime.tpu is not None):
        raise UserError("runtime.devices: has no meaning on TPU; expected null")
    if runtime.devices is not None and len(runtime.devices) == 0:
        raise UserError("runtime.devices: expected at least one device name or null")


def _check_export(export: ExportConfig) -> None:
    sizes = export.warmup_sizes
    if len(sizes) > _MOST_WARMUP_SIZES:
        raise UserError(f"export.warmup_sizes: expected {_MOST_WARMUP_SIZES} sizes at most, got {len(sizes)}")
    for size in sizes:
        if min(size) < 1:
            raise UserError(f"export.warmup_sizes: expected positive integers, got {list(size)}")
        if export.max_side is not None and max(size) > export.max_side:
            raise UserError(f"export.warmup_sizes: {list(size)} is larger than export.max_side {export.max_side}")


def _check_published(config: ExperimentConfig) -> None:
    published = config.published
    if published is None:
        return
    for key in ("pq", "ap", "miou"):
        value = getattr(published, key)
        if value is not None and not 0 <= value <= 100:
            raise UserError(f"published.{key}: expected per cents in [0, 100] or null, got {value!r}")
    if published.milliseconds is not None and not _positive(published.milliseconds):
        raise UserError(f"published.milliseconds: expected a positive number or null, got {published.milliseconds!r}")
    if published.input_size is not None and min(published.input_size) < 1:
        raise UserError(f"published.input_size: expected positive integers or null, got {list(published.input_size)}")
