"""Reader of a run's log, `log.jsonl`: losses, validations and times as columns. Knows no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.text import shorten

LOG = "log.jsonl"
MAX_BYTES = 256 << 20
_MAX_LINE_BYTES = 1 << 20
_MAX_LOSSES = 50
_MAX_NAME_LENGTH = 100  # characters
_MAX_ITERATION = 2**53
_MAX_FOLDERS = 10_000  # that are searched for runs
_HINT = "start the run over: rmrkd train … --fresh"

Column = tuple[float | None, ...]


@dataclass(frozen=True)
class Curves:
    """The log of one run. All columns of steps have the same length, and so have those of validations.

    Attributes:
        path: The log.
        iterations, lr, total: Of each logged step; `total` is the sum of the weighted losses.
        losses, weighted: By name of the loss; None where a step does not have it.
        elapsed: Seconds of training up to the step, without evaluations; None where unknown.
        gradient_norm: None where unknown.
        validated, miou, validated_elapsed: Iteration, mIoU (0..1) and seconds of each validation.
        skipped: Number of steps without an update.
        incomplete: Whether the last line is incomplete: the run is still writing, or was killed.
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
    incomplete: bool


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


class _InvalidLine(ValueError):
    """The message says what is wrong with a line."""


def to_line(contents: Mapping[str, Any]) -> str:
    """Return a line of the log: strict JSON, with null in place of NaN and infinity."""
    return json.dumps(_finite(contents), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def find_log(path: Path) -> Path:
    """Return the log in a run directory, or the path itself where it is a file.

    Raises:
        RmrkdError: If there is none; the hint names runs in folders below.
    """
    if path.is_dir():
        if (path / LOG).is_file():
            return path / LOG
        below = _runs_below(path)
        hint = f"runs below it: {', '.join(str(run) for run in below)}" if below else "name a run directory: work_dirs"
        raise RmrkdError(f"`{path}` is not a run directory: it has no `{LOG}`", hint)
    if not path.is_file():
        problem = "is not a regular file" if path.exists() else "does not exist"
        raise RmrkdError(f"`{path}` {problem}", f"name a run directory, or its {LOG}")
    return path


def read_curves(path: Path) -> Curves:
    """Return the curves of a finished, stopped or running run. An incomplete last line is ignored.

    Args:
        path: A file, as returned by `find_log`.

    Raises:
        RmrkdError: If the file cannot be read, or a line is invalid.
    """
    steps, validations, skipped = _Steps(), _Validations(), 0
    lines, incomplete = _read_lines(path)
    for number, text in enumerate(lines, 1):
        try:
            line = _parse(text)
            if "val_miou" in line:
                _add_validation(validations, steps, line)
            elif "losses" in line or "weighted" in line:
                _add_step(steps, line)
            else:
                skipped += "skipped" in line
        except _InvalidLine as error:
            if number == len(lines) and incomplete:
                break
            raise RmrkdError(f"`{path}` line {number}: {error}", _HINT) from error
    if not steps.iterations and not validations.iterations:
        raise RmrkdError(f"`{path}` has no logged step yet", "wait for the first step, or name another run")
    return _curves(path, steps, validations, skipped, incomplete)


def _curves(path: Path, steps: _Steps, validations: _Validations, skipped: int, incomplete: bool) -> Curves:
    def column(key: str) -> Column:
        return tuple(row[key] for row in steps.rows)

    def columns_by_name(key: str) -> dict[str, Column]:
        names = dict.fromkeys(name for row in steps.rows for name in row[key])
        if len(names) > _MAX_LOSSES:
            raise RmrkdError(f"`{path}` names {len(names)} losses, at most {_MAX_LOSSES} are allowed", _HINT)
        return {name: tuple(row[key].get(name) for row in steps.rows) for name in names}

    return Curves(
        path, tuple(steps.iterations), column("lr"), column("total"), columns_by_name("losses"),
        columns_by_name("weighted"), tuple(steps.elapsed), column("gradient_norm"), tuple(validations.iterations),
        tuple(validations.miou), tuple(validations.elapsed), skipped, incomplete,
    )  # fmt: skip


def _read_lines(path: Path) -> tuple[list[bytes], bool]:
    """Return the lines, and whether the last one is incomplete (no line break)."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RmrkdError(f"cannot read `{path}`: {error.strerror}", f"name a run directory, or its {LOG}") from error
    if len(data) > MAX_BYTES:
        raise RmrkdError(f"`{path}` is not the log of a run: it is larger than {MAX_BYTES >> 20} MiB")
    lines = data.split(b"\n")
    last = lines.pop()
    return ([*lines, last], True) if last else (lines, False)


def _parse(text: bytes) -> dict[str, Any]:
    if len(text) > _MAX_LINE_BYTES:
        raise _InvalidLine(f"it has {len(text)} bytes, at most {_MAX_LINE_BYTES} are allowed")
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _InvalidLine("it is not JSON") from error
    if not isinstance(line, dict):
        raise _InvalidLine("it is not a mapping")
    iteration = line.get("iter")
    if not isinstance(iteration, int) or isinstance(iteration, bool) or not 0 <= iteration <= _MAX_ITERATION:
        raise _InvalidLine(f"`iter` is {_value_text(iteration)}, expected a whole number")
    return line


def _add_step(steps: _Steps, line: Mapping[str, Any]) -> None:
    iteration, previous = line["iter"], steps.iterations[-1] if steps.iterations else 0
    if steps.iterations and iteration <= previous:
        raise _InvalidLine(f"`iter` is {iteration}, after {previous}")
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
    elapsed_before = steps.elapsed[-1] if steps.elapsed else 0.0
    if elapsed is None and seconds is not None and elapsed_before is not None:  # logs of older versions
        elapsed = elapsed_before + seconds * (iteration - previous)
    steps.iterations.append(iteration)
    steps.rows.append(row)
    steps.elapsed.append(elapsed)


def _add_validation(validations: _Validations, steps: _Steps, line: Mapping[str, Any]) -> None:
    iteration = line["iter"]
    if validations.iterations and iteration <= validations.iterations[-1]:
        raise _InvalidLine(f"`iter` is {iteration}, after {validations.iterations[-1]}")
    if _is_undefined(line["val_miou"]):
        return  # no pixel had a class; older versions trained on such data, and wrote NaN
    miou = _number(line, "val_miou", least=0.0)
    if miou is None or miou > 1:
        raise _InvalidLine(f"`val_miou` is {_value_text(line['val_miou'])}, expected a ratio from 0 to 1")
    elapsed = _number(line, "elapsed", least=0.0)
    if elapsed is None and steps.elapsed:
        elapsed = steps.elapsed[-1]
    validations.iterations.append(iteration)
    validations.miou.append(miou)
    validations.elapsed.append(elapsed)


def _is_undefined(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(line: Mapping[str, Any], key: str, least: float = -math.inf) -> float | None:
    value = line.get(key)
    if value is None:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (abs(value) <= 1e30 and value >= least):  # NaN fails both comparisons
        raise _InvalidLine(f"`{key}` is {_value_text(value)}, expected a finite number")
    return float(value)


def _numbers(line: Mapping[str, Any], key: str) -> dict[str, float]:
    values = line.get(key, {})
    if not isinstance(values, dict):
        raise _InvalidLine(f"`{key}` is {_value_text(values)}, expected a number for each loss")
    if len(values) > _MAX_LOSSES or any(len(name) > _MAX_NAME_LENGTH for name in values):
        raise _InvalidLine(f"`{key}` has more than {_MAX_LOSSES} losses, or a name above {_MAX_NAME_LENGTH} characters")
    numbers = {name: _number(values, name) for name in values}
    return {name: number for name, number in numbers.items() if number is not None}


def _value_text(value: object) -> str:
    return shorten(ascii(value))


def _runs_below(folder: Path) -> list[Path]:
    """Return the first few runs in the folders one and two levels below."""
    patterns = (f"*/{LOG}", f"*/*/{LOG}")
    runs = (log.parent for pattern in patterns for log in islice(folder.glob(pattern), _MAX_FOLDERS))
    return sorted(islice(runs, 6))
