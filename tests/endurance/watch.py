"""Find out what a run is doing from its run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ITERS, EVAL_INTERVAL = 48, 16


class Watch:
    """Watches a run directory; create it before the command starts."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._old_lines = set(self._lines())
        self._old_partials = set(self._partials())
        self._old_newest = newest_checkpoint(run_dir)
        self.done = max((line.get("iter", 0) for line in map(_parsed, self._old_lines)), default=0)

    def new_line(self) -> dict[str, Any]:
        """Return the last log line if this command wrote it, else {}; a resumed run first truncates the log."""
        lines = self._lines()
        return _parsed(lines[-1]) if lines and lines[-1] not in self._old_lines else {}

    def new_partials(self) -> set[str]:
        """Return the names of checkpoints that are being written."""
        return self._partials() - self._old_partials

    def evaluating(self) -> bool:
        """Return whether a validation follows the last logged iteration and has no result yet."""
        line = self.new_line()
        return "losses" in line and (line["iter"] % EVAL_INTERVAL == 0 or line["iter"] == ITERS)

    def phase(self) -> str:
        """Return the phase of the run; `end` is after the last validation, when student and result are written."""
        if self.new_partials() or not self._named_twice():
            return "checkpoint"
        line = self.new_line()
        if not line:
            return "start-up"
        if self.evaluating():
            return "evaluation"
        return "end" if line.get("iter") == ITERS else "step"

    def _named_twice(self) -> bool:
        """Return whether `last.pth` is the newest checkpoint; it is linked after `iter_N.pth`."""
        newest = newest_checkpoint(self.run_dir)
        with suppress(OSError):
            return newest == self._old_newest or newest is None or newest.samefile(self.run_dir / "last.pth")
        return False

    def _lines(self) -> list[str]:
        try:
            text = (self.run_dir / "log.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return text[: text.rfind("\n") + 1].splitlines()  # without an incomplete line

    def _partials(self) -> set[str]:
        return {path.name for path in _hidden(self.run_dir) if path.name.startswith(".iter_")}


def checkpoints(run_dir: Path) -> list[Path]:
    """`iter_N.pth`, oldest first."""
    return sorted(run_dir.glob("iter_*.pth"), key=lambda path: int(path.stem.removeprefix("iter_")))


def newest_checkpoint(run_dir: Path) -> Path | None:
    return next(reversed(checkpoints(run_dir)), None)


def leftovers(run_dir: Path) -> list[str]:
    """Return the names of incomplete files."""
    return sorted(path.name for path in run_dir.glob(".*") if path.suffix in (".partial", ".link"))


def _hidden(run_dir: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from (path for path in run_dir.iterdir() if path.suffix == ".partial")


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
