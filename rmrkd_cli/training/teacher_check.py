"""The teacher measured before it teaches: wrong weights, wrong classes or wrong images show here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmrkd_cli.data.samples import Sample
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.record import read_record

IMAGES = 32


def chosen(samples: Sequence[Sample]) -> list[Sample]:
    """`IMAGES` of the samples, spread evenly."""
    count = min(IMAGES, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def reported_miou(preset: Preset) -> float | None:
    """What the source of the teacher's weights says of them, in percent.

    The preset's own figure, or that of the `result.json` beside a teacher that rmrkd has trained.
    """
    source = preset.teacher.checkpoint
    if preset.teacher.reported_miou is not None or source is None or source.path is None:
        return preset.teacher.reported_miou
    beside = Path(source.path).with_name("result.json")
    if Path(source.path).name != "student.pth" or not beside.is_file():
        return None
    try:
        record = read_record(beside)
    except RmrkdError:
        return None
    same = record["protocol"]["dataset"] == preset.dataset
    return 100 * record["metrics"]["miou"] if same and record["metrics"]["miou"] is not None else None


def check_teacher_score(matrix: ConfusionMatrix, images: int, of: int, preset: Preset) -> str:
    """The line that tells its mIoU.

    Args:
        matrix: Counts over `images` of the `of` validation images.

    Raises:
        RmrkdError: When it is below the floor: the preset's `teacher.min_miou`, or half of what the source reports.
    """
    miou = 100 * matrix.result().miou
    reported, floor = reported_miou(preset), preset.teacher.min_miou
    why = "--min-teacher-miou"
    if floor is None and reported is not None:
        floor, why = reported / 2, f"half of the {reported:.2f} that its source reports"
    told = f"mIoU {miou:.2f} on {images} of {of} validation images"
    if floor and not miou >= floor:  # NaN, where no pixel has a class, is below any
        raise RmrkdError(
            f"the teacher has {told}, less than {floor:.2f} ({why}): it was not used",
            "are its classes those of the data set, in this order? `rmrkd eval` measures it whole; "
            "--teacher-checkpoint FILE gives another, --min-teacher-miou 0 goes on all the same",
        )
    return f"teacher: {told}" + (f", its source reports {reported:.2f}" if reported is not None else "")
