"""What all sources share: counting once, in order, whatever was interrupted; and reading files in processes."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.journal import file_stamp
from deeplab2_lite.evaluation.sources.folders import open_folders
from deeplab2_lite.evaluation.sources.source import CountedImage, count_source
from deeplab2_lite.evaluation.submission.coco_panoptic import CocoPanopticWriter

from .panoptic_folders import INFO, edit_json, scene, write_folders


class Pairs:
    """Batches of the same two neighbours, of whose four images some files may be new."""

    info, step = INFO, 3

    def __init__(self, fails_at=None, names=("a", "a", "", "b"), stamps=(1, 1, 1, 1), identity="model"):
        self.counted = []
        self._fails_at, self._names, self._stamps, self._identity = fails_at, names, stamps, identity

    def __len__(self):
        return len(self._names)

    def identity(self):
        return {"model": (self._identity,)}

    def stamp(self, index):
        return (self._stamps[index],)

    def count(self, evaluation, indices):
        for first in range(0, len(indices), 2):
            batch = indices[first : first + 2]
            if self._fails_at in batch:
                raise UserError("that one cannot be read")
            self.counted += batch
            yield [CountedImage(i, self._count(evaluation, i)) for i in batch]

    def _count(self, evaluation, index):
        truth, prediction = scene(index)
        return evaluation.count(truth, ImagePrediction(None, prediction), self._names[index])


def count(source, folder, settings=None):
    evaluation = Evaluation(INFO)
    journal, earlier = count_source(source, evaluation, folder / "journal", settings)
    return evaluation.report(source.step), journal, earlier


def test_an_interrupted_source_is_counted_once_and_in_order(tmp_path):
    with pytest.raises(UserError, match="that one"):
        count(first := Pairs(fails_at=3), tmp_path)
    report, journal, earlier = count(second := Pairs(), tmp_path)
    assert (first.counted, second.counted, earlier) == ([0, 1], [2, 3], 2)
    whole, _, nothing = count(Pairs(), tmp_path, "other settings")
    assert nothing == 0
    assert repr(report) == repr(whole)
    # Names stand for one image each, also where records have none or share one.
    assert [image.name for image in report.images] == ["a", "a #2", "image 2", "b"]
    journal.remove()
    assert not (tmp_path / "journal").exists()


def test_a_batch_with_a_new_file_is_counted_again_as_a_whole(tmp_path):
    count(Pairs(), tmp_path)
    count(source := Pairs(stamps=(1, 2, 1, 1)), tmp_path)
    assert source.counted == [0, 1]


@pytest.mark.parametrize("other", [{"identity": "other"}, {"names": ("a", "b")}])
def test_another_source_begins_anew(tmp_path, other):
    count(Pairs(), tmp_path)
    count(source := Pairs(**other), tmp_path)
    assert source.counted == list(range(len(source)))


def test_stamps_tell_files_apart(tmp_path):
    path = tmp_path / "file"
    assert file_stamp(path) == [str(path)]
    path.write_bytes(b"12")
    before = file_stamp(path)
    assert before[:2] == [str(path), 2] and file_stamp(path) == before
    os.utime(path, ns=(5, 5))
    assert file_stamp(path) != before


def test_the_files_of_cityscapes_find_their_images(tmp_path):
    """Images lie in a folder for each city; the JSON of cityscapesScripts says names that nobody has."""
    info = load_dataset_info("cityscapes")
    truth = np.full((40, 60), 0, np.int32)
    truth[:20] = 11001
    for name in ("gt", "pred"):
        writer = CocoPanopticWriter(info, tmp_path / f"{name}.json", tmp_path / name)
        writer.add("ulm_000001_000019_gtFine_leftImg8bit.png", truth, "ulm_000001_000019")
        writer.finish()
    edit_json(tmp_path / "pred.json", lambda content: content.pop("images"))
    image = tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_000001_000019_leftImg8bit.png"
    image.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    source = open_folders(tmp_path / "gt.json", tmp_path / "pred.json", images=tmp_path / "leftImg8bit")
    # The preset has what the JSON says nothing of: categories and average areas.
    assert source.info == info
    (maps,) = source.maps([0])
    np.testing.assert_array_equal(maps.image, pixels)
    np.testing.assert_array_equal(maps.truth, truth)
    ((counted,),) = source.count(Evaluation(info), [0])
    assert counted.counts.name == "ulm_000001_000019_leftImg8bit.png"
    assert counted.counts.instance_iou is not None


def test_a_truth_without_images_is_refused(tmp_path):
    truth, prediction = write_folders(tmp_path, 1)
    for path in (truth, prediction):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(UserError, match="no annotations; expected at least one image"):
        open_folders(truth, prediction)
