"""What a run tells while it goes: `log.jsonl`, TensorBoard, and the meter on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmrkd_cli.console import Meter, Screen, losses_line
from rmrkd_cli.engine.run_dir import RunDir


class Journal:
    """Written by the first worker only; on the others every call is silent.

    Args:
        role: Title of the meter.
        total, done: Iterations of the run, and those before it was resumed.
        lines: Those that `log.jsonl` holds.
    """

    def __init__(self, files: RunDir, shown: Screen, role: str, *, total: int, done: int, lines: int) -> None:
        self._files, self._shown, self._role = files, shown, role
        self.lines = lines
        self._meter: Meter | None = shown.meter(role, total, done)
        self._losses = self._best = ""
        self._writer = None
        if not shown.quiet:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(files.path / "tensorboard"), purge_step=done + 1 if done else None)

    def tick(self, iteration: int) -> None:
        """Moves the meter."""
        if self._meter is not None:
            self._meter.update(iteration)

    def step(
        self, iteration: int, *, lr: float, losses: Mapping[str, float], weights: Mapping[str, float], **cost: float
    ) -> None:
        """A logged step: every loss raw and weighted, and what the step cost.

        Args:
            cost: `seconds` and `data_seconds` a step, `peak_memory` in bytes.
        """
        if self._writer is None:
            return
        weighted = {name: value * weights[name] for name, value in losses.items()}
        line = {"iter": iteration, "lr": lr, "losses": dict(losses), "weighted": weighted}
        self._append({**line, "total": sum(weighted.values()), **cost})
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}", value, iteration)
            self._writer.add_scalar(f"weighted/{name}", weighted[name], iteration)
        self._writer.add_scalar("lr", lr, iteration)
        self._losses = losses_line(weighted)
        if self._meter is not None:
            self._meter.update(iteration, self._losses + self._best)

    def validation(self, iteration: int, miou: float, best: float) -> None:
        """An evaluation's mIoU (0..1), and the best so far."""
        if self._writer is None:
            return
        self._best = f"  best mIoU {100 * best:.2f}"
        if self._meter is not None:
            self._meter.update(iteration, self._losses + self._best)
        self._writer.add_scalar("mIoU", 100 * miou, iteration)
        self._append({"iter": iteration, "val_miou": miou, "best_miou": best})
        mark = " (best)" if miou >= best else ""
        self._shown.say(f"{self._role} iteration {iteration}: mIoU {100 * miou:.2f}{mark}")

    def skipped(self, iteration: int, told: str) -> None:
        """A step whose update was left out, and why."""
        if self._writer is None:
            return
        self._append({"iter": iteration, "skipped": told})
        self._shown.say(f"{told}: this step's update is left out")

    def left_out(self, iteration: int, messages: Sequence[str], new: Sequence[str]) -> None:
        """Training images that could not be read; the new ones are told."""
        if self._writer is None:
            return
        self._append({"iter": iteration, "left_out": list(messages)})
        for message in new:
            self._shown.say(f"left out, the next image takes its place: {message}")

    def flush(self) -> None:
        """Before a checkpoint: nothing that it counts may still wait in memory."""
        if self._writer is not None:
            self._writer.flush()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._files.append_log(line)
        self.lines += 1

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()
        if self._writer is not None:
            self._writer.close()
