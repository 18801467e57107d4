"""Reading the weights of another code base into a network of this library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tf_keras as keras

from deeplab2_lite.backbones import BACKBONES
from deeplab2_lite.checkpoints import named_weights
from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import resolve_dataset_info
from deeplab2_lite.config_validation import validate
from deeplab2_lite.errors import UserError, nearest_name
from deeplab2_lite.layers.settings import LayerSettings
from deeplab2_lite.model import build_model
from deeplab2_lite.pretrained import deeplab2, keras_applications, pytorch, tensor_files, tf_slim
from deeplab2_lite.pretrained.checkpoint_files import CheckpointVariables
from deeplab2_lite.pretrained.report import ImportReport
from deeplab2_lite.pretrained.translation import Translated, Translation, translate


class Source(NamedTuple):
    """One kind of source.

    Attributes:
        translations: By the backbone whose weights it has.
        read: From a path and the name of the backbone to arrays by the source's names.
        whole: It holds ASPP, decoders and heads too.
    """

    translations: Mapping[str, Translation]
    read: Callable[[str | Path, str], Mapping[str, np.ndarray]]
    whole: bool = False


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "deeplab2": Source(deeplab2.TRANSLATIONS, lambda path, _: CheckpointVariables(path), whole=True),
        "keras_applications": Source(keras_applications.TRANSLATIONS, keras_applications.read_variables),
        "pytorch": Source(pytorch.TRANSLATIONS, lambda path, _: tensor_files.read_tensors(path)),
        "tf_slim": Source(tf_slim.TRANSLATIONS, lambda path, _: CheckpointVariables(path)),
    }
)


def import_weights(
    network: keras.Model, config: ExperimentConfig, source: str, path: str | Path, fresh_logits: bool = False
) -> ImportReport:
    """Puts the weights of another code base into a network.

    Args:
        network: Of `build_model(config)`; what the source does not have keeps its values.
        config: `model` is used.
        source: Which code base: one of `SOURCES`.
        path: Of its file, as its reader takes it.
        fresh_logits: Leave the layer that says the classes as it is, for a data set with others.

    Returns:
        What was loaded, skipped and left over.

    Raises:
        UserError: The source has no such backbone, lacks a variable, or one has another shape. Nothing
            is changed then.
    """
    translated = _translate(_open(config, source, path), network, fresh_logits)
    targets = named_weights(network)
    for name, value in translated.weights.items():
        targets[name].assign(value)
    return translated.report


def read_weights(config: ExperimentConfig, source: str, path: str | Path, fresh_logits: bool = False) -> Translated:
    """Reads the weights of another code base for a network, without keeping the network.

    Args:
        config: `model`, and for a source of whole networks what says the data set.
        source: As in `import_weights`.
        path: Likewise.
        fresh_logits: Likewise.

    Returns:
        Arrays by structural path, and the report. A source of backbones is held against the backbone
        alone.

    Raises:
        UserError: As `import_weights`.
    """
    validate(config)
    # Building takes seconds; what is wrong with the source is said before.
    opened = _open(config, source, path)
    if SOURCES[source].whole:
        network = build_model(config, resolve_dataset_info(config).num_classes)
    else:
        network = _backbone(config)
    return _translate(opened, network, fresh_logits)


class _Opened(NamedTuple):
    """A source that is open: its arrays, how they are found, and for whom."""

    variables: Mapping[str, np.ndarray]
    translation: Translation
    config: ExperimentConfig
    origin: str


def _open(config: ExperimentConfig, source: str, path: str | Path) -> _Opened:
    translation = _translation(config, source)
    return _Opened(SOURCES[source].read(path, config.model.backbone.name), translation, config, str(path))


def _translate(opened: _Opened, network: keras.Model, fresh_logits: bool) -> Translated:
    model = opened.config.model
    # Counters, such as that of dropout, are no weights.
    shapes = {name: tuple(v.shape) for name, v in named_weights(network).items() if v.dtype.is_floating}
    halved = model.backbone.name.startswith("mobilenet") and model.backbone.halve_last_block
    return translate(
        shapes,
        opened.variables,
        opened.translation,
        model.batch_norm.epsilon,
        opened.origin,
        fresh_logits,
        hint="; model.backbone.halve_last_block=false keeps the width" if halved else "",
    )


def _translation(config: ExperimentConfig, source: str) -> Translation:
    if source not in SOURCES:
        raise UserError(f"--source: '{source}' is no source of weights{nearest_name(source, SOURCES)}")
    known, name = SOURCES[source].translations, config.model.backbone.name
    if name not in known:
        raise UserError(
            f"model.backbone.name: '{name}' has no weights in source '{source}'; it has {', '.join(sorted(known))}"
        )
    return known[name]


def _backbone(config: ExperimentConfig) -> Any:
    images = keras.Input((None, None, 3), dtype="float32", name="images")
    settings = LayerSettings.from_config(config)
    features = BACKBONES[config.model.backbone.name](images, config.model.backbone, settings)
    return keras.Model(images, [features.output, *features.skips.values()])
