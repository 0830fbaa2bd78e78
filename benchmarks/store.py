"""Results stored between runs, so that an interrupted run can resume and one benchmark can be repeated."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from benchmarks.result import Result

_SAME = ("networks", "measured on")  # entries that results of two machines share


class Store:
    """The results by name.

    Args:
        path: A JSON file; None: nothing is stored.
        machine: From `describe_machine`.
        keep: Whether results of another machine of the same kind stay, with the description of that machine, if they
            are of the same networks; else they are discarded.
    """

    def __init__(self, path: Path | None, machine: dict[str, str], *, keep: bool = False) -> None:
        self.path, self.machine = path, machine
        self.results: dict[str, Result] = {}
        if path is not None and path.exists():
            stored = json.loads(path.read_text())
            if keep and all(stored["machine"].get(key) == machine.get(key) for key in _SAME):
                self.machine = stored["machine"]
            if stored["machine"] == self.machine:
                self.results = {name: Result.read(each) for name, each in stored["results"].items()}

    def put(self, result: Result) -> None:
        self.results[result.name] = result
        self._write()

    def clear(self) -> None:
        self.results.clear()
        self._write()

    def drop(self, name: str) -> None:
        """Delete the older result of a benchmark that now fails."""
        self.results.pop(name, None)
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        results = {name: asdict(result) for name, result in self.results.items()}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"machine": self.machine, "results": results}, indent=1))
        os.replace(partial, self.path)
