"""Compare the results of two runs, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.endurance.watch import leftovers

_TIMES_AND_MEMORY = ("seconds", "data_seconds", "elapsed", "peak_memory")  # entries of a log line that may differ
_COMPARED_ENTRIES = (  # of a checkpoint
    "state_dict", "optimizer", "scaler", "own_optimizers", "iteration", "evaluated", "best_miou",
)  # fmt: skip


def differences(run_dir: Path, reference: Path) -> list[str]:
    """Return the differences between an interrupted run and its reference; empty if the run is right."""
    found = [f"`{name}` was left behind" for name in leftovers(run_dir)]
    for compare in (_student, _checkpoints, _log, _result):
        try:
            found += compare(run_dir, reference)
        except Exception as error:  # a missing or damaged file
            found.append(f"{compare.__name__.strip('_')}: {type(error).__name__}: {str(error)[:300]}")
    return found


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint."""
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def _student(run_dir: Path, reference: Path) -> list[str]:
    actual, expected = (load(folder / "student.pth")["state_dict"] for folder in (run_dir, reference))
    return [f"student.pth: {place}" for place in _unequal(actual, expected)][:3]


def _checkpoints(run_dir: Path, reference: Path) -> list[str]:
    """Compare last.pth and best.pth."""
    found = []
    for name in ("last.pth", "best.pth"):
        actual, expected = (_state(folder / name) for folder in (run_dir, reference))
        found += [f"{name}: {place}" for place in _unequal(actual, expected)][:3]
    return found


def _state(path: Path) -> dict[str, Any]:
    return {key: value for key, value in load(path).items() if key in _COMPARED_ENTRIES}


def _log(run_dir: Path, reference: Path) -> list[str]:
    actual, expected = (_log_lines(folder) for folder in (run_dir, reference))
    for number, (one, other) in enumerate(zip(actual, expected, strict=False), start=1):
        if one != other:
            return [f"log.jsonl, line {number}: {json.dumps(one)[:200]} instead of {json.dumps(other)[:200]}"]
    return [f"log.jsonl: {len(actual)} lines instead of {len(expected)}"] if len(actual) != len(expected) else []


def _log_lines(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key not in _TIMES_AND_MEMORY} for line in lines]


def _result(run_dir: Path, reference: Path) -> list[str]:
    actual, expected = (
        json.loads((folder / "result.json").read_text("utf-8"))["matrix"] for folder in (run_dir, reference)
    )
    return ["result.json: another matrix"] if actual != expected else []


def _unequal(actual: Any, expected: Any, place: str = "") -> list[str]:
    """Return where two nested structures of tensors and plain data differ."""
    if isinstance(actual, Tensor) and isinstance(expected, Tensor):
        same = actual.dtype == expected.dtype and torch.equal(actual, expected)
        return [] if same else [f"{place} differs"]
    if isinstance(actual, dict) and isinstance(expected, dict):
        if actual.keys() != expected.keys():
            return [f"{place or 'its entries'}: only one has {sorted(map(str, actual.keys() ^ expected.keys()))[:5]}"]
        return [found for key in actual for found in _unequal(actual[key], expected[key], f"{place}.{key}".strip("."))]
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple) and len(actual) == len(expected):
        pairs = zip(actual, expected, strict=True)
        return [found for number, pair in enumerate(pairs) for found in _unequal(*pair, f"{place}.{number}".strip("."))]
    return [] if actual == expected else [f"{place}: {str(actual)[:60]} instead of {str(expected)[:60]}"]
