"""Each rule that configurations must obey, broken one at a time."""

from __future__ import annotations

import dataclasses
import types
import typing

import pytest

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import load_config
from deeplab2_lite.config_validation import validate
from deeplab2_lite.errors import UserError

POSITIVE_INTEGER = "expected a positive integer, got"
POSITIVE = "expected a positive number, got"
NOT_NEGATIVE = "expected 0 or a positive number, got"
SIZE = "is not a multiple of model.backbone.output_stride 16 plus 1"
SKIPS = "resnet50_beta gives the skips 8, 4, 2; expected [8, 4] or [4], or one of them with a further 2, got"
PERCENTILES = "expected two numbers in [0, 100], the lower first, got"
HRNET = "model.backbone={name: hrnet_w48_plus, output_stride: 32},data.crop_size=[33,65]"
# Neither ASPP nor decoder.
PLAIN_HRNET = (
    "model.backbone={name: hrnet_w48, output_stride: 32},data.crop_size=[33,65],model.decoder.skip_strides=[],"
    "model.semantic.projection_channels=[],model.instance.projection_channels=[]"
)
IN_VAIN = "has no meaning for hrnet_w48, which has neither ASPP nor decoder; leave it out"

REFUSED = [
    # One value out of its range.
    ("model.aspp.dropout=1", "model.aspp.dropout: expected a rate in [0, 1), got 1.0"),
    ("model.aspp.dropout=-0.1", "model.aspp.dropout: expected a rate in [0, 1), got -0.1"),
    ("model.decoder.kernel_size=4", "model.decoder.kernel_size: expected an odd positive integer, got 4"),
    ("model.decoder.kernel_size=-1", "model.decoder.kernel_size: expected an odd positive integer, got -1"),
    ("model.decoder.convolutions_per_stage=0", f"model.decoder.convolutions_per_stage: {POSITIVE_INTEGER} 0"),
    ("model.head_kernel_size=2", "model.head_kernel_size: expected an odd positive integer, got 2"),
    ("model.batch_norm.momentum=1.0", "model.batch_norm.momentum: expected a number in [0, 1), got 1.0"),
    ("model.batch_norm.epsilon=0", f"model.batch_norm.epsilon: {POSITIVE} 0.0"),
    ("data.longest_side=0", "data.longest_side: expected a positive integer or null, got 0"),
    ("data.intensity_percentiles=[2,2]", f"data.intensity_percentiles: {PERCENTILES} [2.0, 2.0]"),
    ("data.intensity_percentiles=[99,1]", f"data.intensity_percentiles: {PERCENTILES} [99.0, 1.0]"),
    ("data.intensity_percentiles=[0,100.5]", f"data.intensity_percentiles: {PERCENTILES} [0.0, 100.5]"),
    ("data.intensity_percentiles=[.nan,99]", f"data.intensity_percentiles: {PERCENTILES} [nan, 99.0]"),
    ("data.augmentation.min_scale=0", f"data.augmentation.min_scale: {POSITIVE} 0.0"),
    ("data.augmentation.max_scale=.inf", f"data.augmentation.max_scale: {POSITIVE} inf"),
    ("data.augmentation.max_scale=.nan", f"data.augmentation.max_scale: {POSITIVE} nan"),
    ("data.augmentation.scale_step=-0.1", f"data.augmentation.scale_step: {NOT_NEGATIVE} -0.1"),
    ("data.augmentation.max_rotation=-1", "data.augmentation.max_rotation: expected degrees in [0, 180], got -1.0"),
    ("data.augmentation.max_rotation=181", "data.augmentation.max_rotation: expected degrees in [0, 180], got 181.0"),
    (
        "data.augmentation.elastic={spacing: 0.5, magnitude: 0.1}",
        "elastic.spacing: expected a number of pixels from 1 up, got 0.5",
    ),
    ("data.augmentation.elastic.magnitude=-1", f"data.augmentation.elastic.magnitude: {NOT_NEGATIVE} -1.0"),
    (
        "data.augmentation.elastic.spacing=32",
        "data.augmentation.elastic.spacing: has no meaning without a magnitude; leave it out",
    ),
    (
        "data.augmentation.elastic={spacing: 32, magnitude: 8.5}",
        "data.augmentation.elastic.magnitude: 8.5 folds the image over itself; expected at most a quarter of "
        "data.augmentation.elastic.spacing, 8.0",
    ),
    ("data.augmentation.photometric.brightness=1.5", "photometric.brightness: expected a number in [0, 1], got 1.5"),
    ("data.augmentation.photometric.contrast=1", "photometric.contrast: expected a number in [0, 1), got 1.0"),
    ("data.augmentation.photometric.saturation=1", "photometric.saturation: expected a number in [0, 1), got 1.0"),
    ("data.augmentation.photometric.hue=0.6", "photometric.hue: expected a number in [0, 0.5], got 0.6"),
    (
        "data.augmentation.photometric={policy: imagenet, policy_magnitude: 0}",
        "photometric.policy_magnitude: expected a number in (0, 1], got 0.0",
    ),
    (
        "data.augmentation.photometric={policy: imagenet, policy_magnitude: 1.5}",
        "photometric.policy_magnitude: expected a number in (0, 1], got 1.5",
    ),
    (
        "data.augmentation.photometric.policy_magnitude=0.5",
        "data.augmentation.photometric.policy_magnitude: has no meaning without a policy; leave it out",
    ),
    ("targets.center_sigma=0", f"targets.center_sigma: {POSITIVE} 0.0"),
    ("targets.small_instance_area=-1", "targets.small_instance_area: expected 0 or a positive integer, got -1"),
    ("targets.small_instance_weight=0", f"targets.small_instance_weight: {POSITIVE} 0.0"),
    ("losses.semantic_weight=-1", f"losses.semantic_weight: {NOT_NEGATIVE} -1.0"),
    ("losses.hardest_fraction=0", "losses.hardest_fraction: expected a number in (0, 1], got 0.0"),
    ("losses.hardest_fraction=1.01", "losses.hardest_fraction: expected a number in (0, 1], got 1.01"),
    ("losses.center_weight=-1", f"losses.center_weight: {NOT_NEGATIVE} -1.0"),
    ("losses.offset_weight=.inf", f"losses.offset_weight: {NOT_NEGATIVE} inf"),
    ("train.steps=0", f"train.steps: {POSITIVE_INTEGER} 0"),
    ("train.batch_size=0", f"train.batch_size: {POSITIVE_INTEGER} 0"),
    ("train.steps_per_loop=0", f"train.steps_per_loop: {POSITIVE_INTEGER} 0"),
    ("train.checkpoint_interval=0", f"train.checkpoint_interval: {POSITIVE_INTEGER} 0"),
    ("train.eval_interval=0", "train.eval_interval: expected a positive integer or null, got 0"),
    ("train.image_interval=-5", "train.image_interval: expected a positive integer or null, got -5"),
    ("train.max_to_keep=0", f"train.max_to_keep: {POSITIVE_INTEGER} 0"),
    ("train.accumulation_steps=0", f"train.accumulation_steps: {POSITIVE_INTEGER} 0"),
    ("train.patience=0", "train.patience: expected a positive integer or null, got 0"),
    ("train.ema_decay=1", "train.ema_decay: expected a number in (0, 1) or null, got 1.0"),
    ("train.max_skipped_batches=-1", "train.max_skipped_batches: expected 0 or a positive integer, got -1"),
    ("train.optimizer.backbone_multiplier=0", f"train.optimizer.backbone_multiplier: {POSITIVE} 0.0"),
    ("train.optimizer.batch_norm_multiplier=-1", f"train.optimizer.batch_norm_multiplier: {POSITIVE} -1.0"),
    ("train.seed=-1", "train.seed: expected 0 or a positive integer, got -1"),
    ("train.optimizer.learning_rate=0", f"train.optimizer.learning_rate: {POSITIVE} 0.0"),
    ("train.optimizer.power=-1", f"train.optimizer.power: {NOT_NEGATIVE} -1.0"),
    ("train.optimizer.end_learning_rate=-1", f"train.optimizer.end_learning_rate: {NOT_NEGATIVE} -1.0"),
    ("train.optimizer.warmup_steps=-1", "train.optimizer.warmup_steps: expected 0 or a positive integer, got -1"),
    ("train.optimizer.clip_global_norm=0", "clip_global_norm: expected a positive number or null, got 0.0"),
    ("train.optimizer.clip_global_norm=.inf", "clip_global_norm: expected a positive number or null, got inf"),
    ("postprocessing.center_threshold=.nan", "postprocessing.center_threshold: expected a finite number, got nan"),
    ("postprocessing.center_threshold=.inf", "postprocessing.center_threshold: expected a finite number, got inf"),
    ("postprocessing.nms_kernel=8", "postprocessing.nms_kernel: expected an odd positive integer, got 8"),
    ("postprocessing.top_k=0", f"postprocessing.top_k: {POSITIVE_INTEGER} 0"),
    ("postprocessing.stuff_area_limit=-1", "stuff_area_limit: expected 0, a positive integer or null, got -1"),
    ("evaluation.batch_size=0", f"evaluation.batch_size: {POSITIVE_INTEGER} 0"),
    ("evaluation.pictures=-2", "evaluation.pictures: expected -1 (all), 0 or a positive integer, got -2"),
    # The network.
    ("model.decoder.skip_strides=[]", f"model.decoder.skip_strides: {SKIPS} []"),
    ("model.decoder.skip_strides=[8]", f"model.decoder.skip_strides: {SKIPS} [8]"),
    ("model.decoder.skip_strides=[4,8]", f"model.decoder.skip_strides: {SKIPS} [4, 8]"),
    ("model.decoder.skip_strides=[8,8,4]", f"model.decoder.skip_strides: {SKIPS} [8, 8, 4]"),
    ("model.decoder.skip_strides=[16,4]", f"model.decoder.skip_strides: {SKIPS} [16, 4]"),
    (
        "model.decoder.skip_strides=[16,8,4]",
        f"model.decoder.skip_strides: {SKIPS} [16, 8, 4]",
    ),
    (
        f"{HRNET},model.decoder.skip_strides=[16,8]",
        "model.decoder.skip_strides: hrnet_w48_plus gives the skips 16, 8, 4, 2; "
        "expected [16, 8, 4] or [8, 4] or [4], or one of them with a further 2, got [16, 8]",
    ),
    (
        f"{HRNET},model.decoder.skip_strides=[16,8,4]",
        "model.semantic.projection_channels: expected 3 positive integers, one for each of "
        "model.decoder.skip_strides, got [64, 32]",
    ),
    (
        f"{PLAIN_HRNET},model.decoder.skip_strides=[8,4]",
        "model.decoder.skip_strides: hrnet_w48 gives no skips; expected [], got [8, 4]",
    ),
    (
        f"{PLAIN_HRNET},model.instance.projection_channels=[32,16]",
        "model.instance.projection_channels: expected [], one for each of model.decoder.skip_strides, got [32, 16]",
    ),
    (f"{PLAIN_HRNET},model.aspp.dropout=0.1", f"model.aspp: {IN_VAIN}"),
    (f"{PLAIN_HRNET},model.decoder.kernel_size=3", f"model.decoder: {IN_VAIN}"),
    (f"{PLAIN_HRNET},model.semantic.aspp_channels=128", f"model.semantic.aspp_channels: {IN_VAIN}"),
    (f"{PLAIN_HRNET},model.instance.aspp_channels=128", f"model.instance.aspp_channels: {IN_VAIN}"),
    (
        f"{PLAIN_HRNET},model.dual_aspp=false",
        "model.dual_aspp: has no meaning of its own for hrnet_w48; expected True, as model.dual_decoder",
    ),
    (
        f"{HRNET},model.backbone.name=hrnet_w48_plus_atrous",
        "model.backbone.output_stride: hrnet_w48_plus_atrous is hrnet_w48_plus at a lower stride; "
        "expected 16 or 8, got 32",
    ),
    ("model.semantic.aspp_channels=0", f"model.semantic.aspp_channels: {POSITIVE_INTEGER} 0"),
    ("model.instance.decoder_channels=0", f"model.instance.decoder_channels: {POSITIVE_INTEGER} 0"),
    ("model.instance.head_channels=-1", f"model.instance.head_channels: {POSITIVE_INTEGER} -1"),
    (
        "model.decoder.skip_strides=[4]",
        "model.semantic.projection_channels: expected 1 positive integers, one for each of "
        "model.decoder.skip_strides, got [64, 32]",
    ),
    (
        "model.instance.projection_channels=[32,0]",
        "model.instance.projection_channels: expected 2 positive integers, one for each of "
        "model.decoder.skip_strides, got [32, 0]",
    ),
    ("model.semantic.projection_channels=[]", "model.semantic.projection_channels: expected 2 positive integers"),
    (
        "model.dual_aspp=false,model.instance.aspp_channels=128",
        "model.instance.aspp_channels: differs from model.semantic.aspp_channels, but model.dual_aspp is false",
    ),
    (
        "model.dual_decoder=false",
        "model.dual_aspp: true needs model.dual_decoder: true; a single decoder reads a single ASPP",
    ),
    ("model.aspp.atrous_rates=[]", "model.aspp.atrous_rates: expected positive integers or null, got []"),
    ("model.aspp.atrous_rates=[6,0]", "model.aspp.atrous_rates: expected positive integers or null, got [6, 0]"),
    ("model.aspp.pooling_kernel=[0,9]", "model.aspp.pooling_kernel: expected positive integers or null, got [0, 9]"),
    (
        "model.backbone.multi_grid=[1,0,1]",
        "model.backbone.multi_grid: expected positive integers or null, got [1, 0, 1]",
    ),
    (
        "model.backbone={name: mobilenet_v3_large, multi_grid: [1,2,4]}",
        "model.backbone.multi_grid: has no meaning for mobilenet_v3_large; expected null",
    ),
    # The data.
    ("data.crop_size=[1024,2049]", f"data.crop_size: height 1024 {SIZE}; nearest: 1009 or 1025"),
    ("data.crop_size=[1025,2050]", f"data.crop_size: width 2050 {SIZE}; nearest: 2049 or 2065"),
    ("data.crop_size=[1,2049]", f"data.crop_size: height 1 {SIZE}; nearest: 17 or 33"),
    ("data.crop_size=[-15,2049]", f"data.crop_size: height -15 {SIZE}; nearest: 17 or 33"),
    (
        "data.augmentation.max_scale=0.4",
        "data.augmentation.max_scale: 0.4 is less than data.augmentation.min_scale 0.5",
    ),
    (
        "data.augmentation.rotate_90=true",
        "data.augmentation.rotate_90: needs a square data.crop_size, got [1025, 2049]",
    ),
    (
        "data.dir=/x,data.shapes={}",
        "data.shapes: contradicts data.dir; the shapes are generated where data.dir is null",
    ),
    (
        "data.augmentation.scale_step=1e-9",
        "data.augmentation.scale_step: 1e-09 makes more than 1000 scales; expected a larger step, or 0 to draw any "
        "scale",
    ),
    ("data.dir=gs://b/records", "data.dir: expected a folder of this machine, got gs://b/records; mount or copy it"),
    (
        "data.service=[localhost:5050]",
        "data.service: expected addresses such as grpc://host:5050, got 'localhost:5050'",
    ),
    ("data.service=['grpc://host']", "data.service: expected addresses such as grpc://host:5050, got 'grpc://host'"),
    ("data.service=['grpc://a:1','grpc://a:1']", "data.service: holds an address twice"),
    (
        "data.service=['grpc://host:5050'],data.cache=true",
        "data.cache: contradicts data.service, whose machines read the records; expected false",
    ),
    ("data.shapes.train_images=0", f"data.shapes.train_images: {POSITIVE_INTEGER} 0"),
    ("data.shapes.val_images=0", f"data.shapes.val_images: {POSITIVE_INTEGER} 0"),
    ("data.shapes.height=0", f"data.shapes.height: {POSITIVE_INTEGER} 0"),
    ("data.shapes.width=-1", f"data.shapes.width: {POSITIVE_INTEGER} -1"),
    ("data.shapes.seed=-1", "data.shapes.seed: expected 0 or a positive integer, got -1"),
    ("inference.scales=[]", "inference.scales: expected different numbers in (0, 8], at least one, got ()"),
    ("inference.scales=[1,0]", "inference.scales: expected different numbers in (0, 8], at least one, got (1.0, 0.0)"),
    ("inference.scales=[1,1]", "inference.scales: expected different numbers in (0, 8], at least one, got (1.0, 1.0)"),
    ("inference.tile_overlap=-1", "inference.tile_overlap: expected 0 or a positive integer, got -1"),
    ("inference.tile_overlap=64", "inference.tile_overlap: has no meaning without inference.tile_size; leave it out"),
    ("inference.tile_size=[512,513]", f"inference.tile_size: height 512 {SIZE}"),
    ("inference.tile_size=[513,1]", f"inference.tile_size: width 1 {SIZE}"),
    (
        "inference.tile_size=[513,129]",
        "inference.tile_overlap: 128 leaves less than an output stride of a tile's width 129; expected 113 at most",
    ),
    ("evaluation.fixed_size=[1024,2049]", f"evaluation.fixed_size: height 1024 {SIZE}"),
    ("evaluation.fixed_size=[17,1]", f"evaluation.fixed_size: width 1 {SIZE}"),
    (
        "evaluation.fixed_size=[641,641],data.longest_side=641",
        "evaluation.fixed_size: contradicts data.longest_side; resize the records when converting",
    ),
    # Training.
    (
        "train.steps=100,train.optimizer.warmup_steps=100",
        "train.optimizer.warmup_steps: 100 leaves nothing of train.steps 100",
    ),
    (
        "train.optimizer.end_learning_rate=0.1",
        "train.optimizer.end_learning_rate: is above train.optimizer.learning_rate",
    ),
    (
        "train.optimizer.options.learning_rate=0.1",
        "train.optimizer.options.learning_rate: belongs into train.optimizer.learning_rate",
    ),
    (
        "train.optimizer.batch_norm_multiplier=0.1,model.batch_norm.frozen=true",
        "train.optimizer.batch_norm_multiplier: has no meaning with model.batch_norm.frozen; leave it out",
    ),
    (
        "train.batch_size=32,train.accumulation_steps=5",
        "train.accumulation_steps: train.batch_size 32 is not a multiple of 5",
    ),
    ("train.patience=3", "train.patience: has no meaning without train.best_metric"),
    ("inference.averaged_weights=true", "inference.averaged_weights: there are none without train.ema_decay"),
    # Devices.
    ("runtime={tpu: local, strategy: mirrored}", "runtime.tpu: is set, but runtime.strategy is 'mirrored'"),
    ("runtime={tpu: local, strategy: one_device}", "runtime.tpu: is set, but runtime.strategy is 'one_device'"),
    ("runtime={strategy: tpu, devices: ['TPU:0']}", "runtime.devices: has no meaning on TPU; expected null"),
    ("runtime={tpu: local, devices: ['GPU:0']}", "runtime.devices: has no meaning on TPU; expected null"),
    ("runtime.devices=[]", "runtime.devices: expected at least one device name or null"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[overrides for overrides, _ in REFUSED])
def test_refused(overrides, message):
    with pytest.raises(UserError) as caught:
        load_config((), overrides)
    text = str(caught.value)
    assert "\n" not in text
    # Messages in the table leave out the beginning of long paths.
    assert text.startswith(message) or (text.endswith(message) and text.startswith(overrides.partition("=")[0]))


ACCEPTED = [
    "model.decoder.skip_strides=[4],model.semantic.projection_channels=[48],model.instance.projection_channels=[48]",
    f"{HRNET},model.decoder.skip_strides=[16,8,4],model.semantic.projection_channels=[96,64,32],"
    "model.instance.projection_channels=[48,32,16]",
    HRNET,
    f"{HRNET},model.backbone.output_stride=8",
    "model.backbone={name: hrnet_wider_plus_atrous, output_stride: 16}",
    PLAIN_HRNET,
    f"{PLAIN_HRNET},model.dual_aspp=false,model.dual_decoder=false,model.semantic.decoder_channels=720",
    "model.dual_aspp=false,model.dual_decoder=false",
    # With one ASPP and one decoder the instance branch has no ASPP whose width could differ.
    "model.dual_aspp=false,model.dual_decoder=false,model.instance.aspp_channels=64",
    "model.dual_aspp=false",
    "model.backbone={name: resnet50, multi_grid: [1,2,4]}",
    "model.backbone={name: xception71, multi_grid: [1,1,1]}",
    "model.backbone={name: xception65, multi_grid: null}",
    "model.backbone={name: mobilenet_v3_large, multi_grid: [1,1,1]}",
    "model.backbone.output_stride=8,data.crop_size=[9,17]",
    "model.backbone.output_stride=32,data.crop_size=[33,65]",
    "model.aspp={dropout: 0.99, atrous_rates: [1], pooling_kernel: [1, 1]}",
    "model.batch_norm.momentum=0",
    "data.crop_size=[17,17],data.augmentation.rotate_90=true",
    "data.augmentation={min_scale: 1, max_scale: 1, scale_step: 0}",
    "data.augmentation={max_rotation: 180, elastic: {spacing: 32, magnitude: 8}}",
    "data.intensity_percentiles=[0,100]",
    "model.decoder.skip_strides=[8,4,2],model.semantic.projection_channels=[8,4,2],"
    "model.instance.projection_channels=[8,4,2]",
    "data.augmentation.elastic.magnitude=10",
    "data.augmentation.photometric={brightness: 1, contrast: 0.9, saturation: 0.9, hue: 0.5}",
    "data.augmentation.photometric={policy: panoptic_deeplab, policy_magnitude: 1}",
    "data.augmentation.photometric={policy: imagenet, policy_magnitude: 0.01, hue: 0.1}",
    "data.shapes={train_images: 1, val_images: 1, height: 1, width: 1, seed: 0}",
    "targets.small_instance_area=0",
    "losses={semantic_weight: 0, center_weight: 0, offset_weight: 0, hardest_fraction: 1}",
    "train={steps: 1, batch_size: 1, steps_per_loop: 1, checkpoint_interval: 1, eval_interval: 1, image_interval: 1}",
    "train={eval_interval: null, image_interval: null, max_to_keep: 1}",
    "train.optimizer={power: 0, end_learning_rate: 1.0e-3, warmup_steps: 59999, clip_global_norm: 1.0e-3}",
    "postprocessing={center_threshold: -1, nms_kernel: 1, top_k: 1, stuff_area_limit: 0}",
    "evaluation={pictures: -1, fixed_size: [17, 33]}",
    "evaluation.pictures=0",
    "runtime={strategy: tpu, tpu: local}",
    "runtime={tpu: local}",
    "runtime={strategy: mirrored, devices: ['GPU:0', 'GPU:1']}",
]


@pytest.mark.parametrize("overrides", ["", *ACCEPTED])
def test_accepted(overrides):
    load_config((), overrides)


def test_defaults_are_accepted():
    validate(ExperimentConfig())


def numbers(cls=ExperimentConfig, path=""):
    """Yields path and type of each integer and float of the configuration, alone, optional or in a tuple."""
    for name, kind in typing.get_type_hints(cls).items():
        where = f"{path}{name}"
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        kinds = [a for a in arguments if a is not type(None)] if origin in (typing.Union, types.UnionType) else [kind]
        inner = kinds[0]
        if dataclasses.is_dataclass(inner):
            yield from numbers(inner, f"{where}.")
        elif inner in (int, float):
            yield where, inner, lambda value: value
        elif typing.get_origin(inner) is tuple and typing.get_args(inner)[0] is int:
            count = 2 if Ellipsis in typing.get_args(inner) else len(typing.get_args(inner))
            yield where, int, lambda value, count=count: [value] * count


@pytest.mark.parametrize(("path", "kind", "form"), [pytest.param(*n, id=n[0]) for n in numbers()])
def test_no_number_is_without_a_range(path, kind, form):
    # Of each, some value makes no sense, and says so by its own name.
    for value in [-2] if kind is int else [".nan", ".inf"]:
        with pytest.raises(UserError) as caught:
            load_config((), f"{path}={form(value)}")
        assert str(caught.value).startswith(f"{path}: ")
