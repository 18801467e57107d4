"""The part of the experiment configuration that says where data lie, and how they become training examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from deeplab2_lite.config_model import Size


@dataclass(frozen=True)
class PhotometricConfig:
    """Random changes of colours: a policy's operations, then jitter.

    Attributes:
        brightness: Jitter adds a fraction of the full range, from [-value, value].
        contrast: Jitter multiplies it by a factor from [1 - value, 1 + value].
        saturation: Likewise.
        hue: Jitter turns it by a fraction of the colour circle, from [-value, value].
        policy: AutoAugment's operations that move no pixel: "imagenet" is that of its paper (arXiv
            1805.09501, Table 9), "panoptic_deeplab" that of public code for MobileNetV3.
        policy_magnitude: How strong its operations are: 1 as published, towards 0 ever weaker.
            Equalize, AutoContrast and Invert have no strength and are done as they are.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    policy: Literal["imagenet", "panoptic_deeplab"] | None = None
    policy_magnitude: float = 1.0


@dataclass(frozen=True)
class ElasticConfig:
    """Smooth random displacement (U-Net, arXiv 1505.04597, section 3.1).

    Attributes:
        spacing: Pixels of the crop between two control points, from each to its neighbours in y and x.
        magnitude: Standard deviation in pixels of how far a control point moves in y and in x; 0 is off.
    """

    spacing: float = 64.0
    magnitude: float = 0.0


@dataclass(frozen=True)
class AugmentationConfig:
    """Random scale, crop (`data.crop_size`), flip and colours of training images (paper section 4).

    Attributes:
        min_scale: Smallest scale.
        max_scale: Largest scale.
        scale_step: Scales are min_scale, min_scale + step, ...; 0 draws them uniformly.
        flip_left_right: Mirror with probability 1/2.
        flip_up_down: Mirror with probability 1/2; for images that have no up, such as microscopy.
        rotate_90: Turn by a random multiple of 90 degrees (square crops only); likewise.
        photometric: Changes of colour.
        max_rotation: Turn by any angle from [-value, value] degrees about the middle of the crop.
        elastic: Bend the crop.
    """

    min_scale: float = 0.5
    max_scale: float = 2.0
    scale_step: float = 0.1
    flip_left_right: bool = True
    flip_up_down: bool = False
    rotate_90: bool = False
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    max_rotation: float = 0.0
    elastic: ElasticConfig = field(default_factory=ElasticConfig)


@dataclass(frozen=True)
class ShapesConfig:
    """The procedural data set that needs no download: image counts, size and seed."""

    train_images: int = 512
    val_images: int = 64
    height: int = 129
    width: int = 257
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how they are read.

    Attributes:
        dir: Folder of TFRecord shards with their `dataset_info.yaml`, as a converter writes it.
        dataset_info: Name of a preset, or a file; null reads the one in `dir`.
        shapes: Generate the `shapes` data set into the model folder when `dir` is null.
        train_split: Shards `{train_split}-*.tfrecord` are trained on.
        eval_split: Shards `{eval_split}-*.tfrecord` are evaluated on.
        crop_size: Height and width of training crops, each a multiple of the output stride plus 1.
        longest_side: Resize every image so that its longer side has so many pixels, in training and
            inference (paper section 4: 2177 Mapillary Vistas, 1025 COCO); null keeps their size.
        intensity_percentiles: Stretch the levels of every image, in training and inference, so that these two
            percentiles become 0 and 255, such as [1, 99.8]; for microscopes and cameras whose exposure
            differs. null leaves them.
        augmentation: Random changes of training images.
        cache: Keep the encoded records in memory: those of training from its start, those of evaluation from the
            end of the first one on.
        service: Addresses "grpc://host:port" of `deeplab2-lite data-service` on other machines, which make the
            training input; they need the records at the same path. Empty makes it here.
    """

    dir: str | None = None
    dataset_info: str | None = None
    shapes: ShapesConfig | None = None
    train_split: str = "train"
    eval_split: str = "val"
    crop_size: Size = (1025, 2049)
    longest_side: int | None = None
    intensity_percentiles: tuple[float, float] | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    cache: bool = False
    service: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetConfig:
    """Training targets (paper sections 3.1 and 4).

    Attributes:
        center_sigma: Standard deviation in pixels of the Gaussian round each centre.
        small_instance_area: Instances of fewer pixels are small (64 x 64).
        small_instance_weight: Semantic weight of their pixels.
        on_device: Make the targets where the network is trained: a label travels there as one int32 map
            instead of seven float maps, and the host is spared the work. For a GPU or TPU that waits for it.
    """

    center_sigma: float = 8.0
    small_instance_area: int = 4096
    small_instance_weight: float = 3.0
    on_device: bool = False
