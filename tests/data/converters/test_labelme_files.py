"""Files of labelme are read as they are meant, or refused by name."""

import json

import pytest

from deeplab2_lite.data.converters.labelme_files import Shape, read_labelme_file
from deeplab2_lite.data.converters.labelme_folders import divide, find_image, find_labelme_files, images_beside
from deeplab2_lite.errors import UserError


def write(path, *shapes, **values):
    content = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "a.jpg", "imageData": None}
    path.write_text(json.dumps(content | {"imageHeight": 4, "imageWidth": 6} | values))
    return path


def polygon(label="cat", **values):
    shape = {"label": label, "points": [[0, 0], [3.5, 0], [3, 3]], "group_id": None, "shape_type": "polygon"}
    return shape | {"flags": {}} | values


def test_all_parts_are_read(tmp_path):
    path = write(tmp_path / "a.json", polygon(), polygon("dog", group_id=3), imagePath="..\\images\\b.jpg")
    source = read_labelme_file(path)
    points = ((0.0, 0.0), (3.5, 0.0), (3.0, 3.0))
    assert source.shapes == (Shape("cat", "polygon", points), Shape("dog", "polygon", points, 3))
    assert (source.image_name, source.height, source.width, source.image_data) == ("../images/b.jpg", 4, 6, None)


def test_old_and_sparse_files_are_read(tmp_path):
    shape = {"label": "cat", "points": [[0, 0], [3, 0], [3, 3]], "line_color": None, "fill_color": None}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape, shape | {"shape_type": None}]}))
    source = read_labelme_file(tmp_path / "a.json")
    assert [shape.type for shape in source.shapes] == ["polygon", "polygon"]
    assert (source.image_name, source.height, source.width) == ("a", None, None)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": []}, "expected an object with a 'label'"),
        ("cat", "expected an object with a 'label'"),
        (polygon(shape_type="polygone"), r"\('cat'\): shape_type 'polygone' is not known; did you mean 'polygon'\?"),
        (polygon(points=[[0, 0], [1, 1]]), "points: expected 3 or more of a polygon, got 2"),
        (polygon(shape_type="rectangle"), "points: expected 2 of a rectangle, got 3"),
        (polygon(shape_type="mask", mask="AA=="), "points: expected 1 to 2 of a mask, got 3"),
        (polygon(points=[[0, 0], [1, 1], [1, "2"]]), "points: expected pairs of coordinates"),
        (polygon(points=[[0, 0], [1, 1], [1]]), "points: expected pairs of coordinates"),
        (polygon(points=[[0, 0], [1, 1], [1, float("nan")]]), "points: expected pairs of coordinates"),
        (polygon(points=[[0, 0], [1, 1], [1, 1e9]]), "points: expected pairs of coordinates"),
        (polygon(points=None), "points: expected pairs of coordinates"),
        (polygon(group_id=[1]), r"group_id: expected an integer, got \[1\]"),
        (polygon(shape_type="mask", points=[[0, 0], [1, 1]]), "mask: expected a PNG in base64"),
        (polygon(shape_type="mask", points=[[0, 0], [1, 1]], mask="%"), "mask: not valid base64"),
    ],
)
def test_malformed_shapes_are_named(tmp_path, shape, message):
    path = write(tmp_path / "a.json", polygon(), shape)
    with pytest.raises(
        UserError, match=rf"a\.json: shapes\[1\].*: {message}|a\.json: shapes\[1\].*{message}"
    ) as caught:
        read_labelme_file(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "a.json"
    for content, message in (
        ("{", "not valid JSON"),
        ("[]", "no list 'shapes'; expected a file of labelme"),
        ('{"images": []}', "no list 'shapes'"),
        ('{"shapes": [], "imageHeight": "4"}', "imageHeight: expected an integer, got '4'"),
        ('{"shapes": [], "imagePath": 4}', "imagePath: expected text, got 4"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"a\.json: {message}"):
            read_labelme_file(path)
    with pytest.raises(UserError, match=r"b\.json: cannot be read"):
        read_labelme_file(tmp_path / "b.json")


def test_images_are_found_where_said_then_beside_then_within(tmp_path):
    path = write(tmp_path / "x.json", imagePath="other/a.jpg", imageData="AAAA")
    source = read_labelme_file(path)
    assert find_image(source, images_beside([path])) is None
    with pytest.raises(UserError, match=r"x\.json: its image is missing; expected .*other/a\.jpg, or imageData"):
        find_image(source._replace(image_data=None), {})
    for name in (".x.png", "y.JPG", "x.JPG"):
        (tmp_path / name).write_bytes(b"")
    assert find_image(source, images_beside([path])) == tmp_path / "x.JPG"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").write_bytes(b"")
    assert find_image(source, images_beside([path])) == tmp_path / "other" / "a.jpg"


def test_files_are_found_in_splits_or_in_one_folder(tmp_path):
    for name in ("train/b.json", "train/a.JSON", "train/.c.json", "test/d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_labelme_files(tmp_path, ["train", "test"])
    assert found == {
        "train": [tmp_path / "train/a.JSON", tmp_path / "train/b.json"],
        "test": [tmp_path / "test/d.json"],
    }
    with pytest.raises(UserError, match="val: no such folder; expected JSON files of labelme"):
        find_labelme_files(tmp_path)
    with pytest.raises(UserError, match="--val_fraction: divides JSON files"):
        find_labelme_files(tmp_path, None, 0.5)
    assert {split: len(files) for split, files in find_labelme_files(tmp_path / "train").items()} == {
        "train": 1,
        "val": 1,
    }
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="val: holds no JSON file"):
        find_labelme_files(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        find_labelme_files(tmp_path / "nowhere")


def test_a_folder_is_divided_by_names_alone(tmp_path):
    paths = [tmp_path / f"{i}.json" for i in range(40)]
    splits = divide(paths, 0.1)
    assert (len(splits["train"]), len(splits["val"])) == (36, 4)
    assert sorted(splits["train"] + splits["val"]) == sorted(paths)
    # Neither place, order nor suffix matter, and one more file changes at most one other's split.
    moved = [tmp_path / "elsewhere" / f"{i}.JSON" for i in reversed(range(40))]
    assert {p.stem for p in divide(moved, 0.1)["val"]} == {p.stem for p in splits["val"]}
    for i in range(40, 80):
        more = divide([*paths, tmp_path / f"{i}.json"], 0.1)
        assert len(set(splits["val"]) - set(more["val"])) <= 1
    assert divide(paths[:3], 0) == {"train": paths[:3]}
    assert len(divide(paths[:3], 0.1)["val"]) == 1
    assert len(divide(paths[:3], 0.99)["train"]) == 1
    assert divide(paths[:1], 0.5) == {"train": paths[:1]}
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="--val_fraction: expected a share"):
            divide(paths, fraction)
