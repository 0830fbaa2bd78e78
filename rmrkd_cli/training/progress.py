"""The progress of a run; every checkpoint contains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Progress:
    """State of a run besides weights and optimizers. The names are the entries of a checkpoint.

    Attributes:
        iteration: Optimizer steps, skipped ones included.
        evaluated: Iteration of the last validation that was logged and saved.
        evaluated_at: Position of that validation in the schedule, in iterations.
        best_miou: Best mIoU so far (0..1); -1 before the first validation.
        best_iteration: Its iteration; 0 before the first validation.
        seconds: Training time, without validations and checkpoints.
        data_seconds: The part of it spent waiting for images.
        skipped: Steps without an update because a loss or gradient was infinite or NaN.
        skipped_in_row: Length of the current series of such steps.
        overflows_in_row: Length of the current series of steps that the fp16 gradient scaler skipped.
        left_out: How often another image replaced an unreadable one.
        left_out_files: A message for each unreadable file.
        weights: Loss name → weight, for weights computed at the start of the run.
        over: A run with a time budget has taken its last step.
        log_lines: Lines in `log.jsonl`.
        changes: Settings that changed when the run was resumed, by `--force` or to train further, with the iteration.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the entries for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Progress:
        """Read the progress from the entries of a checkpoint; other entries are ignored."""
        return cls(**{entry.name: saved[entry.name] for entry in fields(cls) if entry.name in saved})
