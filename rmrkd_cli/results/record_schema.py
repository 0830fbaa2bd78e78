"""The schema of a result record: types, bounds, and metrics that must follow from the counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT = 1
_TOLERANCE = 1e-4  # between a written metric, which may be rounded, and the metric of the counts
_COUNTS = ("correct", "true", "predicted")  # pixels of each class, in the order of `per_image`

Line = Annotated[str, Field(max_length=5000)]
Whole = Annotated[int, Field(ge=0, le=2**63 - 1)]
Amount = Annotated[float, Field(ge=0.0, le=1e15)]
Weight = Annotated[float, Field(ge=0.0, le=1e36)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ratios = Annotated[list[Ratio | None], Field(max_length=1000)]
Size = Annotated[list[Annotated[int, Field(ge=1, le=16_384)]], Field(min_length=2, max_length=2)]
Totals = list[list[int]]  # for each entry of _COUNTS, the pixels of each class
ImageCounts = Annotated[list[Annotated[list[Whole], Field(max_length=4000)]], Field(max_length=1_000_000)]


class _Part(BaseModel):
    """Values keep their JSON types; keys of later versions are ignored."""

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
    window: Size | None = None  # (height, width) of a sliding window
    stride: Size | None = None

    @model_validator(mode="after")
    def _check_window(self) -> _Protocol:
        """Only sliding inference has window and stride; older results have neither key."""
        given = self.window is not None and self.stride is not None
        if given != (self.mode == "slide") or (self.window is None) != (self.stride is None):
            raise ValueError(f"mode {self.mode[:60]!r} with window {self.window} and stride {self.stride}")
        if self.window and self.stride and any(map(int.__gt__, self.stride, self.window)):
            raise ValueError(f"stride {self.stride} is larger than window {self.window}")
        return self


class _Metrics(_Part):
    iou: Ratios
    accuracy: Ratios
    dice: Ratios
    miou: Ratio | None
    macc: Ratio | None
    aacc: Ratio | None
    mdice: Ratio | None = None  # missing in older results


class _PerImage(_Part):
    """The counts of each image, in the order of the samples.

    counts: A flat list for each image, with four numbers for each class in its labels or prediction: class, correct
        pixels, pixels in the labels, predicted pixels.
    """

    names: Annotated[list[Line], Field(max_length=1_000_000)]
    counts: ImageCounts


class _Boundary(_Part):
    """Boundary IoU: that of the pixels near the boundary of their class.

    width: Of the boundaries, as a share of the image's diagonal.
    counts: As in `_PerImage`; the pixels are those in the boundary of both, of the labels, of the prediction.
    """

    width: Annotated[float, Field(gt=0.0, le=0.5)]
    miou: Ratio | None
    iou: Ratios
    counts: ImageCounts


class _Training(_Part):
    iterations: Whole | None = None
    seconds: Amount | None = None
    seconds_per_step: Amount | None = None
    workers: Whole | None = None
    batch_size: Whole | None = None
    accumulate: Whole | None = None
    time_budget: Amount | None = None  # seconds
    device: Line | None = None
    amp: Line | None = None
    tf32: bool | None = None  # of a GPU; also the next
    cudnn_benchmark: bool | None = None
    deterministic: bool | None = None
    weights: Annotated[dict[Line, Weight], Field(max_length=100)] | None = None  # of the distillation losses
    labelled_images: Whole | None = None
    unlabelled_images: Whole | None = None
    unlabelled_labels: Line | None = None  # what their labels were: none, teacher
    label_threshold: Ratio | None = None  # of the teacher's probability


class _Evaluation(_Part):
    device: Line | None = None
    tf32: bool | None = None  # of a GPU


class _Latency(_Part):
    median_ms: Amount
    low_ms: Amount
    high_ms: Amount
    min_ms: Amount | None = None
    runs: Whole | None = None
    pooled: Whole | None = None  # networks with the same layers, whose runs are counted together
    device: Line | None = None
    threads: Whole | None = None
    cores: Whole | None = None
    cores_of_others: Amount | None = None


class ResultSchema(_Part):
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    protocol: _Protocol
    metrics: _Metrics
    matrix: Annotated[list[Annotated[list[Whole], Field(max_length=1000)]], Field(max_length=1000)] | None = None
    per_image: _PerImage | None = None
    boundary: _Boundary | None = None  # measured on request
    evaluation: _Evaluation | None = None  # missing in older results
    label: Line | None = None
    name: Line | None = None
    role: Line | None = None
    method: Line | None = None
    seed: Whole | None = None
    iterations: Whole | None = None
    checkpoint: Line | None = None
    checkpoint_sha256: Hash | None = None
    checkpoint_bytes: Whole | None = None
    taught_by: Hash | None = None  # SHA-256 of the teacher's file
    parameters: Whole | None = None
    macs: Whole | None = None
    training: _Training | None = None
    latency: _Latency | None = None

    @model_validator(mode="after")
    def _check_counts(self) -> ResultSchema:
        """Matrix, counts of images and metrics must give the same numbers."""
        classes = len(self.protocol.classes)
        for key in ("iou", "accuracy", "dice"):
            if len(getattr(self.metrics, key)) != classes:
                raise ValueError(f"metrics.{key} has {len(getattr(self.metrics, key))} values for {classes} classes")
        matrix = None if self.matrix is None else _totals_of_matrix(self.matrix, classes)
        images = None if self.per_image is None else _totals_of_images(self.per_image, self.protocol.images, classes)
        for kind, expected, totals in zip(_COUNTS, matrix or (), images or (), strict=False):
            for k, (count, total) in enumerate(zip(expected, totals, strict=True)):
                if count != total:
                    raise ValueError(f"per_image has {total} {kind} pixels of class {k}, the matrix has {count}")
        if matrix or images:
            _check_metrics(self.metrics, *(matrix or images or ()))
        if self.boundary is not None:
            _check_boundary(self.boundary, self.per_image, self.protocol.images, classes)
        return self


def _totals_of_matrix(matrix: list[list[int]], classes: int) -> Totals:
    if len(matrix) != classes or any(len(row) != classes for row in matrix):
        raise ValueError(f"matrix is not {classes} rows of {classes} counts")
    return [[row[k] for k, row in enumerate(matrix)], [*map(sum, matrix)], [*map(sum, zip(*matrix, strict=True))]]


def _totals_of_images(per_image: _PerImage, images: int, classes: int) -> Totals:
    names, counts = per_image.names, per_image.counts
    if not len(names) == len(counts) == images:
        raise ValueError(f"per_image has {len(names)} names and {len(counts)} lists of counts for {images} images")
    for number, flat in enumerate(counts):
        if problem := _image_problem(flat, classes) or _sum_problem(flat):
            raise ValueError(f"per_image.counts.{number} {problem}")
    return _sum_images(counts, classes)


def _check_boundary(boundary: _Boundary, per_image: _PerImage | None, images: int, classes: int) -> None:
    """Boundary IoU must follow from its counts, and boundaries have no more pixels than their classes."""
    if per_image is None:
        raise ValueError("boundary is given without per_image")
    if len(boundary.counts) != images:
        raise ValueError(f"boundary has {len(boundary.counts)} lists of counts for {images} images")
    if len(boundary.iou) != classes:
        raise ValueError(f"boundary.iou has {len(boundary.iou)} values for {classes} classes")
    for number, (flat, whole) in enumerate(zip(boundary.counts, per_image.counts, strict=True)):
        if problem := _image_problem(flat, classes) or _excess(flat, whole):
            raise ValueError(f"boundary.counts.{number} {problem}")
    both, true, predicted = _sum_images(boundary.counts, classes)
    ratios = [_ratio(b, t + p - b) for b, t, p in zip(both, true, predicted, strict=True)]
    expected = {f"iou.{k}": ratio for k, ratio in enumerate(ratios)} | {"miou": _mean(ratios)}
    _compare_metrics("boundary", boundary, expected)


def _excess(flat: list[int], whole: list[int]) -> str:
    """Return for which class an image has more boundary pixels than pixels, or an empty string."""
    pixels = {k: counts for k, *counts in zip(*(whole[first::4] for first in range(4)), strict=True)}
    for k, *counts in zip(*(flat[first::4] for first in range(4)), strict=True):
        if any(map(int.__gt__, counts, pixels.get(k, (0, 0, 0)))):
            return f"has more boundary pixels of class {k} than per_image has pixels"
    return ""


def _sum_images(counts: list[list[int]], classes: int) -> Totals:
    totals = [[0] * classes for _ in _COUNTS]
    for flat in counts:
        for kind, total in enumerate(totals, 1):
            for k, count in zip(flat[::4], flat[kind::4], strict=True):
                total[k] += count
    return totals


def _image_problem(flat: list[int], classes: int) -> str:
    """Return what is wrong with the counts of one image, or an empty string."""
    if len(flat) % 4:
        return f"has {len(flat)} numbers, not a multiple of 4"
    found, correct, true, predicted = (flat[first::4] for first in range(4))
    if any(k >= classes for k in found):
        return f"names class {max(found)}, allowed are 0 to {classes - 1}"
    if any(map(int.__ge__, found, found[1:])):
        return "does not name each class once in ascending order"
    if any(map(int.__gt__, correct, true)) or any(map(int.__gt__, correct, predicted)):
        return "has more correct pixels than true or predicted ones"
    return ""


def _sum_problem(flat: list[int]) -> str:
    """Return whether an image has more pixels in one of labels and prediction, or an empty string."""
    true, predicted = sum(flat[2::4]), sum(flat[3::4])
    return f"has {true} true and {predicted} predicted pixels" if true != predicted else ""


def _check_metrics(metrics: _Metrics, correct: list[int], true: list[int], predicted: list[int]) -> None:
    """Compare every metric with its value from the counts; None means that the class never occurs."""
    classes = list(zip(correct, true, predicted, strict=True))
    ratios = {
        "iou": [_ratio(c, t + p - c) for c, t, p in classes],
        "accuracy": [_ratio(c, t) for c, t, _ in classes],
        "dice": [_ratio(2 * c, t + p) for c, t, p in classes],
    }
    means = {"miou": "iou", "macc": "accuracy", "mdice": "dice"}
    expected = {f"{key}.{k}": value for key, values in ratios.items() for k, value in enumerate(values)}
    expected |= {key: _mean(ratios[of]) for key, of in means.items()} | {"aacc": _ratio(sum(correct), sum(true))}
    if metrics.mdice is None:
        del expected["mdice"]
    _compare_metrics("metrics", metrics, expected)


def _compare_metrics(part: str, metrics: _Metrics | _Boundary, expected: dict[str, float | None]) -> None:
    """Raise ValueError for the first value, named `iou.3` or `miou`, that is not as its counts give it."""
    for key, counted in expected.items():
        name, _, k = key.partition(".")
        written = getattr(metrics, name)[int(k)] if k else getattr(metrics, name)
        if (written is None) != (counted is None) or abs((written or 0.0) - (counted or 0.0)) > _TOLERANCE:
            raise ValueError(f"{part}.{key} is {written}, its counts give {counted}")


def _ratio(part: int, total: int) -> float | None:
    return part / total if total else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
