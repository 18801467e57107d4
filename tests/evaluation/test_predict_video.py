"""Videos in, videos out."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli, predictor
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.video import VideoReader, VideoWriter, load_opencv

from .demo.colour_model import INFO, panoptic_of, segment

try:
    # Its way of loading keeps OpenCV quiet, for which the first time counts.
    cv2 = load_opencv()
except UserError as missing:
    pytest.skip(str(missing), allow_module_level=True)


def film(path, count=6, height=48, width=64, rate=12.5, fourcc="mp4v"):
    """A red car that goes to the right over the green."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), rate, (width, height))
    frames = []
    for i in range(count):
        image = np.full((height, width, 3), (0, 220, 0), np.uint8)
        image[16:32, 8 + 2 * i : 32 + 2 * i] = (220, 0, 0)
        writer.write(np.ascontiguousarray(image[..., ::-1]))
        frames.append(image)
    writer.release()
    return frames


class ColourPredictor:
    """Sees colours; may be stopped at a frame."""

    seen = 0
    stop_at: int | None = None
    has_heads = True

    def __init__(self, models, overrides):
        self.info = INFO

    def observe(self, image, heads=True):
        if type(self).seen == self.stop_at:
            raise KeyboardInterrupt
        type(self).seen += 1
        return segment(image, with_heads=heads)


@pytest.fixture
def colours(monkeypatch):
    monkeypatch.setattr(predictor, "Predictor", ColourPredictor)
    monkeypatch.setattr(ColourPredictor, "seen", 0)
    return ColourPredictor


def predict(tmp_path, *words, source="film.mp4"):
    output = tmp_path / "out"
    return cli.main(["predict", "--model=m", "--input", str(tmp_path / source), f"--output={output}", *words])


def frames_of(path):
    reader = VideoReader(path)
    return reader.rate, list(reader)


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_video_becomes_a_video_of_its_size_and_rate(tmp_path, colours, capsys):
    truth = film(tmp_path / "film.mp4")
    assert predict(tmp_path) == 0
    assert files_below(tmp_path / "out") == ["overlay/film.mp4"]
    rate, frames = frames_of(tmp_path / "out" / "overlay" / "film.mp4")
    assert rate == 12.5 and len(frames) == 6 and frames[0].shape == (48, 64, 3)
    green = 0.45 * np.array([0, 220, 0]) + 0.55 * np.array(INFO.classes[3].color)
    for original, found in zip(truth, frames, strict=True):
        np.testing.assert_allclose(found[44, 4].astype(float), green, atol=12)
        car = panoptic_of(original) == 6001
        middle = int(np.nonzero(car.any(axis=0))[0].mean())
        # The class's blue and the image's red.
        assert found[20, middle][0] > 60 and found[20, middle][1] < 110 and found[20, middle][2] > 40
    assert capsys.readouterr().out == f"film.mp4, 6 frames: {tmp_path / 'out' / 'overlay' / 'film.mp4'}\n"


def test_frames_are_written_when_asked_for(tmp_path, colours):
    film(tmp_path / "film.mp4")
    assert predict(tmp_path, "--video_frames", "--layers", "heatmap") == 0
    expected = ["film/panoptic.json", *(f"film/panoptic/{i:06d}.png" for i in range(6))]
    expected += ["layers/heatmap/film.mp4", "overlay/film.mp4"]
    assert files_below(tmp_path / "out") == expected
    _, decoded = frames_of(tmp_path / "film.mp4")
    for i, image in enumerate(decoded):
        ids = np.asarray(Image.open(tmp_path / "out" / "film" / "panoptic" / f"{i:06d}.png")).astype(int) @ [
            1,
            256,
            65536,
        ]
        panoptic = panoptic_of(image)
        np.testing.assert_array_equal(ids, np.where(panoptic == INFO.void_id, 0, panoptic + 1))
    content = json.loads((tmp_path / "out" / "film" / "panoptic.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"{i:06d}.png" for i in range(6)]
    assert len(frames_of(tmp_path / "out" / "layers" / "heatmap" / "film.mp4")[1]) == 6


@pytest.mark.parametrize(
    ("suffix", "fourcc"), [(".avi", "MJPG"), (".mov", "mp4v"), (".webm", "VP90"), (".mkv", "VP80")]
)
def test_other_kinds_of_videos_are_read(tmp_path, colours, suffix, fourcc):
    film(tmp_path / f"film{suffix}", fourcc=fourcc)
    assert predict(tmp_path, source=f"film{suffix}") == 0
    assert len(frames_of(tmp_path / "out" / "overlay" / "film.mp4")[1]) == 6


def test_an_interrupted_video_leaves_nothing_half_written(tmp_path, colours, monkeypatch):
    film(tmp_path / "a.mp4")
    film(tmp_path / "b.mp4", count=4)
    with monkeypatch.context() as patch:
        patch.setattr(colours, "stop_at", 8)
        assert predict(tmp_path, source=".") == 130
    assert files_below(tmp_path / "out") == ["overlay/a.mp4", "unfinished.jsonl"]
    # What is done is not done again.
    assert predict(tmp_path, source=".") == 0
    assert colours.seen == 8 + 4
    assert files_below(tmp_path / "out") == ["overlay/a.mp4", "overlay/b.mp4"]


def whole_film(tmp_path):
    film(tmp_path / "whole.mp4", count=40)
    return (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "image"])
def test_what_cannot_be_decoded_ends_in_one_line(tmp_path, colours, capfd, kind):
    source = tmp_path / "film.mp4"
    if kind == "cut":
        content = whole_film(tmp_path)
        source.write_bytes(content[: len(content) // 2])
    elif kind == "image":
        Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
        source.write_bytes((tmp_path / "image.png").read_bytes()[:50])
    else:
        source.write_bytes(b"no video" if kind == "text" else b"")
    assert predict(tmp_path) == 2
    captured = capfd.readouterr()
    assert captured.err == f"error: {source}: not a video that OpenCV can decode, or damaged\n"
    assert captured.out == "" and not (tmp_path / "out").exists()


def test_frames_that_are_missing_are_told_of(tmp_path, colours, capfd):
    film(tmp_path / "whole.avi", count=40, fourcc="MJPG")
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(content[: len(content) // 2])
    assert predict(tmp_path, source="film.avi") == 0
    captured = capfd.readouterr()
    _, frames = frames_of(tmp_path / "out" / "overlay" / "film.mp4")
    assert 5 < len(frames) < 35
    assert captured.err == f"{tmp_path / 'film.avi'}: {len(frames)} of 40 frames could be decoded\n"


def test_without_opencv_the_extra_is_named(tmp_path, colours, monkeypatch, capsys):
    film(tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert predict(tmp_path) == 2
    assert capsys.readouterr().err == "error: videos need OpenCV: pip install 'deeplab2_lite[video]'\n"
    assert not (tmp_path / "out").exists()


def test_a_video_that_cannot_be_written(tmp_path, colours, capsys):
    film(tmp_path / "film.mp4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlay").write_text("a file")
    assert predict(tmp_path) == 2
    assert capsys.readouterr().err.startswith(f"error: --output: {tmp_path / 'out' / 'overlay'}: cannot be written")


def test_what_opencv_does_not_say_is_found_out(tmp_path, colours, monkeypatch, capsys):
    film(tmp_path / "film.mp4")
    monkeypatch.setattr(VideoWriter, "write", lambda self, frame: None)
    assert predict(tmp_path) == 2
    assert "the video could not be written whole" in capsys.readouterr().err
    assert files_below(tmp_path / "out") == ["unfinished.jsonl"]


def test_odd_sides_become_even(tmp_path):
    writer = VideoWriter(tmp_path / "odd.mp4", 10, 31, 47)
    image = np.full((31, 47, 3), (250, 10, 10), np.uint8)
    for _ in range(3):
        writer.write(image)
    writer.close()
    rate, frames = frames_of(tmp_path / "odd.mp4")
    assert rate == 10 and len(frames) == 3 and frames[0].shape == (32, 48, 3)
    np.testing.assert_allclose(frames[0][-1, -1].astype(int), image[0, 0], atol=12)


def test_frames_of_another_size_are_refused(tmp_path, monkeypatch):
    film(tmp_path / "film.mp4")
    reader = VideoReader(tmp_path / "film.mp4")
    monkeypatch.setattr(reader, "_first", reader._first[:-2])
    with pytest.raises(UserError, match="its frames change size"):
        list(reader)
