"""The command `evaluate` on two folders of panoptic maps: figures, files, resuming, and what a user is told."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from deeplab2_lite import cli
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction, write_report
from deeplab2_lite.evaluation.evaluate_arguments import UNFINISHED

from .sources.panoptic_folders import INFO, edit_json, expected_report, scene, write_folders

COUNT = 7


@pytest.fixture
def folders(tmp_path):
    """The two JSONs of seven images."""
    return write_folders(tmp_path, COUNT)


def evaluate(folders, output, *words):
    """Runs the command in this process; returns the exit status."""
    files = [f"--truth={folders[0]}", f"--prediction={folders[1]}", f"--output={output}"]
    return cli.main(["evaluate", *files, "--num_processes=1", "--pictures=0", "--no-html", *map(str, words)])


def refused(capsys, folders, output, *words):
    """What the command says when it refuses."""
    assert evaluate(folders, output, *words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text.removeprefix("error: ").rstrip("\n")


def files_of(folder):
    """The content of all that must not depend on how an evaluation came about."""
    names = ("metrics.json", "metrics.csv", "images.jsonl", "images.csv", "label_space.yaml")
    return {name: (folder / name).read_bytes() for name in names}


def test_figures_are_those_of_the_api(folders, tmp_path, capsys):
    output = tmp_path / "out"
    assert evaluate(folders, output) == 0
    report = expected_report(folders[0], range(COUNT))
    (tmp_path / "expected").mkdir()
    table = write_report(report, tmp_path / "expected")
    for name in ("metrics.json", "metrics.csv"):
        assert (output / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert 0.1 < report.panoptic.pq < 0.95
    assert capsys.readouterr().out == f"{table}\n{output}\n"
    lines = [json.loads(line) for line in (output / "images.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [f"city_{i:02d}.png" for i in range(COUNT)]
    assert lines == [json.loads(json.dumps(counts.to_json())) for counts in report.images]
    assert sorted(path.name for path in output.iterdir()) == sorted(files_of(output))


def test_figures_do_not_depend_on_processes_or_order(folders, tmp_path):
    assert evaluate(folders, tmp_path / "one") == 0
    edit_json(folders[1], lambda content: content["annotations"].reverse())
    assert evaluate(folders, tmp_path / "two", "--num_processes=2") == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_label_space_by_name_and_folders_elsewhere(folders, tmp_path):
    (tmp_path / "spaces").mkdir()
    INFO.save(tmp_path / "spaces")
    (tmp_path / "prediction").rename(tmp_path / "elsewhere")
    (tmp_path / "truth").rename(tmp_path / "labels")
    flags = ["--truth_dir", tmp_path / "labels", "--prediction_dir", tmp_path / "elsewhere"]
    assert evaluate(folders, tmp_path / "out", *flags, "--dataset_info", tmp_path / "spaces") == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dataset"] == "street"


LIGHT = """
import sys
from deeplab2_lite import cli
status = cli.main(sys.argv[1:])
sys.exit(status or 99 * ("tensorflow" in sys.modules))
"""


def test_files_and_boundaries_need_no_tensorflow(folders, tmp_path):
    words = ["evaluate", f"--truth={folders[0]}", f"--prediction={folders[1]}", f"--output={tmp_path / 'out'}"]
    words += ["--num_processes=1", "--pictures=1", "--boundary", "--dilation_ratio=0.04"]
    ended = subprocess.run([sys.executable, "-c", LIGHT, *words], cwd=cli.__file__.rsplit(os.sep, 2)[0])
    assert ended.returncode == 0
    report = expected_report(folders[0], range(COUNT), boundary=True, dilation_ratio=0.04)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["boundary_panoptic_quality/All/PQ"] == report.boundary.pq < report.panoptic.pq
    assert metrics["semantic/boundary_mIoU"] == report.boundary_iou.mean_iou


KILLED = """
import os, signal, sys
from deeplab2_lite import cli
from deeplab2_lite.evaluation.evaluate import Evaluation
count = Evaluation.count_overlaps
def killed(self, pairs, name=""):
    if name == "city_04.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return count(self, pairs, name)
Evaluation.count_overlaps = killed
cli.main(sys.argv[1:])
"""


def test_a_killed_evaluation_goes_on_and_gives_the_same(folders, tmp_path, capsys, monkeypatch):
    assert evaluate(folders, tmp_path / "whole") == 0
    output = tmp_path / "out"
    words = ["evaluate", f"--truth={folders[0]}", f"--prediction={folders[1]}", f"--output={output}"]
    words += ["--num_processes=1", "--pictures=0", "--no-html"]
    ended = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=cli.__file__.rsplit(os.sep, 2)[0])
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in output.iterdir()] == [UNFINISHED]
    with (output / UNFINISHED).open("ab") as file:
        file.write(b'["4", [[4, nul')  # and what it was about to write is torn
    counted = []
    count = Evaluation.count_overlaps
    monkeypatch.setattr(Evaluation, "count_overlaps", lambda *a: counted.append(a[2]) or count(*a))
    capsys.readouterr()
    assert evaluate(folders, output) == 0
    assert counted == [f"city_{i:02d}.png" for i in (4, 5, 6)]
    assert "(4 of the images were counted by an earlier, interrupted run)" in capsys.readouterr().out
    assert files_of(output) == files_of(tmp_path / "whole")
    assert not (output / UNFINISHED).exists()


def test_a_file_that_changes_between_is_counted_again(folders, tmp_path, capsys):
    output = tmp_path / "out"
    last = tmp_path / "prediction" / "city_06.png"
    whole = last.read_bytes()
    last.write_bytes(whole[:60])
    assert "city_06.png: " in refused(capsys, folders, output)
    assert len((output / UNFINISHED).read_text().splitlines()) == 1 + COUNT - 1
    last.write_bytes(whole)
    for name in ("city_01.png", "city_02.png"):
        os.utime(tmp_path / "prediction" / name, ns=(1, 1))
    assert evaluate(folders, output) == 0
    assert "(4 of the images" in capsys.readouterr().out
    assert evaluate(folders, tmp_path / "whole") == 0
    assert files_of(output) == files_of(tmp_path / "whole")


def test_other_settings_begin_anew(folders, tmp_path, capsys):
    last = tmp_path / "prediction" / "city_06.png"
    whole = last.read_bytes()
    last.write_bytes(whole[:60])
    refused(capsys, folders, tmp_path / "out")
    last.write_bytes(whole)
    assert evaluate(folders, tmp_path / "out", "--instance_rules", "cityscapes") == 0
    assert "earlier" not in capsys.readouterr().out


def test_faults_of_predictions_are_named(folders, tmp_path, capsys):
    png = tmp_path / "prediction" / "city_03.png"
    good, out = png.read_bytes(), tmp_path / "out"
    png.unlink()
    assert refused(capsys, folders, out).startswith(f"{png}: no such file")
    Image.open(io.BytesIO(good)).resize((40, 60), 0).save(png)
    truth_png = tmp_path / "truth" / "city_03.png"
    assert refused(capsys, folders, out) == (f"{png}: 60x40 pixels; expected 60x80, the size of {truth_png}")
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(png)
    assert refused(capsys, folders, out).startswith(f"{png}: expected an 8-bit RGB PNG of segment ids")
    png.write_bytes(good)
    extra = {"image_id": "city_77", "file_name": "city_03.png", "segments_info": []}
    edit_json(folders[1], lambda content: content["annotations"].append(extra))
    assert refused(capsys, folders, out) == (
        f"{folders[0]}: no truth of image 'city_77'; expected one for each image of {folders[1]}"
    )
    assert evaluate(folders, out, "--allow_extra") == 0
    edit_json(folders[1], lambda content: content["annotations"].pop(2))
    assert refused(capsys, folders, out, "--allow_extra") == (
        f"{folders[1]}: no prediction of image 'city_02'; expected one for each image of {folders[0]}"
    )


def test_flags_that_do_not_go_together(folders, tmp_path, capsys):
    def told(*words):
        assert cli.main(["evaluate", *map(str, words)]) == 2
        return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")

    assert told() == "--truth: missing; expected --model, or both --truth and --prediction"
    assert told("--truth=t.json") == "--prediction: missing; expected --model, or both --truth and --prediction"
    assert told("--model=m", "--truth=t") == (
        "--model: contradicts --truth and --prediction; expected a model or files"
    )
    assert told("--model=m", "--images=i") == "--images: has no meaning without --truth and --prediction"
    assert refused(capsys, folders, tmp_path, "--flip") == "--flip: has no meaning without --model"
    assert refused(capsys, folders, tmp_path, "--dilation_ratio=0.1") == (
        "--dilation_ratio: has no meaning without --boundary"
    )
    assert refused(capsys, folders, tmp_path, "--pictures=-1") == "--pictures: expected 0 or more, got -1"
    assert refused(capsys, folders, tmp_path, "--num_processes=0") == "--num_processes: expected 1 or more, got 0"
    assert told("--model", tmp_path / "none") == (
        f"--model: no folder {tmp_path / 'none'}; expected a model folder or a SavedModel"
    )
    assert told("--truth=t.json", "--prediction=p.json") == (
        "--truth: no file t.json; expected a JSON in the COCO panoptic format"
    )
    assert refused(capsys, folders, tmp_path, "--images=nowhere") == "--images: no folder nowhere"
    assert refused(capsys, folders, tmp_path / "truth.json" / "out").startswith("--output: ")


def test_pictures_and_report_of_the_worst(folders, tmp_path):
    output = tmp_path / "out"
    (output / "pictures").mkdir(parents=True)
    for name in ("0009_old.png", "mine.png"):
        Image.new("RGB", (2, 2)).save(output / "pictures" / name)
    assert evaluate(folders, output, "--pictures=2", "--html", "--images", tmp_path / "images") == 0
    rows = (output / "images.csv").read_text().splitlines()
    worst = [row.split(",")[0].removesuffix(".png") for row in rows[1:3]]
    pictures = sorted(path.name for path in (output / "pictures").iterdir())
    assert pictures == [f"0001_{worst[0]}.png", f"0002_{worst[1]}.png", "mine.png"]
    page = (output / "report.html").read_text()
    assert page.count("data:image/") >= 8 and worst[0] in page
    without = tmp_path / "without"
    assert evaluate(folders, without, "--pictures=1", "--html") == 0
    with_image, alone = (Image.open(p / "pictures" / pictures[0]).size for p in (output, without))
    assert with_image[1] > alone[1]  # two rows of panels, and one
    (tmp_path / "images" / f"{worst[0]}.png").unlink()
    assert evaluate(folders, output, "--pictures=1", "--images", tmp_path / "images") == 2
    assert evaluate(folders, output) == 0
    assert not (output / "report.html").exists() and not (output / UNFINISHED).exists()


def write_instances(folder, count):
    """COCO results of the predicted things, with the figures that follow from their maps."""
    evaluation = Evaluation(load_dataset_info(folder / "truth.json"), instance_rules=("coco", "cityscapes"))
    results = []
    for seed in range(count):
        truth, panoptic = scene(seed)
        random = np.random.default_rng(seed)
        instance, classes, scores = np.zeros_like(panoptic), [], []
        for panoptic_id in np.unique(panoptic[(panoptic >= 2000) & (panoptic < 4000)]):
            mask = panoptic == panoptic_id
            classes.append(panoptic_id // 1000)
            scores.append(round(float(random.random()), 3))
            instance[mask] = len(classes)
            encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
            segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode()}
            category = INFO.classes[classes[-1]].original_id
            results.append(
                {"image_id": f"city_{seed:02d}", "category_id": category, "segmentation": segmentation}
                | {"score": scores[-1]}
            )
        prediction = ImagePrediction(panoptic // 1000, panoptic, instance, np.array(classes, int), np.array(scores))
        evaluation.add(evaluation.count(truth, prediction))
    (folder / "instances.json").write_text(json.dumps(results))
    return evaluation.report(None)


def test_scored_masks_give_instance_ap_by_both_rules(folders, tmp_path, capsys):
    report = write_instances(tmp_path, COUNT)
    flags = ["--instances", tmp_path / "instances.json", "--instance_rules", "coco", "cityscapes"]
    assert evaluate(folders, tmp_path / "out", *flags) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["instance/AP"] == pytest.approx(report.instance.ap, abs=1e-12)
    assert 0 < metrics["instance_cityscapes/AP"] < 1
    assert evaluate(folders, tmp_path / "other", *flags[:2], "--instance_rules", "cityscapes") == 0
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert metrics["instance_cityscapes/AP50"] == other["instance/AP50"]


def test_faults_of_scored_masks_are_named(folders, tmp_path, capsys):
    path = tmp_path / "instances.json"

    def told(change, *words):
        write_instances(tmp_path, COUNT)
        edit_json(path, change)
        return refused(capsys, folders, tmp_path / "out", "--instances", path, *words)

    assert told(lambda c: c[0].pop("score")).startswith(f"{path}: result 0: expected an object with image_id")
    assert told(lambda c: c[1].update(category_id=7)) == (
        f"{path}: result 1: category_id 7; expected that of a thing of 'truth'"
    )
    assert told(lambda c: c[1].update(image_id="city_99")) == (
        f"{path}: result 1: is of image 'city_99', which has no truth"
    )
    assert told(lambda c: c.append(c[0])).endswith("expected the disjoint masks of a panoptic map")
    small = {"size": [3, 3], "counts": [9]}
    assert told(lambda c: c[0].update(segmentation=small)).endswith(": 3x3 pixels; expected 60x80")
    path.write_text("{}")
    assert refused(capsys, folders, tmp_path / "out", "--instances", path) == (
        f"{path}: expected a list of COCO results"
    )


def test_a_baseline_is_compared(folders, tmp_path, capsys):
    assert evaluate(folders, tmp_path / "before") == 0
    edit_json(folders[1], lambda content: content["annotations"][0]["segments_info"][0].update(category_id=11))
    assert evaluate(folders, tmp_path / "after", "--html", "--baseline", tmp_path / "before") == 0
    content = json.loads((tmp_path / "after" / "comparison.json").read_text())
    old, new = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("before", "after"))
    tag = "panoptic_quality/All/PQ"
    assert content["overall"][tag]["change"] == pytest.approx(new[tag] - old[tag], abs=1e-12)
    assert new[tag] != old[tag]
    text = capsys.readouterr().out
    assert "greatest losses in PQ" in text or "greatest gains in PQ" in text
    assert "Against the baseline" in (tmp_path / "after" / "report.html").read_text()
    # The next one, into the same folder, without a baseline.
    assert evaluate(folders, tmp_path / "after") == 0
    assert not (tmp_path / "after" / "comparison.json").exists()


def test_a_baseline_at_fault_is_named_before_the_work(folders, tmp_path, capsys):
    assert refused(capsys, folders, tmp_path / "out", "--baseline", tmp_path) == (
        f"{tmp_path}: no metrics.json here; expected a folder that 'deeplab2-lite evaluate' wrote"
    )
    assert evaluate(folders, tmp_path / "before") == 0
    edit_json(folders[0], lambda content: content["categories"][2].update(name="tram"))
    assert refused(capsys, folders, tmp_path / "out", "--baseline", tmp_path / "before") == (
        "--baseline: of another label space: class 2 is thing 'car' of 'truth' and thing 'tram' of 'truth'"
    )
    assert not (tmp_path / "out").exists()
