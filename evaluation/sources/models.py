"""Records and a model that predicts them: a model folder, several of them as an ensemble, or a SavedModel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab2_lite.config import ExperimentConfig
from deeplab2_lite.config_loading import config_to_dict, load_config, resolve_dataset_info
from deeplab2_lite.data import shapes
from deeplab2_lite.data.pipeline import EvaluationBatch, evaluation_dataset
from deeplab2_lite.data.record_index import RecordIndex, open_records, reading_error
from deeplab2_lite.dataset_info import FILE_NAME, DatasetInfo, label_space_difference, load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.journal import file_stamp
from deeplab2_lite.evaluation.sources.source import CountedImage, Maps
from deeplab2_lite.inference import InferenceSettings, infer, infer_semantic
from deeplab2_lite.loading import (
    CHECKPOINTS,
    CONFIG_FILE,
    is_model_dir,
    is_saved_model,
    load_ensemble,
    load_inference,
    load_model_dir,
)

Predict = Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]


class ModelRequest(NamedTuple):
    """What a user asks for.

    Attributes:
        models: Model folders, or one SavedModel.
        data: Folder of records; None takes that of the first model's configuration.
        split: Of the records; None takes `data.eval_split`.
        dataset_info: Label space of the records, a name or file; None takes that in their folder.
        overrides: Settings that win over those of the model folders, as for `load_config`.
    """

    models: tuple[Path, ...]
    data: str | None = None
    split: str | None = None
    dataset_info: str | None = None
    overrides: str = ""


class ModelSource:
    """The records of a split, predicted as the evaluator in training does. One device works."""

    def __init__(
        self,
        predict: Predict,
        config: ExperimentConfig,
        info: DatasetInfo,
        index: RecordIndex,
        step: int | None,
        model: Any,
    ) -> None:
        """Sets up the model.

        Args:
            predict: From images, uint8 [batch, height, width, 3], and their sizes, int32 [batch, 2], to the
                parts of `ImagePrediction` of each.
            config: `evaluation.batch_size` and `evaluation.fixed_size` count.
            info: The label space of the records.
            index: The records.
            step: Of the weights; None where no single one is known.
            model: What tells this model from others, as JSON can hold it.
        """
        self.info = info
        self.step = step
        self._predict = predict
        self._config = config
        self._index = index
        self._model = model

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self._index)

    def identity(self) -> Any:
        """Returns the model, its settings and the shards."""
        return [self._model, self.info.to_dict(), [file_stamp(path) for path in self._index.shards]]

    def stamp(self, index: int) -> Any:
        """Returns nothing: all records of a shard are as old as it is."""
        return None

    def count(self, evaluation: Evaluation, indices: Sequence[int]) -> Generator[list[CountedImage], None, None]:
        """Predicts and counts records batch by batch; see `sources.Source`."""
        for batch, outputs in self._batches(indices, self._config):
            images = []
            for i in np.flatnonzero(batch.valid):
                _, truth, prediction = _cut(batch, outputs, i)
                name = batch.filename[i].decode(errors="replace")
                counts = evaluation.count(truth, ImagePrediction(**prediction), name)
                images.append(CountedImage(indices[batch.record[i]], counts))
            if images:
                yield images

    def maps(self, indices: Sequence[int]) -> Iterator[Maps]:
        """Predicts records once more; see `sources.Source`."""
        one_by_one = dataclasses.replace(self._config.evaluation, batch_size=1)
        config = dataclasses.replace(self._config, evaluation=one_by_one)
        for batch, outputs in self._batches(indices, config):
            image, truth, prediction = _cut(batch, outputs, 0)
            panoptic = prediction.get("panoptic")
            yield Maps(image, truth, prediction["semantic"] * self.info.label_divisor if panoptic is None else panoptic)

    def _batches(
        self, indices: Sequence[int], config: ExperimentConfig
    ) -> Iterator[tuple[EvaluationBatch, dict[str, np.ndarray]]]:
        """Yields batches of the records with what is predicted; `record` is a position in `indices`."""
        if not len(indices):
            return
        index = _some_records(self._index, indices)
        dataset = evaluation_dataset(config, self.info, index)
        spec = dataset.element_spec
        predict = tf.function(self._predict, input_signature=[spec.image, spec.size], autograph=False)
        iterator = iter(dataset)
        while True:
            try:
                batch = next(iterator)
                outputs = predict(batch.image, batch.size)
            except StopIteration:
                return
            except tf.errors.ResourceExhaustedError:
                size = "x".join(map(str, batch.image.shape[1:3]))
                raise UserError(
                    f"{batch.filename[0].numpy().decode(errors='replace')}: too little memory for {size} pixels; "
                    "try --tile_size, or a smaller evaluation.batch_size"
                ) from None
            except tf.errors.OpError as error:
                raise (reading_error(error, index) or error) from None
            yield tf.nest.map_structure(lambda tensor: tensor.numpy(), (batch, outputs))


def open_models(request: ModelRequest) -> ModelSource:
    """Loads models and finds the records that they are evaluated on.

    Args:
        request: Which.

    Returns:
        The source.

    Raises:
        UserError: A model cannot be loaded, models do not go together, or the records are not there or of
            another label space.
    """
    saved = [path for path in request.models if is_saved_model(path)]
    if saved and len(request.models) > 1:
        raise UserError(f"--model: {saved[0]} is a SavedModel, which gives maps alone; an ensemble takes model folders")
    return _open_saved_model(saved[0], request) if saved else _open_model_dirs(request)


def _open_saved_model(path: Path, request: ModelRequest) -> ModelSource:
    if request.overrides:
        raise UserError(
            f"--model: {path} is a SavedModel, whose settings were fixed when it was exported; expected a model folder "
            "for --flip, --scales, --tile_size and --params_override"
        )
    if request.data is None:
        raise UserError(f"--data: missing; {path} is a SavedModel and knows of no records")
    config = _with_data(ExperimentConfig(), request)
    loaded = load_inference(path)
    info = _label_space_of_records(config, loaded.info, path)

    def predict(images: tf.Tensor, _: tf.Tensor) -> dict[str, tf.Tensor]:
        return _panoptic_outputs(*loaded.infer(images))

    files = [file_stamp(file) for file in (path / "saved_model.pb", *sorted(path.glob("variables/*")))]
    return ModelSource(predict, config, info, open_records(config.data.dir, config.data.eval_split), None, files)


def _open_model_dirs(request: ModelRequest) -> ModelSource:
    first = request.models[0]
    # Networks come last: what is wrong with the records is said before they are built.
    if not is_model_dir(first):
        load_model_dir(first)  # which says what is wrong
    config = _with_data(load_config(first / CONFIG_FILE, request.overrides), request)
    if config.model.tasks not in ("panoptic", "semantic"):
        raise UserError(f"{first}: model.tasks '{config.model.tasks}' labels no pixels; expected panoptic or semantic")
    folder = _folder_of_records(config, first)
    info = _label_space_of_records(config, load_dataset_info(first), first)
    index = open_records(folder, config.data.eval_split)
    ensemble = load_ensemble(request.models, request.overrides)

    settings = InferenceSettings.from_config(config, info)
    network = ensemble.members if len(request.models) > 1 else ensemble.models[0].network
    is_padded = config.evaluation.fixed_size is not None

    def predict(images: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        sizes = sizes if is_padded else None
        if config.model.tasks == "semantic":
            return {"semantic": infer_semantic(network, images, settings, sizes)}
        inference = infer(network, images, settings, sizes)
        return _panoptic_outputs(inference.result, inference.instance_scores)

    identity = [
        [config_to_dict(model.config), model.step, file_stamp(path / CHECKPOINTS / str(model.step))]
        for path, model in zip(request.models, ensemble.models, strict=True)
    ]
    steps = {model.step for model in ensemble.models}
    step = steps.pop() if len(steps) == 1 else None
    return ModelSource(predict, config, info, index, step, [identity, config_to_dict(config)])


def _with_data(config: ExperimentConfig, request: ModelRequest) -> ExperimentConfig:
    data = config.data
    if request.data is not None:
        has_info = (Path(request.data) / FILE_NAME).is_file()
        info = None if has_info else data.dataset_info
        data = dataclasses.replace(data, dir=request.data, dataset_info=info, shapes=None)
    if request.dataset_info is not None:
        data = dataclasses.replace(data, dataset_info=request.dataset_info)
    if request.split is not None:
        data = dataclasses.replace(data, eval_split=request.split)
    return dataclasses.replace(config, data=data)


def _folder_of_records(config: ExperimentConfig, model_dir: Path) -> Path:
    if config.data.dir is not None:
        return Path(config.data.dir)
    if config.data.shapes is not None:
        # Where training has generated it; elsewhere it is generated anew.
        return shapes.build(model_dir / "data", config.data.shapes).parent
    raise UserError(f"--data: missing; {model_dir / CONFIG_FILE} names no folder of records either")


def _label_space_of_records(config: ExperimentConfig, expected: DatasetInfo, path: Path) -> DatasetInfo:
    info = resolve_dataset_info(config)
    difference = label_space_difference(expected, info)
    if difference is not None:
        source = config.data.dataset_info or config.data.dir
        raise UserError(f"{source}: of another label space than {path}: {difference}")
    return info


def _panoptic_outputs(result: Any, scores: tf.Tensor) -> dict[str, tf.Tensor]:
    return {
        "semantic": result.semantic,
        "panoptic": result.panoptic,
        "instance": result.instance,
        "class_id": result.instances.class_id,
        "score": scores,
    }


def _some_records(index: RecordIndex, indices: Sequence[int]) -> RecordIndex:
    chosen = np.asarray(indices, np.int64)
    return RecordIndex(index.shards, index.shard_index[chosen], index.byte_offset[chosen], index.byte_length[chosen])


def _cut(
    batch: EvaluationBatch, outputs: Mapping[str, np.ndarray], i: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Takes an image out of a batch, without padding: image, truth and the parts of `ImagePrediction`."""
    height, width = batch.size[i]
    inside = (i, slice(height), slice(width))
    # Maps have two dimensions more than the batch's, tables of instances one.
    prediction = {name: value[inside] if value.ndim == 3 else value[i] for name, value in outputs.items()}
    return batch.image[inside], batch.panoptic[inside], prediction
