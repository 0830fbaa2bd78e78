"""The worker pool: ordered results, original errors, and no process that outlives its command."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.data.worker_pool import default_workers, worker_pool
from rmrkd_cli.errors import CorruptFileError, RunError

SLEEPING_COMMAND = """
import sys
from rmrkd_cli.data.worker_pool import worker_pool
from tests.data.test_worker_pool import process_item
if __name__ == "__main__":
    with worker_pool(2) as parallel_map:
        list(parallel_map(process_item, [("announce", 60)] * 10))
"""


def process_item(item: tuple[str, int]) -> int:
    action, value = item
    if action == "late":
        time.sleep(0.1)
    elif action == "corrupt":
        raise CorruptFileError("`x` cannot be read", "replace it", "x")
    elif action == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "y")
    elif action == "die":
        os._exit(9)
    elif action == "announce":
        print(os.getpid(), flush=True)
        time.sleep(value)
    elif action == "sleep":
        time.sleep(value)
    return value + 1


def test_results_keep_the_order_of_the_items() -> None:
    with worker_pool(2) as parallel_map:
        items = [("late" if number % 3 == 0 else "", number) for number in range(20)]
        assert list(parallel_map(process_item, items)) == list(range(1, 21))
        assert list(parallel_map(process_item, [])) == []


def test_errors_of_the_function_are_raised_unchanged() -> None:
    with pytest.raises(CorruptFileError) as caught, worker_pool(2) as parallel_map:
        list(parallel_map(process_item, [("", 0), ("corrupt", 1), ("late", 2)]))
    assert (caught.value.hint, caught.value.path) == ("replace it", "x")
    with pytest.raises(OSError, match="No space") as full, worker_pool(1) as parallel_map:
        list(parallel_map(process_item, [("full", 1)]))
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, "y")


@pytest.mark.parametrize(("workers", "count", "crash"), [(1, 3, 1), (4, 40, 33)])
def test_a_crashed_process_is_reported_with_its_item(workers: int, count: int, crash: int) -> None:
    items = [("die", 700 + number) if number == crash else ("late", number) for number in range(count)]
    with pytest.raises(RunError) as caught, worker_pool(workers) as parallel_map:
        list(parallel_map(process_item, items))
    assert caught.value.message == f"a worker process was killed or crashed while it processed ('die', {700 + crash})"
    assert "--workers" in caught.value.hint


def test_leaving_the_pool_ends_busy_processes_at_once() -> None:
    with worker_pool(2) as parallel_map:
        assert next(parallel_map(process_item, [("", 0)] * 4 + [("sleep", 60)] * 8)) == 1
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def test_processes_end_when_their_command_is_killed(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(SLEEPING_COMMAND)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = subprocess.Popen(
        [sys.executable, tmp_path / "command.py"], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert command.stdout is not None
    workers = {int(command.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2
    assert all(is_running(pid) for pid in workers)
    command.send_signal(signal.SIGKILL)
    command.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in workers)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_there_is_a_process_for_each_usable_cpu() -> None:
    assert 1 <= default_workers() <= 32


def test_no_named_semaphore_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise Python's resource tracker warns of leaked semaphores when the command ends."""
    names: set[str] = set()
    for action, change in (("register", names.add), ("unregister", names.discard)):
        original = getattr(resource_tracker, action)

        def record(name: str, kind: str, original: Any = original, change: Any = change) -> None:
            if kind == "semaphore":
                change(name)
            original(name, kind)

        monkeypatch.setattr(resource_tracker, action, record)
    used = 0
    errors = []
    for items in ([("", 1)], [("full", 1)], [("die", 1)], [("sleep", 60)]):
        with suppress(OSError, RunError), worker_pool(1) as parallel_map:
            used += len(names)
            try:
                if items == [("sleep", 60)]:
                    raise RunError("interrupted")
                list(parallel_map(process_item, items))
            except (OSError, RunError) as error:
                errors.append(error)
                raise
        del parallel_map
        assert names == set(), items
    assert used > 0
    assert len(errors) == 3
