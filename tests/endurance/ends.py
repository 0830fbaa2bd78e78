"""Whether two runs ended alike, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.endurance.watch import leftovers

_OF_THE_MACHINE = ("seconds", "data_seconds", "elapsed", "peak_memory")  # of a log line; all else must be equal
_OF_THE_RUN = (  # of a checkpoint
    "state_dict", "optimizer", "scaler", "own_optimizers", "iteration", "evaluated", "best_miou",
)  # fmt: skip


def differences(run_dir: Path, reference: Path) -> list[str]:
    """In what a run that was interrupted differs from the one that was not; nothing is as it should be."""
    found = [f"`{name}` was left behind" for name in leftovers(run_dir)]
    for compare in (_student, _checkpoints, _log, _result):
        try:
            found += compare(run_dir, reference)
        except Exception as error:  # a file that is missing, cut, or not what it should be
            found.append(f"{compare.__name__.strip('_')}: {type(error).__name__}: {str(error)[:300]}")
    return found


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, as anyone would read it."""
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def _student(run_dir: Path, reference: Path) -> list[str]:
    ours, theirs = (load(folder / "student.pth")["state_dict"] for folder in (run_dir, reference))
    return [f"student.pth: {place}" for place in _unequal(ours, theirs)][:3]


def _checkpoints(run_dir: Path, reference: Path) -> list[str]:
    """The last one, and the best one: a kill between an evaluation and its checkpoint must not lose it."""
    found = []
    for name in ("last.pth", "best.pth"):
        ours, theirs = (_state(folder / name) for folder in (run_dir, reference))
        found += [f"{name}: {place}" for place in _unequal(ours, theirs)][:3]
    return found


def _state(path: Path) -> dict[str, Any]:
    return {key: value for key, value in load(path).items() if key in _OF_THE_RUN}


def _log(run_dir: Path, reference: Path) -> list[str]:
    ours, theirs = (_log_lines(folder) for folder in (run_dir, reference))
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), start=1):
        if one != other:
            return [f"log.jsonl, line {number}: {json.dumps(one)[:200]} in place of {json.dumps(other)[:200]}"]
    return [f"log.jsonl: {len(ours)} lines in place of {len(theirs)}"] if len(ours) != len(theirs) else []


def _log_lines(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key not in _OF_THE_MACHINE} for line in lines]


def _result(run_dir: Path, reference: Path) -> list[str]:
    ours, theirs = (
        json.loads((folder / "result.json").read_text("utf-8"))["matrix"] for folder in (run_dir, reference)
    )
    return ["result.json: another matrix"] if ours != theirs else []


def _unequal(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Where two nests of plain data and tensors differ."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        same = ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        return [] if same else [f"{place} differs"]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return [f"{place or 'its entries'}: only one has {sorted(map(str, ours.keys() ^ theirs.keys()))[:5]}"]
        return [found for key in ours for found in _unequal(ours[key], theirs[key], f"{place}.{key}".strip("."))]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        return [found for number, pair in enumerate(pairs) for found in _unequal(*pair, f"{place}.{number}".strip("."))]
    return [] if ours == theirs else [f"{place}: {str(ours)[:60]} in place of {str(theirs)[:60]}"]
