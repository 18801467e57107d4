"""From images of any size to panoptic maps of the same size: the path that all outputs share.

Evaluator, `Predictor` and the exported SavedModel call `infer`, so that their maps are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.intensity import stretch_intensity
from deeplab2_lite.multi_view import Member, View, mean_heads, run_network, sides, views_of
from deeplab2_lite.postprocessing.instances import InstanceTable
from deeplab2_lite.postprocessing.resampling import resize_nearest, resize_result
from deeplab2_lite.postprocessing.scoring import score_instances_by_logits
from deeplab2_lite.postprocessing.segmentation import PanopticResult, panoptic_segmentation
from deeplab2_lite.postprocessing.semantic import class_probability, semantic_segmentation
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling
from deeplab2_lite.preprocessing import grey_outside, resize_longest_side
from deeplab2_lite.tiling import Tiling

Network = Callable[..., Any] | Sequence[Member]


class InferenceSettings(NamedTuple):
    """What inference needs to know beside the network.

    Attributes:
        output_stride: Of the network; images are padded to a multiple of it plus 1.
        longest_side: Images are resized so that their longer side has so many pixels; None keeps them.
        thing_ids: Ids of the thing classes.
        label_divisor: Panoptic id = class id * label_divisor + instance id.
        ignore_label: Class id of void.
        stuff_area_limit: Stuff of fewer pixels becomes void.
        center_threshold: Heatmap values at or below it are no centres.
        nms_kernel: Side of the window in which a centre is the maximum.
        top_k: The most centres of an image.
        views: What to average over: scales and mirror images.
        tiling: How the network's input is cut; None takes it whole.
        intensity_percentiles: Percentiles of an image's levels that become 0 and 255; None leaves them.
    """

    output_stride: int
    longest_side: int | None
    thing_ids: tuple[int, ...]
    label_divisor: int
    ignore_label: int
    stuff_area_limit: int
    center_threshold: float
    nms_kernel: int
    top_k: int
    views: tuple[View, ...] = (View(1.0, False),)
    tiling: Tiling | None = None
    intensity_percentiles: tuple[float, float] | None = None

    @classmethod
    def from_config(cls, config: ExperimentConfig, info: DatasetInfo) -> InferenceSettings:
        """Returns the settings of an experiment on a label space."""
        post = config.postprocessing
        inference = config.inference
        limit = info.stuff_area_limit if post.stuff_area_limit is None else post.stuff_area_limit
        return cls(
            output_stride=config.model.backbone.output_stride,
            longest_side=config.data.longest_side,
            thing_ids=info.thing_ids,
            label_divisor=info.label_divisor,
            ignore_label=info.ignore_label,
            stuff_area_limit=limit,
            center_threshold=post.center_threshold,
            nms_kernel=post.nms_kernel,
            top_k=post.top_k,
            views=views_of(inference.scales, inference.flip_left_right),
            tiling=None if inference.tile_size is None else Tiling(*inference.tile_size, inference.tile_overlap),
            intensity_percentiles=config.data.intensity_percentiles,
        )

    def stretch(self, images: tf.Tensor, sizes: tf.Tensor | None = None) -> tf.Tensor:
        """Stretches the intensities of images, if that is asked for; arguments as for `stretch_intensity`."""
        if self.intensity_percentiles is None:
            return images
        return stretch_intensity(images, self.intensity_percentiles, sizes)

    def merge(self, heads: Heads, upsampling: Upsampling | None = None) -> PanopticResult:
        """Runs the post-processing (paper section 3.2) on heads of the image's resolution, or of a lower one."""
        return panoptic_segmentation(
            heads.semantic_logits,
            heads.center_heatmap,
            heads.center_offset,
            thing_ids=self.thing_ids,
            label_divisor=self.label_divisor,
            ignore_label=self.ignore_label,
            stuff_area_limit=self.stuff_area_limit,
            center_threshold=self.center_threshold,
            nms_kernel=self.nms_kernel,
            top_k=self.top_k,
            upsampling=upsampling,
        )


class Inference(NamedTuple):
    """What `infer` gives.

    Attributes:
        result: Maps and instances at the resolution of the input.
        instance_scores: float32 [batch, top_k], centre score times mean class probability (paper
            section 3.3); 0 in invalid rows.
        center_heatmap: float32 [batch, height, width, 1] at the resolution at which the network saw the image.
        center_offset: float32 [batch, height, width, 2] at that resolution, in its pixels.
        semantic_probability: float32 [batch, height, width] at that resolution, of the class that has the
            greatest one.
    """

    result: PanopticResult
    instance_scores: tf.Tensor
    center_heatmap: tf.Tensor
    center_offset: tf.Tensor
    semantic_probability: tf.Tensor


def infer(
    network: Network, images: tf.Tensor, settings: InferenceSettings, sizes: tf.Tensor | None = None
) -> Inference:
    """Segments images of any size.

    Args:
        network: Gives the heads at stride 4, as `build_model`; or the members of an ensemble, which may differ
            in output stride (that of the settings counts for a network alone).
        images: [batch, height, width, 3] in 0..255, uint8 or float32.
        settings: How.
        sizes: int32 [batch, 2], for a batch of fixed size: the true size of each image in its upper left
            corner. What lies beyond is grey to the network, and not to be used of the result.

    Returns:
        The result at height x width.

    Raises:
        UserError: The network lacks a head that panoptic segmentation needs.
    """
    heads, upsampling = _heads(network, images, settings, sizes)
    missing = [name for name, head in zip(Heads._fields, heads, strict=True) if head is None]
    if missing:
        raise UserError(
            f"model.tasks: the network gives no {missing[0]}; panoptic inference needs model.tasks panoptic"
        )
    result = settings.merge(heads, upsampling)
    scores = score_instances_by_logits(result, heads.semantic_logits, upsampling)
    probability = class_probability(heads.semantic_logits, result.semantic, upsampling)
    if settings.longest_side is not None:
        result = resize_result(result, *sides(images))
        scores = tf.where(result.instances.valid, scores, 0.0)
    upsampled = heads if upsampling is None else upsampling.apply(heads._replace(semantic_logits=None))
    return Inference(result, scores, upsampled.center_heatmap, upsampled.center_offset, probability)


def infer_semantic(
    network: Network, images: tf.Tensor, settings: InferenceSettings, sizes: tf.Tensor | None = None
) -> tf.Tensor:
    """Labels the pixels of images by a network that has the semantic head alone.

    Args:
        network: Gives `semantic_logits` at stride 4.
        images: [batch, height, width, 3] in 0..255, uint8 or float32.
        settings: How.
        sizes: As for `infer`.

    Returns:
        Class ids, int32 [batch, height, width].

    Raises:
        UserError: The network has no semantic head.
    """
    heads, upsampling = _heads(network, images, settings, sizes)
    if heads.semantic_logits is None:
        raise UserError("model.tasks: an instance-only network says no classes; evaluation needs panoptic or semantic")
    semantic = semantic_segmentation(heads.semantic_logits, upsampling)
    if settings.longest_side is not None:
        semantic = resize_nearest(semantic, *sides(images))
    return semantic


def inference_function(
    network: Network, settings: InferenceSettings
) -> Callable[[tf.Tensor], tuple[PanopticResult, tf.Tensor]]:
    """Compiles `infer` into one graph for uint8 images [batch, height, width, 3] of any size.

    Args:
        network: As for `infer`.
        settings: How.

    Returns:
        A function from images to the result and the instances' scores.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def run(images: tf.Tensor) -> tuple[PanopticResult, tf.Tensor]:
        inference = infer(network, images, settings)
        return inference.result, inference.instance_scores

    return run


def result_tensors(result: PanopticResult, instance_scores: tf.Tensor) -> dict[str, tf.Tensor]:
    """Names the parts of a result as the outputs of a SavedModel do.

    Args:
        result: Maps and instances.
        instance_scores: Their scores.

    Returns:
        `panoptic_pred`, `semantic_pred`, `instance_pred` (maps) and `instance_*` (tables).
    """
    tables = {f"instance_{name}": value for name, value in result.instances._asdict().items()}
    maps = {f"{name}_pred": getattr(result, name) for name in ("panoptic", "semantic", "instance")}
    return {**maps, **tables, "instance_score": instance_scores}


def result_from_tensors(tensors: dict[str, tf.Tensor]) -> tuple[PanopticResult, tf.Tensor]:
    """Reverses `result_tensors`."""
    table = InstanceTable(*(tensors[f"instance_{name}"] for name in InstanceTable._fields))
    maps = (tensors[f"{name}_pred"] for name in ("panoptic", "semantic", "instance"))
    return PanopticResult(*maps, table), tensors["instance_score"]


def _heads(
    network: Network, images: tf.Tensor, settings: InferenceSettings, sizes: tf.Tensor | None
) -> tuple[Heads, Upsampling | None]:
    """What the networks say of the images, and how it comes to their resolution; None if it is there already."""
    members = [Member(network, settings.output_stride)] if callable(network) else list(network)
    images = settings.stretch(images, sizes)
    is_single = len(members) == 1 and settings.views == (View(1.0, False),)
    if is_single and settings.tiling is not None and settings.longest_side is None and sizes is None:
        # Only tiles of it are ever needed as floats.
        return run_network(members[0], images, settings.tiling)
    pixels = resize_longest_side(images, settings.longest_side)
    if sizes is not None:
        pixels = grey_outside(pixels, sizes)
    if is_single:
        return run_network(members[0], pixels, settings.tiling)
    widths = None if sizes is None else sizes[:, 1]
    return mean_heads(members, pixels, settings.views, settings.tiling, widths), None
