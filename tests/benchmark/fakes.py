"""A benchmark that nobody ran, and the machine that it did not run on."""

from __future__ import annotations

import pytest

from deeplab2_lite.benchmark.machine import Machine
from deeplab2_lite.benchmark.measuring import Benchmark
from deeplab2_lite.benchmark.stages import END_TO_END
from deeplab2_lite.benchmark.timing import Timing
from deeplab2_lite.errors import UserError

MACHINE = Machine("Some CPU", "CPU", 2, 2, "2.20.0", "3.11.7")


def fake_benchmark(name="cityscapes/resnet50_beta", seconds=(0.5, 0.25, 1.0), published=None, **changes):
    fields = {
        "name": name,
        "data_set": name.partition("/")[0],
        "backbone": name.partition("/")[2],
        "image_sizes": ((1025, 2049),),
        "batch_size": 1,
        "precision": "float32",
        "xla": False,
        "drawn_instances": 20,
        "found_instances": 20.0,
        "stages": (),
        "end_to_end": Timing(END_TO_END, seconds, 3 * 2**20),
        "published": published,
    }
    return Benchmark(**{**fields, **changes})


def message_of(call):
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)
