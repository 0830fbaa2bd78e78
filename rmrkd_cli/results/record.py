"""What a result record may hold: read from strangers' files, so every type, length and size is bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import CONTROL, escape_control

FORMAT = 1
MAX_BYTES = 64 << 20  # a confusion matrix of 1000 classes, the counts of 20,000 images
_MAX_DEPTH = 20
_HINT = "rmrkd eval CHECKPOINT --json result.json"
_SHOWN = 10  # problems
_ROUNDED = 1e-4  # what a figure may be off the one its counts give

Line = Annotated[str, Field(max_length=5000)]
Whole = Annotated[int, Field(ge=0, le=2**63 - 1)]
Amount = Annotated[float, Field(ge=0.0, le=1e15)]
Weight = Annotated[float, Field(ge=0.0, le=1e36)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ratios = Annotated[list[Ratio | None], Field(max_length=1000)]
Size = Annotated[list[Annotated[int, Field(ge=1, le=16_384)]], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    """Types as written, nothing converted; keys of later versions are left alone."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Protocol(_Part):
    dataset: Line
    split: Line
    images: Whole
    fingerprint: Line
    classes: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(min_length=1, max_length=1000)]
    scale: Size  # (width, height)
    scales: Annotated[list[Annotated[float, Field(gt=0.0, le=100.0)]], Field(min_length=1, max_length=100)]
    flip: bool
    mode: Line
    window: Size | None = None  # (height, width), of a window that slides
    stride: Size | None = None

    @model_validator(mode="after")
    def _windows(self) -> _Protocol:
        """Older results have neither key, and are of whole images."""
        given = self.window is not None and self.stride is not None
        if given != (self.mode == "slide") or (self.window is None) != (self.stride is None):
            raise ValueError(f"mode {self.mode[:60]!r} with window {self.window} and stride {self.stride}")
        if self.window and self.stride and any(map(int.__gt__, self.stride, self.window)):
            raise ValueError(f"stride {self.stride} is more than the window {self.window}")
        return self


class _Metrics(_Part):
    miou: Ratio | None
    macc: Ratio | None
    aacc: Ratio | None
    iou: Ratios
    accuracy: Ratios
    dice: Ratios
    mdice: Ratio | None = None


class _PerImage(_Part):
    """The counts of every image, in the order of the samples.

    counts: One flat list an image, four numbers for each class that occurs in truth or prediction:
        class, pixels that are right, pixels of the truth, pixels predicted.
    """

    names: Annotated[list[Line], Field(max_length=1_000_000)]
    counts: Annotated[list[Annotated[list[Whole], Field(max_length=4000)]], Field(max_length=1_000_000)]


class _Training(_Part):
    iterations: Whole | None = None
    seconds: Amount | None = None
    seconds_per_step: Amount | None = None
    workers: Whole | None = None
    batch_size: Whole | None = None
    accumulate: Whole | None = None
    time_budget: Amount | None = None  # seconds, where the run was bounded by time
    device: Line | None = None
    weights: Annotated[dict[Line, Weight], Field(max_length=100)] | None = None  # of the distillation losses


class _Latency(_Part):
    median_ms: Amount
    low_ms: Amount
    high_ms: Amount


class _Result(_Part):
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    protocol: _Protocol
    metrics: _Metrics
    matrix: Annotated[list[Annotated[list[Whole], Field(max_length=1000)]], Field(max_length=1000)] | None = None
    per_image: _PerImage | None = None
    label: Line | None = None
    name: Line | None = None
    role: Line | None = None
    method: Line | None = None
    seed: Whole | None = None
    iterations: Whole | None = None
    checkpoint: Line | None = None
    checkpoint_sha256: Hash | None = None
    checkpoint_bytes: Whole | None = None
    taught_by: Hash | None = None  # the SHA-256 of the teacher's file
    parameters: Whole | None = None
    macs: Whole | None = None
    training: _Training | None = None
    latency: _Latency | None = None


def read_record(path: Path) -> dict[str, Any]:
    """A `result.json`.

    Raises:
        RmrkdError: When it is not one, naming each key that is not as it should be.
    """
    return _checked(_read_json(path), f"`{path}`")


def read_records(path: Path) -> list[dict[str, Any]]:
    """A `result.json`, or the list that `rmrkd eval --json` writes of several checkpoints; see `read_record`."""
    contents = _read_json(path)
    if not isinstance(contents, list) or not contents:
        return [_checked(contents, f"`{path}`")]
    return [_checked(each, f"result {number} of `{path}`") for number, each in enumerate(contents, 1)]


def _checked(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("format") != FORMAT or not {"metrics", "protocol"} <= record.keys():
        raise RmrkdError(f"{where} is not a result file of `rmrkd`", _HINT)
    try:
        checked = _Result.model_validate(record)
    except ValidationError as error:
        found = error.errors(include_url=False)
        lines = [f"  {_described(problem)}" for problem in found[:_SHOWN]]
        more = [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise RmrkdError(
            f"{len(found)} problem(s) in result file {escape_control(where)}:\n" + "\n".join(lines + more), _HINT
        ) from error
    classes = len(checked.protocol.classes)
    for key in ("iou", "accuracy", "dice"):
        count = len(getattr(checked.metrics, key))
        if count != classes:
            raise RmrkdError(f"{where}: metrics.{key} has {count} values for {classes} classes", _HINT)
    problem = _counts_problem(checked)
    if problem:
        raise RmrkdError(f"{where}: {problem}", _HINT)
    return record


def _counts_problem(result: _Result) -> str:
    """In which way the counts contradict the protocol, the metrics or each other; empty when they do not."""
    classes, matrix = len(result.protocol.classes), result.matrix
    sums: list[list[int]] = []
    if matrix is not None:
        if len(matrix) != classes or any(len(row) != classes for row in matrix):
            return f"matrix is not {classes} rows of {classes} counts"
        sums = [[matrix[k][k] for k in range(classes)], [*map(sum, matrix)], [*map(sum, zip(*matrix, strict=True))]]
    if result.per_image is not None:
        names, counts = result.per_image.names, result.per_image.counts
        if not len(names) == len(counts) == result.protocol.images:
            images = result.protocol.images
            return f"per_image has {len(names)} names and {len(counts)} lists of counts for {images} images"
        totals = [[0] * classes for _ in range(3)]
        for number, flat in enumerate(counts):
            wrong = _image_problem(flat, classes)
            if wrong:
                return f"per_image.counts.{number} {wrong}"
            for total, column in zip(totals, (flat[1::4], flat[2::4], flat[3::4]), strict=True):
                for k, count in zip(flat[::4], column, strict=True):
                    total[k] += count
        for what, total, expected in zip(("right", "of the truth", "predicted"), totals, sums or totals, strict=True):
            if total != expected:
                k = next(k for k in range(classes) if total[k] != expected[k])
                return f"per_image has {total[k]} pixels {what} of class {k}, the matrix {expected[k]}"
        sums = totals
    return _metrics_problem(result.metrics, *sums) if sums else ""


def _metrics_problem(metrics: _Metrics, hits: list[int], truth: list[int], guess: list[int]) -> str:
    """Which figure is not the one that the counts of each class give."""
    of_classes = {
        "iou": [_ratio(hit, t + g - hit) for hit, t, g in zip(hits, truth, guess, strict=True)],
        "accuracy": [_ratio(hit, t) for hit, t in zip(hits, truth, strict=True)],
        "dice": [_ratio(2 * hit, t + g) for hit, t, g in zip(hits, truth, guess, strict=True)],
    }
    for key, values in of_classes.items():
        for k, (told, counted) in enumerate(zip(getattr(metrics, key), values, strict=True)):
            if not _close(told, counted):
                return f"metrics.{key}.{k} is {told}, its counts give {counted}"
    means = {"miou": "iou", "macc": "accuracy", "mdice": "dice"}
    counted_means = {mean: _mean(of_classes[key]) for mean, key in means.items()}
    for key, counted in {**counted_means, "aacc": _ratio(sum(hits), sum(truth))}.items():
        told = getattr(metrics, key)
        if not _close(told, counted) and not (key == "mdice" and told is None):  # older results lack it
            return f"metrics.{key} is {told}, its counts give {counted}"
    return ""


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _close(told: float | None, counted: float | None) -> bool:
    return told == counted if told is None or counted is None else abs(told - counted) <= _ROUNDED


def _image_problem(flat: list[int], classes: int) -> str:
    """What is wrong with one image's counts."""
    if len(flat) % 4:
        return f"has {len(flat)} numbers, not four for each class"
    found, hits, truth, guess = (flat[first::4] for first in range(4))
    if any(k >= classes for k in found):
        return f"names the class {max(found)} of 0..{classes - 1}"
    if any(map(int.__ge__, found, found[1:])):
        return "does not name each class once, in order"
    if any(map(int.__gt__, hits, truth)) or any(map(int.__gt__, hits, guess)):
        return "has more pixels right than there are in the truth or prediction"
    if sum(truth) != sum(guess):
        return f"has {sum(truth)} pixels in the truth and {sum(guess)} predicted"
    return ""


def _described(problem: Any) -> str:
    where = escape_control(".".join(str(part)[:100] for part in problem["loc"]))
    if problem["type"] == "missing":
        return f"{where}: required, not given"
    value = ascii(problem["input"])
    got = value if len(value) <= 60 else f"{value[:57]}…"
    what = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{where}: {what}, got {got}"


def _read_json(path: Path) -> Any:
    def refuse(text: str) -> float:
        raise ValueError(f"{text} is no JSON")

    try:
        if not path.is_file():
            raise RmrkdError(f"result file `{path}` does not exist", _HINT)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RmrkdError(f"`{path}` is not a result file: it is larger than {MAX_BYTES >> 20} MiB", _HINT)
        contents = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise RmrkdError(f"`{path}` is not a result file: {error}", _HINT) from error
    if _too_deep(contents):
        raise RmrkdError(f"`{path}` is not a result file: it is nested deeper than {_MAX_DEPTH} levels", _HINT)
    return contents


def _too_deep(contents: Any) -> bool:
    level = [contents]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]
        if not level:
            return False
    return True


def to_json(contents: Any) -> str:
    """Strict JSON: no NaN, as escapes what a terminal would act on, and each list of numbers on a line of its own."""
    text = _lines(contents, "\n") + "\n"
    return CONTROL.sub(lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text)


def _lines(value: Any, start: str) -> str:
    """JSON indented by one, as Python's own but for lists of numbers.

    Args:
        start: What a line at this depth begins with.
    """
    inner = f"{start} "
    if isinstance(value, dict) and value:
        keys = (json.dumps({key: 0}, ensure_ascii=False, allow_nan=False)[1:-4] for key in value)
        parts = [f"{key}: {_lines(held, inner)}" for key, held in zip(keys, value.values(), strict=True)]
        return f"{{{inner}{f',{inner}'.join(parts)}{start}}}"
    if isinstance(value, (list, tuple)) and not all(held is None or isinstance(held, (int, float)) for held in value):
        return f"[{inner}{f',{inner}'.join(_lines(held, inner) for held in value)}{start}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


Record = dict[str, Any]
