"""Models of submissions: real networks of random weights, alone, as ensembles, and of semantic maps alone."""

from __future__ import annotations

import dataclasses
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from deeplab2_lite import cli, loading
from deeplab2_lite.config_loading import config_from_dict, config_to_dict, load_config
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.submission.check import check_submission
from deeplab2_lite.evaluation.submission.formats import FORMATS
from deeplab2_lite.evaluation.submission.images import expected_images
from deeplab2_lite.evaluation.submission.models import load_predictor
from deeplab2_lite.inference import InferenceSettings, infer
from deeplab2_lite.loading import TrainedModel
from deeplab2_lite.model import build_model
from deeplab2_lite.multi_view import Member

INFO = load_dataset_info("mapillary_vistas")
SMALL = (
    "postprocessing.center_threshold=-1,postprocessing.top_k=6,postprocessing.stuff_area_limit=0,"
    "model.semantic.aspp_channels=8,model.semantic.decoder_channels=8,model.semantic.head_channels=8,"
    "model.instance.aspp_channels=8,model.instance.decoder_channels=8,model.instance.head_channels=8"
)


def network_of(folder, seed, overrides=""):
    """A model folder in all but its weights, which are drawn."""
    folder.mkdir()
    config = load_config("shapes/mobilenet_v3_small", f"{SMALL}{overrides}")
    (folder / "config.yaml").write_text(f"model: {{tasks: {config.model.tasks}}}\n")
    keras.utils.set_random_seed(seed)
    network = build_model(config, INFO.num_classes)
    random = np.random.default_rng(seed)
    for variable in network.trainable_variables:
        if "head" in variable.name:
            variable.assign(variable + 0.3 * random.standard_normal(variable.shape))
    return TrainedModel(network, config, INFO, 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {folder / "a": (1, ""), folder / "b": (2, ""), folder / "s": (3, ",model.tasks=semantic")}
    return {path: network_of(path, *how) for path, how in made.items()}


@pytest.fixture
def paths(models, monkeypatch):
    """Their folders, by the names a, b and s (the semantic one)."""

    def load(path, overrides=""):
        if path not in models:
            return load_model_dir(path)
        config = config_from_dict(config_to_dict(models[path].config))
        flips = overrides == "inference.flip_left_right=true"
        assert flips or not overrides
        inference = dataclasses.replace(config.inference, flip_left_right=flips)
        return models[path]._replace(config=dataclasses.replace(config, inference=inference))

    load_model_dir = loading.load_model_dir
    monkeypatch.setattr(loading, "load_model_dir", load)
    return {path.name: path for path in models}


def image_of(seed, size=(60, 90)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.mark.slow
def test_an_ensemble_in_two_views_is_what_infer_gives(models, paths):
    predictor = load_predictor([paths["a"], paths["b"]], "panoptic", "inference.flip_left_right=true")
    image = image_of(0)
    result = predictor(image)
    first, second = models[paths["a"]], models[paths["b"]]
    stride = first.config.model.backbone.output_stride
    settings = InferenceSettings.from_config(first.config, INFO)
    members = [Member(first.network, stride), Member(second.network, stride)]
    views = tuple(view._replace(flipped=flipped) for view in settings.views for flipped in (False, True))
    expected = infer(members, tf.constant(image[None]), settings._replace(views=views))
    assert result.instances.valid.any()
    np.testing.assert_array_equal(result.panoptic, expected.result.panoptic[0])
    np.testing.assert_allclose(predictor.instance_scores, expected.instance_scores[0], rtol=1e-5)
    alone = load_predictor([paths["a"]], "panoptic")(image)
    assert (alone.panoptic != result.panoptic).any()


@pytest.mark.parametrize(
    "form", ["mapillary_semantic", "mapillary_instance", pytest.param("mapillary_panoptic", marks=pytest.mark.slow)]
)
def test_from_images_to_a_zip(tmp_path, paths, form):
    (tmp_path / "in").mkdir()
    for i in range(2):
        Image.fromarray(image_of(i, (60 + i, 90))).save(tmp_path / "in" / f"{i}.png")
    name = "s" if form == "mapillary_semantic" else "a"
    flags = [
        f"--format={form}",
        f"--model={paths[name]}",
        f"--input={tmp_path / 'in'}",
        f"--output={tmp_path / 'o.zip'}",
    ]
    assert cli.main(["submit", *flags]) == 0
    expected = expected_images(FORMATS[form], tmp_path / "in", None)
    assert check_submission(tmp_path / "o.zip", FORMATS[form], expected).findings == ()
    if form == "mapillary_instance":
        with zipfile.ZipFile(tmp_path / "o.zip") as archive:
            assert archive.read("0.txt").count(b"\n") > 1


def test_what_does_not_go_together(tmp_path, paths):
    def refused(*words, **options):
        with pytest.raises(UserError) as caught:
            load_predictor(*words, **options)
        return str(caught.value)

    assert refused([paths["s"]], "panoptic") == (
        f"--model: {paths['s']}: model.tasks 'semantic' gives no panoptic submission"
    )
    assert refused([paths["a"], paths["s"]], "semantic") == (
        f"{paths['s']} has model.tasks semantic, {paths['a']} has panoptic; an ensemble needs one"
    )
    (tmp_path / "saved_model.pb").touch()
    for words in ({"paths": [paths["a"], tmp_path]}, {"paths": [tmp_path], "overrides": "train.steps=1"}):
        assert refused(kind="panoptic", **words).startswith(f"{tmp_path} is a SavedModel, whose settings")
    assert "no such file or folder" in refused([tmp_path / "x"], "panoptic")
