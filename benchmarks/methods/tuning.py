"""The choice of weights and options by `rmrkd tune`: for each method the same number of short trainings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.methods.runs import Conditions, teacher_file, trains_teacher
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import OWN_METHOD
from rmrkd_cli.training.tuning.space import search_space

_SHARE = 3  # a trial has this share of the iterations


def best_file(conditions: Conditions, name: str) -> Path:
    """Return the recipe that the search for a method writes when it ends."""
    return conditions.folder / "tuning" / name / "best.yaml"


def iterations(conditions: Conditions) -> int:
    """Return the iterations of a trial."""
    return max(1, load_preset(conditions.preset, overrides=list(conditions.settings)).schedule.iters // _SHARE)


def arguments(conditions: Conditions, name: str, trials: int) -> list[str]:
    """Return the arguments of `rmrkd` that begin or continue the search for a method.

    The teacher of the first seed, which must be trained, teaches all trials.
    """
    file = teacher_file(conditions, conditions.seeds[0]) if trains_teacher(conditions) else None
    teacher = ["--teacher-checkpoint", str(file)] if file is not None else []
    method = ["--method", name] if name != OWN_METHOD else []
    return [
        "tune", "--preset", conditions.preset, *method, "--trials", str(trials),
        "--max-iters", str(iterations(conditions)), "--work-dir", str(best_file(conditions, name).parent),
        "--device", conditions.device, "--resume", *teacher,
        *(part for text in conditions.settings for part in ("--set", text)),
    ]  # fmt: skip


def settings(conditions: Conditions, name: str) -> list[str]:
    """Return what the search for a method chose, as `KEY.PATH=VALUE`."""
    losses = yaml.safe_load(best_file(conditions, name).read_text(encoding="utf-8"))["preset"]["losses"]
    return [
        f"losses.{loss}.{option}={json.dumps(value)}"
        for loss, options in losses.items()
        for option, value in options.items()
        if option != "type"
    ]


def searched(conditions: Conditions, name: str, settings: Sequence[str]) -> list[str]:
    """Return those of the settings among which the search for a method chose, without `losses.`."""
    preset = load_preset(conditions.preset, method=name, overrides=list(conditions.settings))
    keys = {parameter.key for parameter in search_space(preset)}
    texts = (text.removeprefix("losses.") for text in settings)
    return [text for text in texts if text.partition("=")[0] in keys]
