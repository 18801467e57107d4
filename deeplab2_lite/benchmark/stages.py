"""Inference cut into stages that are compiled one by one, and as the one function that users run.

The stages together do what `infer` does up to the panoptic map; each works on the output of the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.inference import InferenceSettings, infer
from deeplab2_lite.model import SEMANTIC_LOGITS
from deeplab2_lite.postprocessing.centers import Centers, find_centers
from deeplab2_lite.postprocessing.grouping import group_pixels
from deeplab2_lite.postprocessing.instances import InstanceTable, build_table
from deeplab2_lite.postprocessing.merging import Votes, paint, vote
from deeplab2_lite.postprocessing.resampling import resize_nearest, resize_result
from deeplab2_lite.postprocessing.scoring import score_instances_by_logits
from deeplab2_lite.postprocessing.segmentation import PanopticResult
from deeplab2_lite.postprocessing.semantic import semantic_segmentation
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling, as_heads
from deeplab2_lite.preprocessing import longest_side_size, pad_to_stride, resize_longest_side

PREPARING = "preparing"
BACKBONE = "backbone"
DECODER = "ASPP, decoder and heads"
SEMANTIC = "semantic map"
CENTERS = "centres"
GROUPING = "grouping"
MERGING = "merging"
RESIZING = "resizing"
INSTANCES = "instance table and scores"
END_TO_END = "end to end"

NETWORK = "network"
POSTPROCESSING = "post-processing"
# What leads from the image to the panoptic map, and which part of the way it belongs to.
PART_OF_STAGE = {
    PREPARING: PREPARING,
    BACKBONE: NETWORK,
    DECODER: NETWORK,
    SEMANTIC: POSTPROCESSING,
    CENTERS: POSTPROCESSING,
    GROUPING: POSTPROCESSING,
    MERGING: POSTPROCESSING,
    RESIZING: POSTPROCESSING,
}


class Watch(Protocol):
    """What looks at each stage as it runs: a stopwatch, or a gauge of memory."""

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function and returns what it gives.

        Args:
            name: Of the stage.
            function: Computes it.
            arguments: Its inputs.
        """


class StagedResult(NamedTuple):
    """What the stages gave, as `infer` would.

    Attributes:
        panoptic: int32 [batch, height, width], at the size of the images.
        instances: [batch, top_k, ...].
        instance_scores: float32 [batch, top_k].
        end_to_end: The panoptic map as it came of all stages at once.
    """

    panoptic: tf.Tensor
    instances: InstanceTable
    instance_scores: tf.Tensor
    end_to_end: tf.Tensor


class InferenceStages:
    """The stages of a network's inference."""

    def __init__(self, network: keras.Model, settings: InferenceSettings, xla: bool = False) -> None:
        """Makes the functions; each is compiled when it first runs.

        Args:
            network: As `build_model` gives it, with all heads.
            settings: How to infer.
            xla: Whether XLA compiles them, for the size of the images that come.
        """
        self._network = network
        self._settings = settings
        images = tf.TensorSpec([None, None, None, 3], tf.uint8)
        backbone, decoder = split_network(network)
        padded, features = (
            [tf.TensorSpec([None, None, None, t.shape[-1]], t.dtype) for t in model.inputs]
            for model in (backbone, decoder)
        )

        def of_any_size(function: Callable[..., Any], *signature: Any) -> Callable[..., Any]:
            # As `Predictor` and SavedModels have it; XLA alone needs to know sizes.
            if xla:
                return tf.function(function, autograph=False, jit_compile=True)
            return tf.function(function, signature, autograph=False)

        self._prepare = of_any_size(self._prepared, images)
        self._extract = of_any_size(lambda x: tf.nest.flatten(backbone(x, training=False)), *padded)
        self._decode = of_any_size(lambda x: as_heads(decoder(x, training=False)), features)
        self._infer = of_any_size(lambda x: infer(network, x, settings).result.panoptic, images)
        # Sizes are arguments here: tensors, or for XLA numbers, each with a program of its own.
        self._as_argument = int if xla else tf.constant
        self._infer_drawn, self._label, self._find, self._group, self._merge, self._resize, self._describe = (
            tf.function(step, autograph=False, jit_compile=xla or None, reduce_retracing=not xla)
            for step in (
                self._inferred_drawn,
                semantic_segmentation,
                self._found,
                self._grouped,
                self._merged,
                resize_nearest,
                self._scored,
            )
        )

    def run(self, images: tf.Tensor, watch: Watch, drawn: Heads | None = None) -> StagedResult:
        """Runs all stages, and then all at once.

        Args:
            images: uint8 [batch, height, width, 3].
            watch: Looks at each.
            drawn: Heads that post-processing takes instead of the network's, which is run all the same.

        Returns:
            Their results.
        """
        size = tuple(images.shape[1:3])
        padded = watch(PREPARING, self._prepare, images)
        features = watch(BACKBONE, self._extract, padded)
        heads = watch(DECODER, self._decode, features)
        if drawn is not None:
            heads = drawn
        upsampling = self._upsampling(size, padded)
        size = tuple(map(self._as_argument, size))
        semantic = watch(SEMANTIC, self._label, heads.semantic_logits, upsampling)
        centers = watch(CENTERS, self._find, heads.center_heatmap, upsampling)
        instance = watch(GROUPING, self._group, heads.center_offset, semantic, centers, upsampling)
        votes, seen = watch(MERGING, self._merge, semantic, instance)
        panoptic = seen if self._settings.longest_side is None else watch(RESIZING, self._resize, seen, *size)
        result = PanopticResult(seen, semantic, votes.instance, None)
        table, scores = watch(INSTANCES, self._describe, result, votes, centers, heads, upsampling, size)
        if drawn is None:
            whole = watch(END_TO_END, self._infer, images)
        else:
            whole = watch(END_TO_END, self._infer_drawn, images, drawn, tf.constant(True))
        return StagedResult(panoptic, table, scores, whole)

    def _upsampling(self, size: tuple[int, int], padded: tf.Tensor) -> Upsampling:
        seen = longest_side_size(tf.constant(size), self._settings.longest_side).numpy().tolist()
        return Upsampling(*map(self._as_argument, (*padded.shape[1:3], *seen)))

    def _prepared(self, images: tf.Tensor) -> tf.Tensor:
        pixels = resize_longest_side(self._settings.stretch(images), self._settings.longest_side)
        return pad_to_stride(pixels, self._settings.output_stride)

    def _found(self, center_heatmap: tf.Tensor, upsampling: Upsampling) -> Centers:
        heatmap = upsampling.apply(Heads(None, center_heatmap, None)).center_heatmap
        settings = self._settings
        return find_centers(heatmap, settings.center_threshold, settings.nms_kernel, settings.top_k)

    def _grouped(
        self, center_offset: tf.Tensor, semantic: tf.Tensor, centers: Centers, upsampling: Upsampling
    ) -> tf.Tensor:
        offset = upsampling.apply(Heads(None, None, center_offset)).center_offset
        return group_pixels(offset, tf.gather(tf.constant(self._is_thing), semantic), centers)

    def _merged(self, semantic: tf.Tensor, instance: tf.Tensor) -> tuple[Votes, tf.Tensor]:
        settings, is_thing = self._settings, self._is_thing
        votes = vote(semantic, instance, len(is_thing), settings.top_k, settings.label_divisor)
        panoptic = paint(votes, is_thing, settings.label_divisor, settings.ignore_label, settings.stuff_area_limit)
        return votes, panoptic

    def _scored(
        self,
        maps: PanopticResult,
        votes: Votes,
        centers: Centers,
        heads: Heads,
        upsampling: Upsampling,
        size: tuple[int | tf.Tensor, int | tf.Tensor],
    ) -> tuple[InstanceTable, tf.Tensor]:
        result = maps._replace(instances=build_table(votes, centers))
        scores = score_instances_by_logits(result, heads.semantic_logits, upsampling)
        if self._settings.longest_side is None:
            return result.instances, scores
        table = resize_result(result, *size).instances
        return table, tf.where(table.valid, scores, 0.0)

    def _inferred_drawn(self, images: tf.Tensor, drawn: Heads, use_drawn: tf.Tensor) -> tf.Tensor:
        def network(padded: tf.Tensor, training: bool) -> Heads:
            heads = as_heads(self._network(padded, training=training))
            # Chosen while it runs, or the network would be optimized away.
            return Heads(*(tf.where(use_drawn, ours, theirs) for ours, theirs in zip(drawn, heads, strict=True)))

        return infer(network, images, self._settings).result.panoptic

    @property
    def _is_thing(self) -> tuple[bool, ...]:
        classes = self._network.output_shape[SEMANTIC_LOGITS][-1]
        return tuple(class_id in self._settings.thing_ids for class_id in range(classes))


def split_network(network: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cuts a network behind its backbone; both halves share its weights.

    Args:
        network: As `build_model` gives it.

    Returns:
        The backbone, from images to features, and the rest, from a list of these to the heads.
    """
    backbone = {layer.name for layer in network.layers if layer.name.startswith("backbone/")}
    features: dict[tuple[str, str], Any] = {}
    for layer in network.layers:
        if layer.name in backbone or isinstance(layer, keras.layers.InputLayer):
            continue
        for tensor in tf.nest.flatten(layer.input):
            producer = tensor.node.layer.name
            if producer in backbone:
                features[producer, tensor.name] = tensor
    outputs = list(features.values())
    return keras.Model(network.inputs, outputs), keras.Model(outputs, network.output)
