"""Results of the trials, and a table of them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_COLUMNS = ("experiment", "trials", "passed", "what was hit", "slowest reaction")


class Results:
    """`results.jsonl`: one line for each trial, appended when it ends; the last line of a trial counts."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed, self._lock = path, seed, threading.Lock()

    def add(self, line: Line) -> None:
        with self._lock, self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"seed": self.seed, **line}) + "\n")

    def lines(self, experiment: str) -> dict[int, Line]:
        """Return number → result line of an experiment's trials with this seed."""
        if not self.path.is_file():
            return {}
        every = [json.loads(text) for text in self.path.read_text(encoding="utf-8").splitlines()]
        mine = (line for line in every if line["experiment"] == experiment and line["seed"] == self.seed)
        return {line["trial"]: line for line in sorted(mine, key=lambda line: int(line["trial"]))}

    def missing(self, experiment: str, trials: int) -> list[int]:
        """Return the trials without a result; trials that were not possible are repeated."""
        known = self.lines(experiment)
        return [number for number in range(trials) if known.get(number, {"passed": None})["passed"] is None]


def table(results: Results, experiments: list[str]) -> str:
    """Return a Markdown table with one row for each experiment, then the failures."""
    rows, failures = [_COLUMNS, ("---",) * len(_COLUMNS)], []
    for name in experiments:
        lines = list(results.lines(name).values())
        if lines:
            rows.append(_row(name, lines))
            failures += [f"- {name} {line['trial']}: {line['problem']}" for line in lines if line["passed"] is False]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return text + ("\n\nFailed:\n\n" + "\n".join(failures) if failures else "")


def failed(results: Results, experiments: list[str]) -> bool:
    return any(line["passed"] is False for name in experiments for line in results.lines(name).values())


def _row(name: str, lines: list[Line]) -> tuple[str, ...]:
    possible = [line for line in lines if line["passed"] is not None]
    if not possible:
        return name, "0", "–", str(lines[0]["problem"]), "–"
    passed = sum(line["passed"] for line in possible)
    events = Counter(event for line in possible for event in line["hits"])
    reactions = [line["reaction"] for line in possible if line["reaction"] is not None]
    return (
        name, str(len(possible)), str(passed),
        ", ".join(f"{phase} {count}" for phase, count in events.most_common()) or "–",
        f"{max(reactions):.1f} s" if reactions else "–",
    )  # fmt: skip
