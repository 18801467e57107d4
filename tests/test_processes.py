"""Work in processes: results in order, errors where they are, and a process that dies."""

from __future__ import annotations

import functools
import operator
import os

import pytest

from deeplab2_lite.errors import UserError
from deeplab2_lite.processes import map_in_order

# Other processes import what they are to do; of a test's own functions they know nothing.
DIVIDE_SIXTY = functools.partial(operator.floordiv, 60)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_order_and_errors_where_they_are(num_processes):
    assert list(map_in_order(DIVIDE_SIXTY, [3, 1, 2], num_processes, "test")) == [20, 60, 30]
    assert list(map_in_order(DIVIDE_SIXTY, [], num_processes, "test")) == []
    results = map_in_order(DIVIDE_SIXTY, [*range(1, 6), 0, *range(6, 40)], num_processes, "test")
    assert [next(results) for _ in range(5)] == [60, 30, 20, 15, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_process_that_dies_is_told_of():
    with pytest.raises(UserError, match="a process of the test died"):
        list(map_in_order(os._exit, range(8), 2, "test"))
