"""The results that are kept in the repository: records as `rmrkd compare` reads them, without any network.

Trainings take hours and their files are large, so the page and everything that follows from finished trainings need
these records alone. A record also contains the command of its training, and is used for the same command only.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from benchmarks.camvid.jobs import Work, arguments_of
from benchmarks.camvid.plan import PRESETS, Files
from benchmarks.methods.runs import ROOT, Training
from rmrkd_cli.results.record import Record, read_record, to_json
from rmrkd_cli.results.training_log import find_log, read_curves

TRIALS = "trials"


def path_of(files: Files, training: Training) -> Path:
    """Return the file of a training of one seed."""
    place = files.results / training.folder.relative_to(files.folder)
    return place.with_name(f"{place.name}-seed-{training.seeds[0]}.json")


def find(files: Files, training: Training) -> Record | None:
    """Return the record of a training of one seed; None if there is none, or one of another command."""
    return find_record(files, training, path_of(files, training))


def find_record(files: Files, work: Work, path: Path) -> Record | None:
    """Return the record in a file; None if there is none, or one of another command."""
    record = read_record(path) if path.is_file() else None
    return record if record and record.get("command") == command_of(files, work) else None


def keep(files: Files, training: Training) -> str | None:
    """Keep the result of a finished training of one seed.

    Return the SHA-256 of the student that the same command gave before, if it was another.
    """
    [run] = training.runs()
    before = find(files, training)
    curve = read_curves(find_log(run.run_dir.path))
    validated = dict(zip(map(str, curve.validated), curve.miou, strict=True))
    record = {**read_record(run.run_dir.result), "validated": validated}
    keep_record(files, record, training, path_of(files, training))
    earlier = (before or record)["checkpoint_sha256"]
    return None if earlier == record["checkpoint_sha256"] else str(earlier)


def keep_record(files: Files, record: Record, work: Work, path: Path) -> None:
    """Write a record with its command; trials without the counts of each image."""
    contents = {**record, "checkpoint": _with_names(files, record["checkpoint"]), "command": command_of(files, work)}
    if path.is_relative_to(files.results / TRIALS):
        contents.pop("per_image", None)
    write(path, contents)


def write(path: Path, contents: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(contents), encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Return what `write` wrote; empty if there is no file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def is_marked(mark: Path, command: str) -> bool:
    """Return whether this command has ended and left its mark in the work folder."""
    return mark.is_file() and mark.read_text(encoding="utf-8") == command


def command_of(files: Files, work: Work) -> str:
    """Return the command from the root of the repository, with names in place of the folders of this machine."""
    return _with_names(files, shlex.join(["rmrkd", *arguments_of(work)]))


def _with_names(files: Files, text: str) -> str:
    names = {files.data: "DATA", files.weights: "WEIGHTS", files.folder: "WORK"}
    names[PRESETS] = PRESETS.relative_to(ROOT).as_posix()
    for folder in sorted(names, key=lambda path: -len(str(path))):  # those inside others first
        whole_path = rf"(?<![\w/.-]){re.escape(str(folder))}(?![\w.-])"
        text = re.sub(whole_path, names[folder], text)
    return text
