"""Where a run stands; all of it is in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Progress:
    """What goes on where it stopped, besides weights and optimizer.

    Attributes:
        iteration: Optimizer steps taken (or left out, see `skipped`).
        evaluated: Iteration of the last evaluation that was logged and saved.
        evaluated_at: Where that was in the schedule, in its iterations.
        best_miou: The best mIoU so far (0..1), -1 before the first evaluation.
        best_iteration: Its iteration, 0 before the first.
        seconds: Spent in training steps, evaluations and checkpoints not counted.
        data_seconds: The part of them spent waiting for images.
        skipped: Steps whose update was left out since a loss or gradient was not finite.
        skipped_in_row: The last of them that followed each other.
        overflows_in_row: Steps that fp16's gradient scaler left out, the last that followed each other.
        left_out: Training images that could not be read and were left out, each counted as often.
        left_out_files: What is wrong with each, once.
        weights: Of the losses whose weights were computed at the start, by their names.
        over: A run that is bounded by time has taken its last step.
        log_lines: Lines of `log.jsonl` that were written.
        changes: What `--force` changed, and from which iteration on.
    """

    iteration: int = 0
    evaluated: int = 0
    evaluated_at: float = 0.0
    best_miou: float = -1.0
    best_iteration: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    overflows_in_row: int = 0
    left_out: int = 0
    left_out_files: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    over: bool = False
    log_lines: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)

    def saved(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Progress:
        """From the entries of a checkpoint, which may be others' too."""
        return cls(**{entry.name: saved[entry.name] for entry in fields(cls) if entry.name in saved})
