"""Label spaces that conversions write, and the class of what nothing covers."""

import pytest

from deeplab2_lite.data.converters.label_spaces import label_space_of_names, read_label_space, with_background
from deeplab2_lite.dataset_info import load_dataset_info
from deeplab2_lite.errors import UserError


def test_what_is_written_is_numbered_as_it_says():
    # The preset says how DeepLab2 numbers its own records, which ours are not.
    preset = load_dataset_info("deeplab2_coco")
    assert preset.stored is not None
    info = read_label_space("deeplab2_coco")
    assert info.stored is None and info.classes == preset.classes and info.label_divisor == preset.label_divisor
    assert read_label_space(preset, 300).label_divisor == 300


def test_names_become_classes():
    info = label_space_of_names("zoo", ["cat", "dog"], ["sky"], 50)
    assert (info.name, info.class_names, info.thing_ids, info.label_divisor) == (
        "zoo",
        ("cat", "dog", "sky"),
        (0, 1),
        50,
    )
    assert [c.original_id for c in info.classes] == [0, 1, 2]
    assert label_space_of_names("many", stuff=[str(i) for i in range(300)]).ignore_label == 300
    with pytest.raises(UserError, match="zoo: class 'sky' is given twice"):
        label_space_of_names("zoo", ["sky"], ["sky"])


def test_a_background_is_found_or_added():
    info = label_space_of_names("zoo", ["cat"], ["sky"])
    assert with_background(info, None) == (info, 255)
    assert with_background(info, "sky") == (info, 1)
    more, class_id = with_background(info, "rest")
    assert (more.class_names, more.thing_ids, class_id) == (("cat", "sky", "rest"), (0,), 2)
    assert more.classes[2].original_id == 2
    with pytest.raises(UserError, match="--background=cat: is a thing in 'zoo'"):
        with_background(info, "cat")
    full = label_space_of_names("full", stuff=[str(i) for i in range(255)])
    more, class_id = with_background(full, "rest")
    assert (class_id, more.ignore_label) == (255, 256)
