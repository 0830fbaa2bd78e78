"""The result record, `result.json`: reading, checking and writing; `record_schema.py` has the schema.

A record may come from anyone, so every type, length and size is bounded, and metrics must follow from the counts.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.results.record_schema import FORMAT, ResultSchema
from rmrkd_cli.terminal.sanitize import CONTROL, escape_control
from rmrkd_cli.terminal.text import shorten

Record = dict[str, Any]

MAX_BYTES = 64 << 20  # a confusion matrix of 1000 classes, the counts of 20,000 images
_MAX_DEPTH = 20
_HINT = "rmrkd eval CHECKPOINT --json result.json"
_LISTED = 10  # problems
_STRING_OR_SCALARS = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\[\]{}"]*\]')


def read_record(path: Path) -> Record:
    """Return the record in a `result.json`.

    Raises:
        RmrkdError: If it is not a valid record; the message lists the problems.
    """
    return _validated(_read_json(path), f"`{path}`")


def read_records(path: Path) -> list[Record]:
    """Return the record of a `result.json`, or the records in a list that `rmrkd eval --json` wrote.

    Raises:
        RmrkdError: See `read_record`.
    """
    contents = _read_json(path)
    if not isinstance(contents, list) or not contents:
        return [_validated(contents, f"`{path}`")]
    return [_validated(each, f"result {number} of `{path}`") for number, each in enumerate(contents, 1)]


def _validated(record: Any, where: str) -> Record:
    if not isinstance(record, dict) or record.get("format") != FORMAT or not {"metrics", "protocol"} <= record.keys():
        raise RmrkdError(f"{where} is not a result file of `rmrkd`", _HINT)
    try:
        ResultSchema.model_validate(record)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [f"  {_problem_text(problem)}" for problem in problems[:_LISTED]]
        more = [f"  and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        message = f"{len(problems)} problem(s) in result file {escape_control(where)}:\n"
        raise RmrkdError(message + "\n".join(lines + more), _HINT) from error
    return record


def _problem_text(problem: Any) -> str:
    where = escape_control(".".join(str(part)[:100] for part in problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("value_error", "missing"):
        return f"{where}: {message}" if where else message
    return f"{where}: {message[:1].lower()}{message[1:]}, got {shorten(ascii(problem['input']))}"


def _read_json(path: Path) -> Any:
    def reject(constant: str) -> float:
        raise ValueError(f"{constant} is not allowed in JSON")

    try:
        if not path.is_file():
            raise RmrkdError(f"result file `{path}` does not exist", _HINT)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        contents = json.loads(data.decode("utf-8"), parse_constant=reject)
        if _is_deeper(contents, _MAX_DEPTH):
            raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise RmrkdError(f"`{path}` is not a result file: {error}", _HINT) from error
    return contents


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether lists and mappings are nested in more than so many levels."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return parts is not None and (levels == 0 or any(_is_deeper(part, levels - 1) for part in parts))


def to_json(contents: Any) -> str:
    """Return strict JSON, indented, with each list of numbers on one line.

    Characters that a terminal would act on are written as escapes. NaN and infinity raise ValueError.
    """
    text = json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False)
    text = _STRING_OR_SCALARS.sub(lambda found: _on_one_line(found[0]), text) + "\n"
    return CONTROL.sub(lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text)


def _on_one_line(part: str) -> str:
    return part if part.startswith('"') else f"[{' '.join(part[1:-1].split())}]"
