"""Check the teacher's mIoU before training: it reveals wrong weights, classes or images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmrkd_cli.data.samples import Sample
from rmrkd_cli.distillation.teacher_outputs import OutputsIndex
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.record import read_record

MAX_IMAGES = 32


def choose_images(samples: Sequence[Sample]) -> list[Sample]:
    """Return at most `MAX_IMAGES` samples, evenly spaced."""
    count = min(MAX_IMAGES, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def reported_miou(preset: Preset) -> float | None:
    """Return the mIoU in percent that the source of the teacher's weights reports, or None.

    It is the preset's `teacher.reported_miou`, or that of the `result.json` beside a teacher that rmrkd trained.
    """
    source = preset.teacher.checkpoint
    if preset.teacher.reported_miou is not None or source is None or source.path is None:
        return preset.teacher.reported_miou
    result = Path(source.path).with_name("result.json")
    if Path(source.path).name != "student.pth" or not result.is_file():
        return None
    try:
        record = read_record(result)
    except RmrkdError:
        return None
    same_dataset = record["protocol"]["dataset"] == preset.dataset
    return 100 * record["metrics"]["miou"] if same_dataset and record["metrics"]["miou"] is not None else None


def check_teacher_score(counts: ConfusionMatrix, images: int, total: int, preset: Preset) -> str:
    """Return the line that reports the teacher's mIoU.

    Args:
        counts: Over `images` of the `total` validation images.

    Raises:
        RmrkdError: When the mIoU is below the preset's `teacher.min_miou`, or, without that, below half of the
            reported mIoU.
    """
    miou = 100 * counts.result().miou
    _check_minimum(score := f"mIoU {miou:.2f} on {images} of {total} validation images", miou, preset)
    reported = reported_miou(preset)
    return f"teacher: {score}" + (f", {reported:.2f} reported by its source" if reported is not None else "")


def describe_feature_teacher(preset: Preset, student: Path) -> str:
    """Return the line about a teacher that gives no logits, whose mIoU cannot be measured.

    Args:
        student: File that the run will write.
    """
    line = f"teacher: `{preset.teacher.name}` gives feature maps and no classes, so it has no mIoU"
    if preset.data.train_labels != "none":
        return line
    return (
        f"{line}; no labels train the student's classifier here, so its mIoU says nothing yet. Train it next: "
        f"--role baseline --student-checkpoint {student}, with labels"
    )


def describe_stored_score(preset: Preset, index: OutputsIndex) -> str:
    """Return the line that reports the mIoU of the teacher whose outputs are stored.

    Raises:
        RmrkdError: As `check_teacher_score`.
    """
    line = f"teacher: stored outputs ({index.describe()}) in `{preset.teacher.outputs}`"
    if index.miou is None:
        return line
    score = f"mIoU {100 * index.miou:.2f} on {index.measured[0]} of {index.measured[1]} validation images"
    _check_minimum(score, 100 * index.miou, preset)
    return f"{line}, {score} when they were stored"


def _check_minimum(score: str, miou: float, preset: Preset) -> None:
    reported, minimum = reported_miou(preset), preset.teacher.min_miou
    reason = "--min-teacher-miou"
    if minimum is None and reported is not None:
        minimum, reason = reported / 2, f"half of the reported {reported:.2f}"
    if minimum and not miou >= minimum:  # also when it is NaN, because no pixel has a class
        raise RmrkdError(
            f"the teacher has {score}, below the minimum of {minimum:.2f} ({reason})",
            "check that its classes are those of the data set, in the same order; `rmrkd eval` measures it on all "
            "images. --teacher-checkpoint FILE selects another teacher, --min-teacher-miou 0 accepts this one",
        )
