"""The typed experiment configuration: one tree of frozen dataclasses, one meaning a field.

Everything that a run does is decided here (of the network in `config_model.py`, of data in `config_data.py`),
before any work starts. `config_loading.py` reads it from YAML and overrides; `config_validation.py` refuses values
that contradict each other. Defaults are the paper's final model (section 4, Table 1) unless a comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from deeplab2_lite.config_data import (
    AugmentationConfig,
    DataConfig,
    ElasticConfig,
    PhotometricConfig,
    ShapesConfig,
    TargetConfig,
)
from deeplab2_lite.config_model import (
    AsppConfig,
    BackboneConfig,
    BackboneName,
    BatchNormConfig,
    BranchConfig,
    DecoderConfig,
    ModelConfig,
    Size,
)

__all__ = [
    "AsppConfig",
    "AugmentationConfig",
    "BackboneConfig",
    "BackboneName",
    "BatchNormConfig",
    "BranchConfig",
    "ClassificationConfig",
    "DataConfig",
    "DecoderConfig",
    "ElasticConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "ExportConfig",
    "ExportOutput",
    "InferenceConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PhotometricConfig",
    "PostprocessingConfig",
    "PublishedConfig",
    "RuntimeConfig",
    "ShapesConfig",
    "Size",
    "TargetConfig",
    "TrainConfig",
]


@dataclass(frozen=True)
class LossConfig:
    """Losses and their weights (paper section 4).

    Attributes:
        semantic_weight: Of the bootstrapped cross entropy.
        hardest_fraction: Share of the labelled pixels of an image, hardest first, that count.
        center: Heatmap loss; with sigmoid cross entropy the heatmap head ends in a sigmoid.
        center_weight: Of the heatmap loss.
        offset_weight: Of the L1 loss of the offsets; the paper's text says 0.25, public code bases use
            0.01.
    """

    semantic_weight: float = 1.0
    hardest_fraction: float = 0.2
    center: Literal["mse", "sigmoid_cross_entropy"] = "mse"
    center_weight: float = 200.0
    offset_weight: float = 0.25


@dataclass(frozen=True)
class ClassificationConfig:
    """Pre-training as a classifier of whole images (`model.tasks: classification`).

    Attributes:
        first_label: `image/class/label` of the first class: 1 in TF-slim's ImageNet records, where 0 is
            background, and in those of `deeplab2-lite convert image_folders`; 0 in others.
        min_area: Smallest training crop, as a share of its image's area; the largest is the image.
        max_aspect_ratio: Width over height of a training crop is drawn up to here, from its inverse on.
        crop_fraction: Share of the sides that evaluation's central crop takes. Every crop is resized to
            `data.crop_size`.
        label_smoothing: Share of each label that is spread evenly over all classes.
        dropout: Rate before the logits.
    """

    first_label: int = 1
    min_area: float = 0.08
    max_aspect_ratio: float = 4 / 3
    crop_fraction: float = 0.875
    label_smoothing: float = 0.0
    dropout: float = 0.0


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and learning rate: `learning_rate * (1 - step / steps) ** power` after a linear warm-up.

    Attributes:
        name: "adam" (the paper's, without weight decay), "sgd" (momentum 0.9), "adamw", "lamb", "rmsprop",
            or a TensorFlow Addons optimizer as "tfa/LAMB", "tfa/RectifiedAdam", ...
        learning_rate: Initial rate, after the warm-up.
        power: Of the polynomial decay.
        end_learning_rate: Reached at the last step.
        warmup_steps: Steps of linear warm-up from 0.
        clip_global_norm: Scale gradients down to this norm; null leaves them. It is that of the whole batch's gradient.
        backbone_multiplier: The backbone learns at so many times the rate.
        batch_norm_multiplier: Gamma and beta of all batch normalization likewise (in the backbone, at the product).
        options: Further arguments of the optimizer by name, such as `beta_1: 0.9`.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    power: float = 0.9
    end_learning_rate: float = 0.0
    warmup_steps: int = 0
    clip_global_norm: float | None = None
    backbone_multiplier: float = 1.0
    batch_norm_multiplier: float = 1.0
    options: dict[str, int | float | bool | str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """The training loop.

    Attributes:
        steps: Train up to this step.
        budget_seconds: Fit the whole run, evaluations and all, into so many seconds: `steps` and the warm-up follow
            from the speed that is measured. Null trains for `steps`.
        batch_size: Global batch of an update, over all replicas and all parts of `accumulation_steps`.
        accumulation_steps: Compute the gradient of a batch in so many parts, one after the other, where it does not fit
            the memory at once. It is that of the whole batch; batch normalization sees a part at a time.
        recompute_activations: Keep few activations, and compute the others a second time when the gradient needs
            them: less memory for some 30 % more time.
        seed: Of initial weights, image order and augmentation; every draw follows from (seed, step).
        steps_per_loop: Steps run on the device between two looks of the host.
        checkpoint_interval: Steps between two checkpoints.
        eval_interval: Steps between two evaluations; null evaluates at the end alone.
        image_interval: Steps between two TensorBoard image summaries; null writes none.
        max_to_keep: Checkpoints kept, the newest ones.
        best_metric: A figure of evaluation as the learning curve names it, such as "PQ", "mIoU" or "top_1"; the
            checkpoint in which it is the highest is kept, too.
        patience: Stop after so many evaluations in a row without a better `best_metric`; null trains to the end.
        ema_decay: Keep an exponential moving average of the weights, decaying by this factor a step (by less in the
            first ones), such as 0.9999; null keeps none. `inference.averaged_weights` looks with it.
        max_skipped_batches: A batch whose loss or gradient is not finite is left out, so often at most in a run; 0
            stops at the first.
        precision: Compute type of the network; heads, losses and BN statistics stay float32. float16 scales the
            loss, as GPUs before Ampere need it.
        init_checkpoint: Weights that a new run starts from: the model folder of another run, or a file
            of `deeplab2-lite import-weights`; null starts from random ones. What they lack beyond the
            backbone starts from random ones too, and a run that goes on takes its own checkpoint.
        init_fresh_logits: Do not start the layer that says the classes from `init_checkpoint`, whose data
            set has others.
        optimizer: Optimizer and schedule.
    """

    steps: int = 60000
    budget_seconds: float | None = None
    batch_size: int = 32
    accumulation_steps: int = 1
    recompute_activations: bool = False
    seed: int = 0
    steps_per_loop: int = 50
    checkpoint_interval: int = 1000
    eval_interval: int | None = None
    image_interval: int | None = 1000
    max_to_keep: int = 3
    best_metric: str | None = None
    patience: int | None = None
    ema_decay: float | None = None
    max_skipped_batches: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    init_checkpoint: str | None = None
    init_fresh_logits: bool = False
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class PostprocessingConfig:
    """From heads to panoptic map (paper section 3.2).

    Attributes:
        center_threshold: Heatmap values at or below it are no centres.
        nms_kernel: Side of the window in which a centre must be the maximum; odd.
        top_k: Most centres of an image.
        stuff_area_limit: Stuff of fewer pixels becomes void; null takes the data set's.
    """

    center_threshold: float = 0.1
    nms_kernel: int = 7
    top_k: int = 200
    stuff_area_limit: int | None = None


@dataclass(frozen=True)
class InferenceConfig:
    """How evaluator, `Predictor` and exported model look at an image (paper section 4).

    Attributes:
        scales: Average over the image at these scales; the paper's multi-scale inference takes 0.5, 0.75, ..., 2
            (COCO: up to 1.5).
        flip_left_right: Also over its mirror image.
        tile_size: Run the network on overlapping tiles of this height and width, each a multiple of the output
            stride plus 1, where an image is too large for it; null takes it whole.
        tile_overlap: The least number of pixels that neighbouring tiles share.
        averaged_weights: Take the moving average of the weights (`train.ema_decay`) instead of the last ones.
    """

    scales: tuple[float, ...] = (1.0,)
    flip_left_right: bool = False
    tile_size: Size | None = None
    tile_overlap: int = 128
    averaged_weights: bool = False


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation.

    Attributes:
        batch_size: Global batch; images of different sizes never share one unless `fixed_size` is set.
        fixed_size: Pad every image to this height and width, for devices that need static shapes
            (TPU); null pads each as the exported model does.
        pictures: How many pictures to write; -1 writes one for every image.
    """

    batch_size: int = 1
    fixed_size: Size | None = None
    pictures: int = 16


ExportOutput = Literal[
    "panoptic_pred", "semantic_pred", "instance_pred", "instances", "panoptic_png_bytes", "semantic_png_bytes"
]


@dataclass(frozen=True)
class ExportConfig:
    """What an exported SavedModel answers, and what it takes.

    Attributes:
        outputs: Of each signature: maps, "instances" (all tensors `instance_*` of the table), and maps as PNG files,
            which spare REST answers millions of numbers. The RGB of "panoptic_png_bytes" is COCO's R + 256 G + 65536 B
            of the panoptic id; "semantic_png_bytes" has one channel, of 16 bits above 256 classes.
        frozen: Fold batch normalization into the convolutions and make all weights constants: faster, and none of
            them can be trained again.
        max_side: Refuse images with a side of more pixels, before memory is taken for them; null takes any.
        warmup_sizes: Heights and widths of images that TF Serving is to run before it takes requests, once for each
            signature; needs the extra `serving`.
    """

    outputs: tuple[ExportOutput, ...] = ("panoptic_pred", "semantic_pred", "instance_pred", "instances")
    frozen: bool = False
    max_side: int | None = None
    warmup_sizes: tuple[Size, ...] = ()


@dataclass(frozen=True)
class RuntimeConfig:
    """Devices, and how they run.

    Attributes:
        strategy: "one_device"; "mirrored" over all local GPUs, or `devices`; "multi_worker" over the processes that
            the environment variable TF_CONFIG lists; "tpu". "auto" is the one for which there is a TF_CONFIG, a
            `tpu`, several GPUs.
        devices: Names such as "GPU:0"; null takes all.
        tpu: Name or address of a TPU, or "local".
        xla: Compile the training step by XLA, as a TPU does anyway.
        deterministic: The same weights, bit by bit, on the same machine, at the price of some speed.
    """

    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = "auto"
    devices: tuple[str, ...] | None = None
    tpu: str | None = None
    xla: bool = False
    deterministic: bool = False


@dataclass(frozen=True)
class PublishedConfig:
    """What was published of an experiment: shown beside what is measured here, and used for nothing else.

    Attributes:
        source: Where it stands, such as "paper, Table 9".
        pq: PQ on the validation set, in percent.
        ap: Instance AP on it, in percent.
        miou: Mean IoU on it, in percent.
        milliseconds: From image to panoptic map, for one image.
        device: What took so long, such as "Tesla V100".
        input_size: Height and width of that image.
    """

    source: str = ""
    pq: float | None = None
    ap: float | None = None
    miou: float | None = None
    milliseconds: float | None = None
    device: str = ""
    input_size: Size | None = None


@dataclass(frozen=True)
class ExperimentConfig:
    """All of an experiment; the root of every YAML file.

    Attributes:
        name: Name of the experiment; the default model folder bears it.
        description: What it reproduces, in a line.
        published: The figures that it should reach, as `deeplab2-lite benchmark` shows them; null shows none.
    """

    name: str = "experiment"
    description: str = ""
    published: PublishedConfig | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    targets: TargetConfig = field(default_factory=TargetConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    postprocessing: PostprocessingConfig = field(default_factory=PostprocessingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
