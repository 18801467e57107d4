"""The HTML report: what it shows is what was measured, and nothing in it can break or leave the page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite.dataset_info import ClassInfo, DatasetInfo
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.comparison.differences import compare
from deeplab2_lite.evaluation.comparison.image_scores import image_scores
from deeplab2_lite.evaluation.evaluate import Evaluation, ImagePrediction
from deeplab2_lite.evaluation.html import images as html_images
from deeplab2_lite.evaluation.html.report import Sample, write_html_report
from deeplab2_lite.evaluation.report import EvaluationReport, per_class_rows, scalars

from .html_reading import read_html

INFO = DatasetInfo(
    "streets",
    (
        ClassInfo("road", False, (128, 64, 128), 0),
        ClassInfo("car", True, (0, 0, 142), 1),
        ClassInfo("person", True, (220, 20, 60), 2),
        ClassInfo("bus", True, (0, 60, 100), 3),
    ),
    label_divisor=100,
)
DASH = "\N{EN DASH}"
EVIL = "<script>alert('a')</script>\"&.png"


def drawn_image(rng):
    """Instances of blocks; in the prediction some have another class, some are missing, and all are shifted."""
    blocks = np.kron(rng.integers(0, 6, (4, 5)), np.ones((12, 14), int))
    classes = rng.integers(0, 3, 6)
    truth = (classes[blocks] * 100 + (classes[blocks] > 0) * blocks).astype(np.int32)
    truth[: rng.integers(0, 8)] = INFO.void_id
    table = np.roll(blocks, rng.integers(0, 3, 2), (0, 1)) * (truth > 99)
    table[table == rng.integers(1, 6)] = 0
    class_id = np.where(rng.random(5) < 0.8, np.maximum(classes[1:], 1), 2)
    semantic = np.where(table > 0, class_id[table - 1], 0)
    panoptic = np.where(table > 0, semantic * 100 + table, 0).astype(np.int32)
    image = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((12, 14, 1))).astype(np.uint8)
    return image, truth, ImagePrediction(semantic, panoptic, table, class_id, rng.random(5))


def evaluated(count=8, seed=0, semantic_only=False, rules="coco", info=INFO, name="{}.png"):
    """A report, and a sample of each image."""
    rng = np.random.default_rng(seed)
    evaluation = Evaluation(info, instance_rules=(rules,))
    samples = []
    for i in range(count):
        image, truth, prediction = drawn_image(rng)
        if semantic_only:
            prediction = ImagePrediction(prediction.semantic)
        evaluation.add(evaluation.count(truth, prediction, name.format(i)))
        panoptic = prediction.semantic * 100 if semantic_only else prediction.panoptic
        samples.append(Sample(name.format(i), image, truth, panoptic.astype(np.int32)))
    return evaluation.report(1200), samples


def page(tmp_path, report, **kwargs):
    return read_html(write_html_report(report, tmp_path / "report.html", **kwargs).read_text(encoding="utf-8"))


def section(root, name):
    (found,) = root.all("section", id=name)
    return found


def section_names(root):
    return [node.attributes["id"] for node in root.all("section")]


def percent(value):
    return DASH if np.isnan(value) else f"{100 * value:.1f}"


@pytest.mark.parametrize("rules", ["coco", "cityscapes"])
def test_figures_are_those_of_the_report(tmp_path, rules):
    report, samples = evaluated(rules=rules)
    report = replace(report, extra={"seconds per image": 0.25})
    root = page(tmp_path, report, samples=samples)
    assert section_names(root) == ["summary", "classes", "curves", "confusion", "images", "samples"]
    assert "8 images" in root.all("header")[0].text and "step 1,200" in root.all("header")[0].text

    (quality,) = section(root, "summary").all("table")
    figures = scalars(report)
    assert quality.rows() == [
        [group, *(percent(figures[f"panoptic_quality/{group}/{key}"]) for key in ("PQ", "SQ", "RQ"))]
        for group in ("All", "Things", "Stuff")
    ]
    cards = {card.all("dt")[0].text: card.all("dd")[0].text for card in section(root, "summary").all("dl")[0].children}
    assert cards["mIoU"] == percent(report.semantic.mean_iou) and cards["AP50"] == percent(report.instance.ap50)
    assert cards["Detection AP50"] == percent(report.panoptic.detection_ap50())
    assert cards["seconds per image"] == "0.25"

    (classes,) = section(root, "classes").all("table")
    rows = per_class_rows(report)
    names = [key for key in rows[0] if key not in ("id", "name", "isthing")]
    assert [head.text for head in classes.all("th", scope="col")] == ["#", "class", "kind", *names]
    assert classes.rows() == [
        [
            str(row["id"]),
            row["name"],
            "thing" if row["isthing"] else "stuff",
            *(percent(row[key]) if isinstance(row[key], float) else str(row[key]) for key in names),
        ]
        for row in rows
    ]
    assert DASH in classes.rows()[3]  # no bus anywhere


def test_confusions_are_those_of_the_report(tmp_path):
    report, _ = evaluated()
    pairs, matrix = section(page(tmp_path, report), "confusion").all("table")
    confusion = report.semantic.confusion
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    names = [*INFO.class_names, "void"]
    assert [head.text for head in matrix.all("th", scope="col")] == names
    for row, of_class, total in zip(matrix.rows(), shares, confusion.sum(axis=1), strict=True):
        if total:
            assert row[1:] == [percent(share) if share else "" for share in of_class]
    assert matrix.rows()[3] == ["bus", "", "", "", DASH, ""]
    wrong = [(shares[i, j], i, j) for i in range(4) for j in range(5) if i != j and shares[i, j]]
    assert pairs.rows() == [
        [names[i], names[j], percent(share), f"{confusion[i, j]:,}"]
        for share, i, j in sorted(wrong, key=lambda pair: -pair[0])
    ]


def test_curves_go_through_the_points(tmp_path):
    report, _ = evaluated()
    curves = section(page(tmp_path, report), "curves")
    figures = curves.all("figure")
    assert [figure.all("b")[0].text for figure in figures[:1]] == ["all 2 classes"]
    assert {figure.all("b")[0].text for figure in figures[1:]} == {"car", "person"}
    assert percent(report.instance.ap50) in figures[0].text and percent(report.instance.ap75) in figures[0].text
    for figure in figures[1:]:
        class_id = INFO.class_names.index(figure.all("b")[0].text)
        assert f"AP50 {percent(report.instance.per_class_ap50[class_id])}" in figure.text
        # Each dot lies where its own title says.
        dots = figure.all("circle")
        assert dots
        for dot in dots:
            precision, recall = (float(v) for v in re.findall(r"(?:precision|recall) ([\d.]+)", dot.text))
            assert float(dot.attributes["cx"]) == pytest.approx(34 + 240 * recall / 100, abs=0.2)
            assert float(dot.attributes["cy"]) == pytest.approx(8 + 180 * (1 - precision / 100), abs=0.2)


def test_dots_tell_what_a_score_and_all_above_do(tmp_path):
    truth = np.zeros((20, 60), np.int32)
    truth[:, :20], truth[:, 20:40] = 101, 102
    table = np.zeros_like(truth)
    table[:, :20], table[:, 40:], table[:, 20:40] = 1, 2, 3
    evaluation = Evaluation(INFO)
    prediction = ImagePrediction(truth // 100, None, table, np.array([1, 1, 1]), np.array([0.9, 0.8, 0.45]))
    evaluation.add(evaluation.count(truth, prediction))
    dots = section(page(tmp_path, evaluation.report(0)), "curves").all("circle")
    assert [dot.text for dot in dots] == [
        "score 0.9 and above: precision 100.0, recall 50.0",
        "score 0.8 and above: precision 50.0, recall 50.0",
        "score 0.4 and above: precision 66.7, recall 100.0",
    ]


def test_worst_images_come_first(tmp_path):
    report, samples = evaluated()
    scores = image_scores(report)
    assert scores.measure == "PQ" and len(set(scores.values)) > 4
    root = page(tmp_path, report, samples=samples[::-1])
    articles = section(root, "samples").all("article")
    expected = [f"{i}.png" for i in np.argsort(scores.values, kind="stable")]
    assert [a.all("h3")[0].text for a in articles] == [
        f"{name}PQ {percent(scores.values[int(name[:-4])])}" for name in expected
    ]
    for article, name in zip(articles, expected, strict=True):
        counts = report.images[int(name[:-4])].panoptic
        assert [h.text for h in article.all("h4")] == [f"Missed: {counts.fn.sum()}", f"Spurious: {counts.fp.sum()}"]
        assert [i.attributes["alt"] for i in article.all("img")] == [
            f"{panel} of {name}" for panel in ("image", "truth", "prediction", "error")
        ]
    (worst,) = section(root, "images").all("table")
    assert [row[0] for row in worst.rows()] == expected
    first = report.images[int(expected[0][:-4])].panoptic
    assert worst.rows()[0][2:] == [str(kind.sum()) for kind in (first.tp, first.fp, first.fn)]
    # The bars of the histogram hold every image once.
    bars = section(root, "images").all("rect")
    assert sum(int(re.search(r": (\d+) image", bar.text)[1]) for bar in bars) == 8


def test_names_cannot_break_out_of_the_page(tmp_path):
    info = replace(INFO, name=EVIL, classes=tuple(replace(c, name=f"{EVIL}{i}") for i, c in enumerate(INFO.classes)))
    report, samples = evaluated(2, info=info, name=EVIL + "{}")
    report = replace(report, extra={EVIL: 1.0})
    root = page(tmp_path, report, samples=samples, comparison=compare(report, report))
    assert len(root.all("script")) == 1
    assert root.all("h1")[0].text == f"{EVIL} evaluation"
    assert [row[1] for row in section(root, "classes").all("table")[0].rows()] == list(info.class_names)
    assert {a.all("h3")[0].text[: len(EVIL) + 1] for a in root.all("article")} == {EVIL + "0", EVIL + "1"}


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    report, samples = evaluated(3)
    text = write_html_report(report, tmp_path / "report.html", samples=samples).read_text(encoding="utf-8")
    bare = re.sub(r"base64,[^\"]*|^ *// .*$", "", text, flags=re.MULTILINE)
    assert not any(sign in bare for sign in ("//", "http:", "https:", "@import", "url(", "fetch", "XMLHttp", "import("))
    root = read_html(text)
    for node in (n for tag in ("a", "img", "script", "link", "iframe") for n in root.all(tag)):
        for key in ("src", "href"):
            assert (node.attributes.get(key) or "#").startswith(("data:image/", "#"))
    (policy,) = root.all("meta", http_equiv="Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none';")


def test_same_input_gives_the_same_bytes(tmp_path):
    (report, samples), (other, other_samples) = evaluated(3), evaluated(3)
    first = write_html_report(report, tmp_path / "a.html", samples=samples, comparison=compare(report, report))
    second = write_html_report(other, tmp_path / "b.html", samples=other_samples, comparison=compare(other, other))
    assert first.read_bytes() == second.read_bytes()


def test_comparison(tmp_path):
    report, _ = evaluated(8, seed=0)
    baseline, _ = evaluated(8, seed=1)
    comparison = compare(report, baseline)
    content = section(page(tmp_path, report, comparison=comparison), "comparison")
    overall = content.all("table")[0].rows()
    assert len(overall) == len(comparison.overall)
    for row, one in zip(overall, comparison.overall.values(), strict=True):
        assert row[1:3] == [percent(one.before), percent(one.after)]
        if not np.isnan(one.change):
            mark = ("▲" if one.change > 0 else "▼") if one.is_significant else ""
            assert row[3] == f"{100 * one.change:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0") + mark
            assert f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]" in row[4]
    losses, gains = (table.rows() for table in content.all("table")[-2:])
    assert losses[0][0] == comparison.images[0].name and gains[0][0] == comparison.images[-1].name


def test_semantic_only(tmp_path):
    report, samples = evaluated(4, semantic_only=True)
    root = page(tmp_path, report, samples=samples)
    assert section_names(root) == ["summary", "classes", "confusion", "images", "samples"]
    scores = image_scores(report)
    heads = [a.all("h3")[0].text for a in root.all("article")]
    assert heads == [f"{i}.pngmIoU {percent(scores.values[i])}" for i in scores.worst_first()]
    assert "segments" not in root.all("article")[0].text


def test_hardly_anything(tmp_path):
    nothing = page(tmp_path, EvaluationReport(INFO, 0, 0))
    assert section_names(nothing) == ["summary", "classes"]
    assert "Nothing was measured" in nothing.text
    # One image that is void from corner to corner: figures without a value, and no curve.
    void = np.full((4, 6), INFO.void_id, np.int32)
    evaluation = Evaluation(INFO)
    prediction = ImagePrediction(void // 100, void, np.zeros_like(void), np.zeros(0, int), np.zeros(0))
    evaluation.add(evaluation.count(void, prediction, "void.png"))
    report = evaluation.report(0)
    root = page(tmp_path, report, samples=[Sample("void.png", None, void, void)], comparison=compare(report, report))
    assert f"void.pngPQ {DASH}" in section(root, "samples").text
    assert section(root, "summary").all("table")[0].rows()[0] == ["All", DASH, DASH, DASH]
    bare = (tmp_path / "report.html").read_text(encoding="utf-8").split("<script>")[0]
    assert "nan" not in re.sub(r"base64,[^\"]*", "", bare).lower()
    assert "there are no curves" in section(root, "curves").text
    assert len(root.all("article")[0].all("img")) == 3


def test_size_is_bounded_however_many_samples(tmp_path, monkeypatch):
    report, samples = evaluated(6)
    monkeypatch.setattr(html_images, "PICTURE_BYTES", 120_000)
    text = write_html_report(report, tmp_path / "report.html", samples=samples).read_text(encoding="utf-8")
    pictures = [base64.b64decode(code) for code in re.findall(r"data:image/\w+;base64,([^\"]+)", text)][-24:]
    assert sum(map(len, pictures)) <= 120_000
    monkeypatch.undo()
    root = page(tmp_path, report, samples=samples)
    for node in root.all("article")[0].all("img"):
        picture = Image.open(io.BytesIO(base64.b64decode(node.attributes["src"].split(",")[1])))
        assert picture.size == (630, 432) == (int(node.attributes["width"]), int(node.attributes["height"]))


def test_large_images_are_reduced(tmp_path):
    truth = np.zeros((500, 1300), np.int32)
    truth[:, 650:] = 101
    image = np.full((500, 1300, 3), 90, np.uint8)
    root = page(
        tmp_path,
        EvaluationReport(INFO, 0, 1),
        samples=[Sample("a.png", image, truth, truth), Sample("a.png", None, truth, truth)],
    )
    assert {node.attributes["width"] for node in root.all("article")[0].all("img")} == {"640"}


def test_misfits_are_named(tmp_path):
    report, (sample, *_) = evaluated(1)
    with pytest.raises(UserError, match=r"0\.png: image: expected uint8 \[48, 70, 3\]"):
        write_html_report(report, tmp_path / "report.html", samples=[sample._replace(image=np.zeros((2, 2, 3)))])
    with pytest.raises(UserError, match=r"0\.png: prediction: expected the truth's shape"):
        write_html_report(report, tmp_path / "report.html", samples=[sample._replace(prediction=sample.truth[1:])])
    assert list(tmp_path.iterdir()) == []
