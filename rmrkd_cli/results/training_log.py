"""The log of a run, `log.jsonl`, as columns: what was lost, learned and spent at which iteration. Knows no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import escape_control

LOG = "log.jsonl"
MOST_BYTES = 256 << 20
_MOST_LINE_BYTES = 1 << 20
_MOST_LOSSES = 50
_MOST_NAME = 100  # characters
_LARGEST = 2**53  # an iteration
_LOOKED_AT = 10_000  # folders, when runs below a folder are named
_HINT = "a run writes it anew: rmrkd train … --fresh"

Column = tuple[float | None, ...]


@dataclass(frozen=True)
class Curves:
    """One run's log. All columns of steps are equally long, and so are those of validations.

    Attributes:
        path: Of the log.
        iterations, lr, total: Of each logged step; the total is of the weighted losses.
        losses, weighted: Of each loss; none where a step has it not.
        elapsed: Seconds of training until the step, evaluations left out; none where the log does not say.
        gradient_norm: None where the log does not say.
        validated, miou, validated_elapsed: Iteration, mIoU (0..1) and seconds of each validation.
        skipped: Steps whose update was left out.
        cut: The last line is not whole: the run is being written, or was killed.
    """

    path: Path
    iterations: tuple[int, ...]
    lr: Column
    total: Column
    losses: Mapping[str, Column]
    weighted: Mapping[str, Column]
    elapsed: Column
    gradient_norm: Column
    validated: tuple[int, ...]
    miou: tuple[float, ...]
    validated_elapsed: Column
    skipped: int
    cut: bool


@dataclass
class _Steps:
    iterations: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    elapsed: list[float | None] = field(default_factory=list)


@dataclass
class _Validations:
    iterations: list[int] = field(default_factory=list)
    miou: list[float] = field(default_factory=list)
    elapsed: list[float | None] = field(default_factory=list)


class _Strange(ValueError):
    """What is wrong with a line."""


def find_log(path: Path) -> Path:
    """The log of a run's directory, or the file itself.

    Raises:
        RmrkdError: When there is none; runs below the folder are named.
    """
    if path.is_dir():
        if (path / LOG).is_file():
            return path / LOG
        below = _runs_below(path)
        hint = f"below it: {', '.join(str(run) for run in below)}" if below else "a run's directory holds it: work_dirs"
        raise RmrkdError(f"`{path}` is no run: it holds no `{LOG}`", hint)
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise RmrkdError(f"`{path}` {what}", f"name a run's directory, or its {LOG}")
    return path


def read_curves(path: Path) -> Curves:
    """The log of a run that is finished, stopped or at work; its last line may be cut.

    Args:
        path: A file, as `find_log` gives it.

    Raises:
        RmrkdError: When it cannot be read, or naming the line that is none of a log.
    """
    steps, validations, skipped = _Steps(), _Validations(), 0
    lines, cut = _lines(path)
    for number, text in enumerate(lines, 1):
        try:
            line = _parsed(text)
            if "val_miou" in line:
                _add_validation(validations, steps, line)
            elif "losses" in line or "weighted" in line:
                _add_step(steps, line)
            else:
                skipped += "skipped" in line
        except _Strange as error:
            if number == len(lines) and cut:
                break
            raise RmrkdError(f"`{path}` line {number}: {error}", _HINT) from error
    if not steps.iterations and not validations.iterations:
        raise RmrkdError(f"`{path}` holds no logged step yet", "wait for the first one, or name another run")
    return _columns(path, steps, validations, skipped, cut)


def _columns(path: Path, steps: _Steps, validations: _Validations, skipped: int, cut: bool) -> Curves:
    def column(key: str) -> Column:
        return tuple(row[key] for row in steps.rows)

    def named(key: str) -> dict[str, Column]:
        names = dict.fromkeys(name for row in steps.rows for name in row[key])
        if len(names) > _MOST_LOSSES:
            raise RmrkdError(f"`{path}` names {len(names)} losses, at most {_MOST_LOSSES} are possible", _HINT)
        return {name: tuple(row[key].get(name) for row in steps.rows) for name in names}

    return Curves(
        path, tuple(steps.iterations), column("lr"), column("total"), named("losses"), named("weighted"),
        tuple(steps.elapsed), column("gradient_norm"), tuple(validations.iterations), tuple(validations.miou),
        tuple(validations.elapsed), skipped, cut,
    )  # fmt: skip


def _lines(path: Path) -> tuple[list[bytes], bool]:
    """Lines without their ends; whether the last one lacks its end."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise RmrkdError(
            f"`{path}` cannot be read: {error.strerror}", f"name a run's directory, or its {LOG}"
        ) from error
    if len(data) > MOST_BYTES:
        raise RmrkdError(f"`{path}` is no log of a run: it is larger than {MOST_BYTES >> 20} MiB")
    lines = data.split(b"\n")
    last = lines.pop()
    return ([*lines, last], True) if last else (lines, False)


def _parsed(text: bytes) -> dict[str, Any]:
    if len(text) > _MOST_LINE_BYTES:
        raise _Strange(f"it has {len(text)} bytes, at most {_MOST_LINE_BYTES} are possible")
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _Strange("it is not JSON") from error
    if not isinstance(line, dict):
        raise _Strange("it is not a mapping")
    _whole(line, "iter")
    return line


def _add_step(steps: _Steps, line: Mapping[str, Any]) -> None:
    iteration, before = line["iter"], steps.iterations[-1] if steps.iterations else 0
    if steps.iterations and iteration <= before:
        raise _Strange(f"`iter` is {iteration}, after {before}")
    weighted = _numbers(line, "weighted")
    row = {
        "lr": _number(line, "lr"),
        "losses": _numbers(line, "losses"),
        "weighted": weighted,
        "total": _number(line, "total"),
        "gradient_norm": _number(line, "gradient_norm", least=0.0),
    }
    if row["total"] is None and weighted:
        row["total"] = sum(weighted.values())
    elapsed, seconds = _number(line, "elapsed", least=0.0), _number(line, "seconds", least=0.0)
    known = steps.elapsed[-1] if steps.elapsed else 0.0
    if elapsed is None and seconds is not None and known is not None:
        elapsed = known + seconds * (iteration - before)
    steps.iterations.append(iteration)
    steps.rows.append(row)
    steps.elapsed.append(elapsed)


def _add_validation(validations: _Validations, steps: _Steps, line: Mapping[str, Any]) -> None:
    iteration = line["iter"]
    if validations.iterations and iteration <= validations.iterations[-1]:
        raise _Strange(f"`iter` is {iteration}, after {validations.iterations[-1]}")
    miou = _number(line, "val_miou", least=0.0)
    if miou is None or miou > 1:
        raise _Strange(f"`val_miou` is {_short(line['val_miou'])}, a ratio from 0 to 1 was expected")
    elapsed = _number(line, "elapsed", least=0.0)
    if elapsed is None and steps.elapsed:
        elapsed = steps.elapsed[-1]
    validations.iterations.append(iteration)
    validations.miou.append(miou)
    validations.elapsed.append(elapsed)


def _whole(line: Mapping[str, Any], key: str) -> None:
    value = line.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise _Strange(f"`{key}` is {_short(value)}, a whole number was expected")


def _number(line: Mapping[str, Any], key: str, least: float = -math.inf) -> float | None:
    value = line.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_amount(value, least):
        raise _Strange(f"`{key}` is {_short(value)}, a finite number was expected")
    return float(value)


def _is_amount(value: float, least: float) -> bool:
    return abs(value) <= 1e30 and value >= least  # NaN is not


def _numbers(line: Mapping[str, Any], key: str) -> dict[str, float]:
    held = line.get(key, {})
    if not isinstance(held, dict):
        raise _Strange(f"`{key}` is {_short(held)}, a number for each loss was expected")
    if len(held) > _MOST_LOSSES or any(len(name) > _MOST_NAME for name in held):
        raise _Strange(f"`{key}` has more than {_MOST_LOSSES} losses, or a name longer than {_MOST_NAME} characters")
    found = {name: _number(held, name) for name in held}
    return {name: value for name, value in found.items() if value is not None}


def _short(value: object) -> str:
    text = escape_control(ascii(value))
    return text if len(text) <= 60 else f"{text[:57]}…"


def _runs_below(folder: Path) -> list[Path]:
    """The first few runs one or two folders down."""
    found = (log.parent for pattern in (f"*/{LOG}", f"*/*/{LOG}") for log in islice(folder.glob(pattern), _LOOKED_AT))
    return sorted(islice(found, 6))
