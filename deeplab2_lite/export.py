"""Exports: the whole of inference as a SavedModel, and the merge alone as another.

Both run by plain TensorFlow, with no Python of this library.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import save_config
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.inference import InferenceSettings, infer, result_tensors
from deeplab2_lite.panoptic_deeplab import without_optimizer
from deeplab2_lite.postprocessing.scoring import score_instances_by_logits
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling

CONFIG_ASSET = "config.yaml"


class InferenceModule(tf.Module):
    """Network, padding, upsampling and merge behind the signatures of a SavedModel."""

    def __init__(self, network: keras.Model, settings: InferenceSettings, assets: list[Path]) -> None:
        """Wraps a network.

        Args:
            network: As `build_model` gives it.
            settings: How to infer.
            assets: Files that travel with the model.
        """
        super().__init__()
        self.network = without_optimizer(network)
        self._settings = settings
        self.files = [tf.saved_model.Asset(str(path)) for path in assets]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def serve_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Segments uint8 images [batch, height, width, 3] of any size."""
        inference = infer(self.network, images, self._settings)
        return result_tensors(inference.result, inference.instance_scores)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Segments encoded images (JPEG, PNG, BMP) [batch]; the images of one batch have one size."""
        images = tf.map_fn(
            _decode, image_bytes, fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8), parallel_iterations=8
        )
        return self.serve_images(images)


class MergeModule(tf.Module):
    """Post-processing alone, for heads of any network."""

    def __init__(self, settings: InferenceSettings, num_classes: int) -> None:
        """Builds the signatures.

        Args:
            settings: How to merge.
            num_classes: Channels of the semantic logits.
        """
        super().__init__()
        self._settings = settings
        shape = [None, None, None]
        self.head_specs = [
            tf.TensorSpec([*shape, channels], tf.float32, name=name)
            for name, channels in zip(Heads._fields, (num_classes, 1, 2), strict=True)
        ]
        sizes = [tf.TensorSpec([], tf.int32, name=name) for name in ("height", "width")]
        self.merge = tf.function(self._merge, input_signature=self.head_specs)
        self.upsample_and_merge = tf.function(self._upsample_and_merge, input_signature=[*self.head_specs, *sizes])

    def _merge(
        self, semantic_logits: tf.Tensor, center_heatmap: tf.Tensor, center_offset: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._outputs(Heads(semantic_logits, center_heatmap, center_offset))

    def _upsample_and_merge(
        self,
        semantic_logits: tf.Tensor,
        center_heatmap: tf.Tensor,
        center_offset: tf.Tensor,
        height: tf.Tensor,
        width: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        heads = Heads(semantic_logits, center_heatmap, center_offset)
        return self._outputs(heads, Upsampling(height, width, height, width))

    def _outputs(self, heads: Heads, upsampling: Upsampling | None = None) -> dict[str, tf.Tensor]:
        result = self._settings.merge(heads, upsampling)
        return result_tensors(result, score_instances_by_logits(result, heads.semantic_logits, upsampling))


def export_saved_model(network: keras.Model, config: ExperimentConfig, info: DatasetInfo, folder: str | Path) -> Path:
    """Exports inference from images to panoptic maps.

    Signatures: `serving_default` takes `images`, uint8 [batch, height, width, 3] of any size;
    `serving_bytes` takes `image_bytes`, encoded images [batch] of one size. Both give `panoptic_pred`,
    `semantic_pred`, `instance_pred`, int32 [batch, height, width], and the table of instances as
    `instance_*` [batch, top_k, ...]. Label space and configuration travel in its assets.

    Args:
        network: As `build_model` gives it, trained.
        config: Its experiment.
        info: Its label space.
        folder: Where to; replaced as a whole if it is there.

    Returns:
        The folder.

    Raises:
        UserError: The network has not all the heads.
    """
    if config.model.tasks != "panoptic":
        raise UserError(
            f"model.tasks: '{config.model.tasks}' cannot be exported; panoptic maps need model.tasks panoptic"
        )
    with tempfile.TemporaryDirectory() as assets:
        files = [info.save(assets), save_config(config, Path(assets) / CONFIG_ASSET)]
        module = InferenceModule(network, InferenceSettings.from_config(config, info), files)
        signatures = {"serving_default": module.serve_images, "serving_bytes": module.serve_bytes}
        return _save(module, signatures, Path(folder))


def export_merge(config: ExperimentConfig, info: DatasetInfo, folder: str | Path) -> Path:
    """Exports the post-processing alone, for those who bring their own network.

    Signatures: `serving_default` takes `semantic_logits` [batch, height, width, classes],
    `center_heatmap` [.., 1] and `center_offset` [.., 2], float32 at the resolution of the image;
    `upsample_and_merge` takes them at a lower one, with the image's `height` and `width`. Outputs are
    those of `export_saved_model`.

    Args:
        config: Experiment; its `postprocessing` is used.
        info: Label space.
        folder: Where to; replaced as a whole if it is there.

    Returns:
        The folder.
    """
    module = MergeModule(InferenceSettings.from_config(config, info), info.num_classes)
    signatures = {"serving_default": module.merge, "upsample_and_merge": module.upsample_and_merge}
    return _save(module, signatures, Path(folder))


def _save(module: tf.Module, signatures: dict[str, Callable[..., Any]], folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    # The default method of JPEG differs from what other decoders, and the converters, give.
    is_jpeg = tf.io.is_jpeg(encoded)
    image = tf.cond(
        is_jpeg,
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(image, [None, None, 3])
