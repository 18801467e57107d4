"""What `--input` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.inputs import find_images, find_inputs

ENDINGS = ".png, .jpg, .jpeg, .tif, .tiff, .bmp, .webp, .gif, .mp4, .m4v, .mov, .avi, .mkv, .webm, .mpg, .mpeg, .wmv"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.JPG",
        "a.png",
        "film.MOV",
        "notes.txt",
        ".hidden.png",
        "sub/c.png",
        "sub/deep/d.tif",
        "other/e.avi",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def names(inputs):
    return [[str(path) for path in paths] for paths in inputs]


@pytest.mark.parametrize(
    ("words", "images", "videos"),
    [
        (["."], ["a.png", "b.JPG"], ["film.MOV"]),
        (["b.JPG", "."], ["b.JPG", "a.png"], ["film.MOV"]),
        (["*.png"], ["a.png"], []),
        (["**/*.*"], ["a.png", "b.JPG", "sub/c.png", "sub/deep/d.tif"], ["film.MOV", "other/e.avi"]),
        (["sub", "other", "sub/c.png"], ["sub/c.png"], ["other/e.avi"]),
        (["notes.txt"], ["notes.txt"], []),
    ],
)
def test_words_name_files(folder, words, images, videos):
    assert names(find_inputs(words)) == [images, videos]


def test_a_file_may_have_the_name_of_a_pattern(folder):
    Path("[a].png").touch()
    assert names(find_inputs(["[a].png"])) == [["[a].png"], []]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no"], "--input: no such file or folder: no"),
        (["a.png", "no.png"], "--input: no such file or folder: no.png"),
        (["*.gif"], f"--input: no images or videos match *.gif; expected files ending in {ENDINGS}"),
        (["empty"], f"--input: no images or videos in empty; expected files ending in {ENDINGS}"),
        (["sub", "again"], "--input: sub/c.png and c.mp4 have the same stem; rename one"),
    ],
)
def test_what_names_nothing_is_said(folder, words, message):
    Path("empty").mkdir()
    Path("again").mkdir()
    Path("again/c.mp4").touch()
    with pytest.raises(UserError) as caught:
        find_inputs(words)
    assert str(caught.value) == message


def test_videos_are_no_images(folder):
    assert [path.name for path in find_images(Path("sub"))] == ["c.png"]
    with pytest.raises(UserError, match=r"--input: film\.MOV is a video; expected images"):
        find_images(Path("."))
