"""Synthetic comparisons, logs and images of any size."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.comparison.types import Comparison, Difference, Group, Interval
from rmrkd_cli.report.html import File, Provenance
from rmrkd_cli.report.image_selection import Choice, ReportImage, ReportImages, choose_images

STREET = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
IMAGES = 60
PROVENANCE = Provenance(
    "rmrkd compare a/student.pth b/student.pth --report report", "2026-01-02 03:04 UTC",
    (File("a/student.pth", "baseline", 0, 400, 123_456, "ab" * 32),), {"rmrkd": "1.0"},
)  # fmt: skip


def record(classes: Sequence[str], skill: float, seed: int, role: str, *, per_image: bool = True) -> dict[str, Any]:
    """Return the result of a network whose accuracy in a class grows with its skill."""
    rng = np.random.default_rng([seed, len(role), round(1000 * skill)])
    count = len(classes)
    size = np.random.default_rng(7).integers(2_000, 90_000, count).astype(np.float64) * 100
    hard = np.random.default_rng(8).uniform(0.1, 0.7, count)
    right = np.clip(skill + 0.25 - hard * (1.2 - skill) + rng.normal(0, 0.03, count), 0.02, 0.97)
    wrong = rng.dirichlet(np.full(count, 0.12 if count > 30 else 0.35), count) * (1 - right[:, None])
    matrix = np.rint((wrong + np.diag(right)) * size[:, None]).astype(np.int64)
    matrix[-1], matrix[:, -1] = (0, 0) if count > 150 else (matrix[-1], matrix[:, -1])
    hits, truth, guess = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        iou, accuracy, dice = hits / (truth + guess - hits), hits / truth, 2 * hits / (truth + guess)
    result: dict[str, Any] = {
        "format": 1, "role": role, "method": "rmrkd", "name": "synthetic", "seed": seed, "iterations": 400,
        "checkpoint": f"{role}/student.pth", "parameters": 3_200_000 if role == "teacher" else 200_000,
        "macs": 850_000_000, "checkpoint_bytes": 1_234_567, "matrix": matrix.tolist(),
        "latency": {"median_ms": 12.3, "low_ms": 12.0, "high_ms": 13.0},
        "training": {"iterations": 400, "seconds": 77.0, "seconds_per_step": 0.193},
        "protocol": {
            "dataset": "street", "split": "val", "images": IMAGES, "fingerprint": "0a1b2c3d4e5f",
            "classes": list(classes), "scale": [2048, 1024], "scales": [1.0], "flip": False, "mode": "whole",
        },
        "metrics": {
            "miou": float(np.nanmean(iou)), "macc": float(np.nanmean(accuracy)),
            "aacc": float(hits.sum() / matrix.sum()), "iou": plain(iou), "accuracy": plain(accuracy),
            "dice": plain(dice),
        },
    }  # fmt: skip
    if per_image:
        shares = np.clip(skill + rng.normal(0, 0.12, IMAGES), 0.05, 0.95)
        counts = [[0, int(800 * part), 1000, 1000, 1, int(600 * part), 900, 800] for part in shares]
        result["per_image"] = {"names": [f"{number:04d}" for number in range(IMAGES)], "counts": counts}
    return result


def plain(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def group(label: str, records: Sequence[dict[str, Any]]) -> Group:
    def means(key: str) -> tuple[float | None, ...]:
        columns = zip(*(one["metrics"][key] for one in records), strict=True)
        return tuple(None if None in column else statistics.fmean(column) for column in columns)

    mious = [one["metrics"]["miou"] for one in records]
    matrix = tuple(map(tuple, sum(np.array(one["matrix"]) for one in records).tolist()))
    return Group(
        label, records[0]["role"], records[0]["method"], tuple(records), statistics.fmean(mious),
        statistics.stdev(mious) if len(mious) > 1 else None, means("iou"), means("accuracy"), means("dice"), matrix,
    )  # fmt: skip


def difference(base: Group, to: Group, *, width: float | None = 0.03) -> Difference:
    def interval(new: float | None, old: float | None, k: int) -> Interval:
        if new is None or old is None:
            return Interval(None)
        if width is None:
            return Interval(new - old)
        return Interval(new - old, new - old - width * (0.4 + k % 3), new - old + width * (0.5 + k % 2))

    classes = tuple(interval(new, old, k) for k, (new, old) in enumerate(zip(to.iou, base.iou, strict=True)))
    return Difference(base.label, to.label, classes, interval(to.miou, base.miou, 0))


def comparison(
    classes: Sequence[str] = STREET,
    labels: Sequence[str] = ("teacher", "baseline", "distill"),
    *,
    seeds: int = 1,
    width: float | None = 0.03,
    per_image: bool = True,
) -> Comparison:
    """Return a teacher, a baseline, and a distilled student for each further label."""
    roles = ["teacher", "baseline", *["distill"] * (len(labels) - 2)]
    skills = [0.8, 0.55, *(0.62 + 0.03 * n for n in range(len(labels) - 2))]
    groups = tuple(
        group(label, [record(classes, skill, seed, role, per_image=per_image) for seed in range(seeds)])
        for label, role, skill in zip(labels, roles, skills, strict=True)
    )
    return Comparison(
        protocol=groups[0].records[0]["protocol"],
        groups=groups,
        differences=tuple(difference(groups[1], to, width=width) for to in groups[2:]),
        gap=f"{labels[2]} closes 41 % of the gap between the baseline and the teacher",
        equality=("iterations: 400 each", "images seen: 3,200 each"),
        warnings=() if seeds > 2 else (f"fewer than three seeds ({labels[1]} {seeds})",),
    )  # fmt: skip


def log(folder: Path, *, steps: int = 60, seed: int = 0, level: float = 0.6, losses: Sequence[str] = ("ce",)) -> Path:
    """Write a run directory with a log as the trainer writes it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(1, steps + 1):
        iteration, decay = 10 * step, float(np.exp(-3 * step / steps))
        named = {name: (2 + k) * decay + 0.4 + 0.1 * float(rng.random()) for k, name in enumerate(losses)}
        line = {"iter": iteration, "lr": 0.01 * (1 - step / (steps + 1)) ** 0.9, "losses": named, "weighted": named}
        lines.append({**line, "total": sum(named.values()), "seconds": 0.2, "data_seconds": 0.01, "peak_memory": 1})
        if step % (steps // 6 or 1) == 0:
            miou = level * (1 - decay) + 0.01 * float(rng.random())
            lines.append({"iter": iteration, "val_miou": miou, "best_miou": miou})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def images(compared: Comparison, *, size: tuple[int, int] = (128, 96), palette: Any = None) -> ReportImages:
    """Return images of circles and noise, in the classes of the comparison."""
    count = min(len(compared.classes), 8)
    shown = tuple(
        _image(choice, [group.label for group in compared.groups], count, size) for choice in choose_images(compared)
    )
    colours = np.random.default_rng(3).integers(20, 235, (len(compared.classes), 3)).tolist()
    return ReportImages(
        shown,
        tuple(tuple(colour) for colour in (palette or colours)),
        {group.label: "its run of seed 0" for group in compared.groups},
        ("no predictions of <b>other</b>: only its result file is there",),
    )


def _image(choice: Choice, labels: Sequence[str], count: int, size: tuple[int, int]) -> ReportImage:
    rng = np.random.default_rng(choice.index)
    width, height = size
    ys, xs = np.mgrid[0:height, 0:width]
    truth = (ys * 3 // height).astype(np.uint8)
    for k in range(3, count):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.06, 0.18) * width
        truth[(xs - x) ** 2 + (ys - y) ** 2 < radius**2] = k
    truth[:3] = 255
    image = np.stack([40 + 22 * truth % 200, 90 + ys * 100 // height, 200 - 20 * truth % 180], -1)
    predictions = {}
    for number, label in enumerate(labels):
        shifted = np.roll(truth, rng.integers(-width // 14, width // 14, 2), (0, 1)).copy()
        shifted[shifted == 255] = 0
        if number == 1:
            shifted[shifted == count - 1] = 1
        predictions[label] = shifted
    noise = rng.normal(0, 9, image.shape)
    return ReportImage(
        f"place_{choice.index:06d}", choice, np.clip(image + noise, 0, 255).astype(np.uint8), truth, predictions
    )
