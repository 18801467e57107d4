"""Exports: the whole of inference as a SavedModel, and the merge alone as another.

Both run by plain TensorFlow, with no Python of this library.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import save_config
from deeplab2_lite.dataset_info import DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.files import atomic_folder
from deeplab2_lite.inference import InferenceSettings, Network, infer, result_tensors
from deeplab2_lite.panoptic_deeplab import without_optimizer
from deeplab2_lite.postprocessing.scoring import score_instances_by_logits
from deeplab2_lite.postprocessing.upsampling import Heads, Upsampling
from deeplab2_lite.serving.encoded_images import decode_images
from deeplab2_lite.serving.freezing import freeze
from deeplab2_lite.serving.labels import save_labels
from deeplab2_lite.serving.outputs import select_outputs
from deeplab2_lite.serving.requests import checked_images, checked_list
from deeplab2_lite.serving.requirements import check_packages
from deeplab2_lite.serving.warmup import write_warmup_requests

CONFIG_ASSET = "config.yaml"
# As records are written here and by DeepLab2.
ENCODED_IMAGE = "image/encoded"


class InferenceModule(tf.Module):
    """Network, padding, upsampling and merge behind the signatures of a SavedModel."""

    def __init__(self, network: Network, config: ExperimentConfig, info: DatasetInfo, assets: list[Path]) -> None:
        """Wraps a network.

        Args:
            network: As `build_model` gives it, or frozen.
            config: Its experiment; `export` says what is answered.
            info: Its label space.
            assets: Files that travel with the model.
        """
        super().__init__()
        self.network = without_optimizer(network)
        self._settings = InferenceSettings.from_config(config, info)
        self._export = config.export
        self._num_classes = info.num_classes
        self.files = [tf.saved_model.Asset(str(path)) for path in assets]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")], autograph=False)
    def serve_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Segments uint8 images [batch, height, width, 3] of any size."""
        images = checked_images(images, self._export.max_side)
        inference = infer(self.network, images, self._settings)
        tensors = result_tensors(inference.result, inference.instance_scores)
        return select_outputs(tensors, self._export.outputs, self._num_classes)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Segments encoded images [batch], as `decode_images` takes them; the images of one batch have one size."""
        image_bytes = checked_list(image_bytes, "image_bytes")
        return self.serve_images(decode_images(image_bytes, self._export.max_side, "image_bytes"))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def serve_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Segments the images of records, serialized tf.train.Example [batch]; likewise of one size."""
        features = {ENCODED_IMAGE: tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_example(checked_list(examples, "examples"), features)[ENCODED_IMAGE]
        return self.serve_images(decode_images(encoded, self._export.max_side, ENCODED_IMAGE))


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
        self.merge = tf.function(self._merge, input_signature=self.head_specs, autograph=False)
        self.upsample_and_merge = tf.function(
            self._upsample_and_merge, input_signature=[*self.head_specs, *sizes], autograph=False
        )

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
    `serving_bytes` takes `image_bytes`, encoded images [batch] of one size; `serving_examples` takes `examples`,
    serialized tf.train.Example [batch] with `image/encoded`, of one size, too. All give what `config.export.outputs`
    names: by default `panoptic_pred`, `semantic_pred`, `instance_pred`, int32 [batch, height, width], and the table of
    instances as `instance_*` [batch, top_k, ...]. They refuse what is no image or larger than `config.export.max_side`.
    Label space (`dataset_info.yaml`, `labels.json`) and configuration travel in the assets.

    Args:
        network: As `build_model` gives it, trained.
        config: Its experiment.
        info: Its label space.
        folder: Where to; replaced as a whole if it is there.

    Returns:
        The folder.

    Raises:
        UserError: The network has not all the heads, or a package for warm-up requests is missing.
    """
    if config.model.tasks != "panoptic":
        raise UserError(
            f"model.tasks: '{config.model.tasks}' cannot be exported; panoptic maps need model.tasks panoptic"
        )
    check_packages(config.export)
    with tempfile.TemporaryDirectory() as assets, atomic_folder(folder) as temporary:
        files = [info.save(assets), save_config(config, Path(assets) / CONFIG_ASSET), save_labels(info, assets)]
        module = InferenceModule(freeze(network) if config.export.frozen else network, config, info, files)
        signatures = {
            "serving_default": module.serve_images,
            "serving_bytes": module.serve_bytes,
            "serving_examples": module.serve_examples,
        }
        tf.saved_model.save(module, str(temporary), signatures=signatures)
        if config.export.warmup_sizes:
            write_warmup_requests(temporary, config.export.warmup_sizes, config.name)
    return Path(folder)


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
    with atomic_folder(folder) as temporary:
        tf.saved_model.save(module, str(temporary), signatures=signatures)
    return Path(folder)
