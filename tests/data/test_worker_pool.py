"""Processes that read files: results in order, errors as they are, and a lost one is named."""

from __future__ import annotations

import errno
import os
import time

import pytest

from rmrkd_cli.data.worker_pool import default_workers, processes
from rmrkd_cli.errors import CorruptError, RunError


def work(item: tuple[str, int]) -> int:
    what, value = item
    if what == "late":
        time.sleep(0.1)
    elif what == "corrupt":
        raise CorruptError("`x` cannot be read", "mend it", "x")
    elif what == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "y")
    elif what == "die":
        os._exit(9)
    return value + 1


def test_results_come_in_order_and_errors_as_they_are() -> None:
    with processes(2) as map_over:
        items = [("late" if number % 3 == 0 else "", number) for number in range(20)]
        assert list(map_over(work, items)) == list(range(1, 21))
        assert list(map_over(work, [])) == []
    with pytest.raises(CorruptError) as caught, processes(2) as map_over:
        list(map_over(work, [("", 0), ("corrupt", 1), ("late", 2)]))
    assert (caught.value.hint, caught.value.path) == ("mend it", "x")
    with pytest.raises(OSError, match="No space") as full, processes(1) as map_over:
        list(map_over(work, [("full", 1)]))
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, "y")


def test_a_lost_process_is_told_with_what_it_worked_on() -> None:
    with pytest.raises(RunError, match=r"lost while it worked on \('die', 7\)") as caught, processes(2) as map_over:
        list(map_over(work, [("", 0), ("die", 7), ("", 2)]))
    assert "--workers" in caught.value.hint


def test_there_is_a_process_for_each_usable_cpu() -> None:
    assert 1 <= default_workers() <= 32
