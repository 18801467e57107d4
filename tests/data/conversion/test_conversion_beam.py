"""A Beam pipeline leaves the folder that a conversion on one machine leaves, byte by byte, whatever befalls it."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.config import ShapesConfig
from deeplab2_lite.data.conversion import beam as conversion_beam
from deeplab2_lite.data.conversion import convert
from deeplab2_lite.data.conversion.manifest import load_manifest
from deeplab2_lite.data.conversion.output import (
    Conversion,
    conversion_digest,
    open_output,
    pending_shards,
    plan_shards,
)
from deeplab2_lite.data.converters import coco_panoptic as coco
from deeplab2_lite.data.shapes import ShapesConverter, ShapesItem
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError

# The last flag keeps DirectRunner in this process: else it first tries to download Prism, another runner.
OPTIONS = ["--runner=DirectRunner", "--allow_unsafe_triggers"]


@pytest.fixture(name="beam", scope="module")
def fixture_beam():
    return pytest.importorskip("apache_beam", reason="Apache Beam is an extra: pip install 'deeplab2_lite[beam]'")


def shapes_conversion(train=5):
    converter = ShapesConverter(load_dataset_info("shapes"), ShapesConfig(height=33, width=65))
    splits = {"train": [ShapesItem("train", i) for i in range(train)], "val": [ShapesItem("val", 0)]}
    return Conversion(converter, splits, records_per_shard=2)


def write_coco(folder, counts):
    """Images of noise whose left part is a cat, or two, and whose rest is floor."""
    rng = np.random.default_rng(0)
    categories = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 12, "name": "floor", "isthing": 0}]
    for split, source in coco.official_layout(folder, list(counts)).items():
        source.images.mkdir(parents=True)
        source.panoptic.mkdir(parents=True)
        content = {"images": [], "annotations": [], "categories": categories}
        for i in range(counts[split]):
            Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).save(source.images / f"{i}.jpg")
            segment_ids = np.where(np.arange(9) < 2 + i % 3, 300, 7)[None].repeat(6, axis=0)
            segment_ids[: 2 * (i % 2), :2] = 70000
            channels = np.stack([segment_ids >> shift & 255 for shift in (0, 8, 16)], axis=-1)
            Image.fromarray(channels.astype(np.uint8)).save(source.panoptic / f"{i}.png")
            segments = [
                {"id": int(s), "category_id": 12 if s == 7 else 3, "iscrowd": 0} for s in np.unique(segment_ids)
            ]
            content["images"].append({"id": i, "file_name": f"{i}.jpg"})
            content["annotations"].append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        source.annotations.write_text(json.dumps(content))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}


@pytest.mark.usefixtures("beam")
def test_shapes_come_out_as_from_one_machine(tmp_path):
    path = conversion_beam.convert_with_beam(shapes_conversion(), tmp_path / "beam", options=OPTIONS)
    assert path == tmp_path / "beam" / "dataset_info.yaml"
    convert(shapes_conversion(), tmp_path / "local")
    assert len(files_of(tmp_path / "local")) == 3 + 1 + 2
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "local")
    assert times_of(tmp_path / "beam").keys() == times_of(tmp_path / "local").keys()

    before = times_of(tmp_path / "beam")
    conversion_beam.convert_with_beam(shapes_conversion(), tmp_path / "beam", options=OPTIONS)
    assert times_of(tmp_path / "beam") == before
    with pytest.raises(UserError, match=r"beam: holds \S+ of a conversion with other sources"):
        conversion_beam.convert_with_beam(shapes_conversion(3), tmp_path / "beam", options=OPTIONS)
    conversion_beam.convert_with_beam(shapes_conversion(3), tmp_path / "beam", options=OPTIONS, overwrite=True)
    convert(shapes_conversion(3), tmp_path / "local", overwrite=True)
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "local")


@pytest.mark.usefixtures("beam")
def test_bad_sources_are_named_and_the_other_shards_kept(tmp_path):
    write_coco(tmp_path / "source", {"train": 7, "val": 3})
    images = tmp_path / "source" / "train2017"
    wholes = {name: (images / name).read_bytes() for name in ("1.jpg", "6.jpg")}
    for name, whole in wholes.items():
        (images / name).write_bytes(whole[:200])

    def converted(way, folder, **options):
        conversion = coco.plan(coco.official_layout(tmp_path / "source"))._replace(records_per_shard=2)
        return way(conversion, tmp_path / folder, **options)

    with pytest.raises(UserError, match=r"1\.jpg: damaged or cut off.*\(and 1 more shard could not") as caught:
        converted(conversion_beam.convert_with_beam, "beam", options=OPTIONS)
    assert "\n" not in str(caught.value)
    kept = times_of(tmp_path / "beam")
    assert sorted(kept) == [
        "train-00000-of-00004.tfrecord",
        "train-00002-of-00004.tfrecord",
        "val-00000-of-00002.tfrecord",
        "val-00001-of-00002.tfrecord",
    ]
    assert files_of(tmp_path / "beam").keys() == {*kept, "conversion.json"}
    assert load_manifest(tmp_path / "beam").shards.keys() == kept.keys()

    for name, whole in wholes.items():
        (images / name).write_bytes(whole)
    converted(conversion_beam.convert_with_beam, "beam", options=OPTIONS)
    assert kept.items() <= times_of(tmp_path / "beam").items()
    converted(convert, "local")
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "local")


@pytest.mark.usefixtures("beam")
def test_command_line(tmp_path, capsys, monkeypatch):
    write_coco(tmp_path / "source", {"train": 2, "val": 1})
    image = tmp_path / "source" / "train2017" / "1.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    words = ["convert", "coco_panoptic", "--input", str(tmp_path / "source"), "--output"]
    # A relative folder is another one to workers that run elsewhere.
    monkeypatch.chdir(tmp_path)
    flag = f"--beam_options={' '.join(OPTIONS)} --job_name='two words'"
    assert cli.main([*words, "beam", flag]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "1.jpg" in line]
    assert line.startswith(f"error: {image}: damaged or cut off")
    assert times_of(tmp_path / "beam").keys() == {"val-00000-of-00001.tfrecord"}
    image.write_bytes(whole)
    assert cli.main([*words, "beam", flag]) == 0
    assert cli.main([*words, "local", "--num_processes=1"]) == 0
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "local")


def test_a_pipeline_that_nobody_saw_end_is_taken_over(tmp_path):
    conversion = shapes_conversion()
    shards = plan_shards(conversion)
    settings = conversion_digest(conversion, shards)
    manifest = open_output(tmp_path, settings, overwrite=False)
    for shard in pending_shards(tmp_path, shards, manifest)[1:3]:
        conversion_beam._write_and_report(shard, conversion.converter, tmp_path, settings)
    assert load_manifest(tmp_path).shards == {}
    before = times_of(tmp_path)
    assert before.keys() == {shards[1].name, shards[2].name}
    convert(conversion, tmp_path)
    assert before.items() <= times_of(tmp_path).items()
    convert(conversion, tmp_path / "fresh")
    fresh = files_of(tmp_path / "fresh")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == fresh


@pytest.mark.usefixtures("beam")
def test_a_bug_is_shown_and_finished_shards_are_kept(tmp_path, monkeypatch):
    def broken(converter, item):
        return original(converter, item) if item.index != 2 else 1 / 0

    original = ShapesConverter.__call__
    monkeypatch.setattr(ShapesConverter, "__call__", broken)
    with pytest.raises(Exception, match="division by zero") as caught:
        conversion_beam.convert_with_beam(shapes_conversion(), tmp_path, options=OPTIONS)
    assert not isinstance(caught.value, UserError)
    written = times_of(tmp_path)
    assert "train-00001-of-00003.tfrecord" not in written
    assert files_of(tmp_path).keys() == {*written, "conversion.json"}
    assert load_manifest(tmp_path).shards.keys() == written.keys()


@pytest.mark.usefixtures("beam")
def test_workers_that_do_not_see_the_folder_are_noticed(tmp_path, monkeypatch):
    def fail(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(conversion_beam, "write_shard", fail)
    message = r"/train-00000-of-00003\.tfrecord: not written, as 4 of 4 shards.*all workers can write"
    with pytest.raises(UserError, match=message):
        conversion_beam.convert_with_beam(shapes_conversion(), tmp_path, options=OPTIONS)
    assert files_of(tmp_path).keys() == {"conversion.json"}


@pytest.mark.usefixtures("beam")
def test_bad_options_are_refused_before_anything_is_removed(tmp_path):
    (tmp_path / "train-00000-of-00001.tfrecord").write_bytes(b"mine")
    before = files_of(tmp_path)
    for options, message in (
        (["--runner=Foo"], "beam_options: Unexpected pipeline runner: Foo"),
        (["--direct_num_workers=x"], "beam_options: argument --direct_num_workers: invalid int value: 'x'"),
        (["--runner=a.module.that.is.not"], "beam_options: No module named"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            conversion_beam.convert_with_beam(shapes_conversion(), tmp_path, options=options, overwrite=True)
        assert "\n" not in str(caught.value)
    assert files_of(tmp_path) == before


def test_words_that_are_no_options_and_addresses_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "source", {"val": 1})
    words = ["convert", "coco_panoptic", "--input", "source", "--splits", "val", "--output"]
    for extra, message in (
        (["out", "--beam_options=--job_name='x"], "error: --beam_options: No closing quotation\n"),
        (["gs://bucket/records", "--beam_options="], "error: gs://bucket/records: expected a folder, not an address"),
        (["gs://bucket/records"], "error: gs://bucket/records: expected a folder, not an address"),
    ):
        assert cli.main([*words, *extra]) == 2
        assert capsys.readouterr().err.startswith(message)
    with pytest.raises(UserError, match="gs://bucket: expected a folder"):
        conversion_beam.convert_with_beam(shapes_conversion(), "gs://bucket")
    with pytest.raises(SystemExit):
        cli.main([*words, "out", "--beam_options=", "--num_processes=99"])
    assert "not allowed with argument" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_without_beam_one_line_tells_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    write_coco(tmp_path, {"val": 1})
    words = ["convert", "coco_panoptic", "--input", str(tmp_path), "--splits=val", "--output", str(tmp_path / "out")]
    assert cli.main([*words, "--beam_options=--runner=DirectRunner"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("pip install 'deeplab2_lite[beam]'")
    assert not (tmp_path / "out").exists()
