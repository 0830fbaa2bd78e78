"""Results that are kept in the repository: records as `rmrkd compare` reads them, without any network.

Trainings take hours and their files are large, so pages and everything that follows from finished trainings need
these records alone. A record also contains the command of its training, and is used for the same command only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import Work, arguments_of
from benchmarks.training import Training
from rmrkd_cli.results.record import Record, read_record, to_json
from rmrkd_cli.results.training_log import find_log, read_curves
from rmrkd_cli.storage.atomic import write_text


@dataclass(frozen=True)
class Records:
    """Records whose commands name no folder of this machine.

    Attributes:
        names: What a command has in place of a folder.
    """

    names: Mapping[Path, str]

    def find(self, work: Work, path: Path) -> Record | None:
        """Return the record in a file; None if there is none, or one of another command."""
        record = read_record(path) if path.is_file() else None
        return record if record and record.get("command") == self.command_of(work) else None

    def keep_training(self, training: Training, path: Path, *, per_image: bool = True) -> str | None:
        """Keep the result of a finished training of one seed, with its curve and its peak memory in bytes.

        Return the SHA-256 of the student that the same command gave before, if it was another.
        """
        [run] = training.runs()
        before = self.find(training, path)
        log = find_log(run.run_dir.path)
        curves = read_curves(log)
        validated = dict(zip(map(str, curves.validated), curves.miou, strict=True))
        record = {**read_record(run.run_dir.result), "validated": validated, "peak_memory": _peak_memory(log)}
        self.keep(record, training, path, per_image=per_image)
        earlier = (before or record)["checkpoint_sha256"]
        return None if earlier == record["checkpoint_sha256"] else str(earlier)

    def keep(self, record: Record, work: Work, path: Path, *, per_image: bool = True) -> None:
        """Write a record with its command.

        Args:
            per_image: Whether to keep the counts of each image, which are most of a record.
        """
        contents = {**record, "checkpoint": self._with_names(record["checkpoint"]), "command": self.command_of(work)}
        if not per_image:
            contents.pop("per_image", None)
        write(path, contents)

    def command_of(self, work: Work) -> str:
        """Return the command from the root of the repository."""
        return self._with_names(shlex.join(["rmrkd", *arguments_of(work)]))

    def _with_names(self, text: str) -> str:
        for folder in sorted(self.names, key=lambda path: -len(str(path))):  # those inside others first
            whole_path = rf"(?<![\w/.-]){re.escape(str(folder))}(?![\w.-])"
            text = re.sub(whole_path, self.names[folder], text)
        return text


def _peak_memory(log: Path) -> float | None:
    """Return the peak memory of the process in its last logged step, in bytes."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    peaks = [line["peak_memory"] for line in lines if line.get("peak_memory") is not None]
    return float(peaks[-1]) if peaks else None


def write(path: Path, contents: Any) -> None:
    """Write a JSON file at once: other threads read it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(to_json(contents), path)


def read(path: Path) -> dict[str, Any]:
    """Return what `write` wrote; empty if there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
