"""Where the results of CamVid are kept in the repository."""

from __future__ import annotations

from pathlib import Path

from benchmarks.camvid.plan import PRESETS, Files
from benchmarks.records import Records
from benchmarks.training import ROOT, Training
from rmrkd_cli.results.record import Record

TRIALS = "trials"


def records_of(files: Files) -> Records:
    names = {files.data: "DATA", files.weights: "WEIGHTS", files.folder: "WORK"}
    return Records({**names, PRESETS: PRESETS.relative_to(ROOT).as_posix()})


def path_of(files: Files, training: Training) -> Path:
    """Return the file of a training of one seed."""
    place = files.results / training.folder.relative_to(files.folder)
    return place.with_name(f"{place.name}-seed-{training.seeds[0]}.json")


def find(files: Files, training: Training) -> Record | None:
    """Return the record of a training of one seed; None if there is none, or one of another command."""
    return records_of(files).find(training, path_of(files, training))


def keep(files: Files, training: Training) -> str | None:
    """Keep the result of a finished training of one seed, of trials without the counts of each image.

    Return the SHA-256 of the student that the same command gave before, if it was another.
    """
    path = path_of(files, training)
    per_image = not path.is_relative_to(files.results / TRIALS)
    return records_of(files).keep_training(training, path, per_image=per_image)
