"""The number of processes that read images."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from rmrkd_cli.data import loader_processes
from rmrkd_cli.data.loader_processes import count_loader_processes, evaluation_bytes
from rmrkd_cli.storage import resources


@pytest.mark.parametrize(
    ("cores", "on_gpu", "local_workers", "expected"),
    [
        (16, True, 1, 15),
        (96, True, 8, 11),
        (256, True, 8, 16),
        (8, True, 8, 1),
        (4, True, 1, 3),
        (2, True, 1, 1),
        (1, True, 1, 1),
        (2, False, 1, 2),
        (64, False, 1, 2),
        (2, False, 2, 1),
        (1, False, 1, 1),
    ],
)
def test_the_cores_are_shared_by_the_workers(
    cores: int, on_gpu: bool, local_workers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_processes, "usable_cores", lambda: cores)
    assert count_loader_processes("auto", on_gpu=on_gpu, local_workers=local_workers) == expected
    assert count_loader_processes(5, on_gpu=on_gpu, local_workers=local_workers) == 5
    assert count_loader_processes(0, on_gpu=on_gpu, local_workers=local_workers) == 0


def test_batches_fit_into_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container has 64 MB by default; two processes with batches of 21 MB ended in a bus error."""
    monkeypatch.setattr(loader_processes, "usable_cores", lambda: 16)
    monkeypatch.setattr(loader_processes, "_SHARED_MEMORY", tmp_path)
    batch = 2 * 512 * 1024 * 20
    for megabytes, expected in ((64, 1), (1000, 8), (8000, 15)):
        status = SimpleNamespace(f_bavail=megabytes << 8, f_frsize=4096)
        monkeypatch.setattr(os, "statvfs", lambda _, status=status: status)
        assert count_loader_processes("auto", on_gpu=True, local_workers=1, item_bytes=batch) == expected


def test_the_size_of_an_evaluation_image() -> None:
    assert evaluation_bytes((2048, 1024)) == 2048 * 1024 * 20
    assert evaluation_bytes((100, 100), (0.5, 1.0), flip=True) == 10_000 * (12 * 2.5 + 8)


@pytest.mark.parametrize(("affinity", "limit", "expected"), [(8, None, 8), (8, 3.5, 3), (8, 0.5, 1), (2, 16.0, 2)])
def test_usable_cores(affinity: int, limit: float | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(resources, "cpu_limit", lambda: limit)
    assert resources.usable_cores() == expected
