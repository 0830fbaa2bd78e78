"""What a result file may say of boundary IoU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.errors import RmrkdError
from tests.results.test_record import read, record


def with_boundary(**changes: Any) -> dict[str, Any]:
    """Two images; their boundaries have fewer pixels than the classes, and not equally many in both maps."""
    boundary = {
        "width": 0.02, "miou": (3 / 8 + 4 / 8) / 2, "iou": [3 / 8, 4 / 8, None],
        "counts": [[0, 2, 4, 3, 1, 1, 2, 2], [0, 1, 2, 2, 1, 3, 4, 4]],
    }  # fmt: skip
    return {**record(), "boundary": {**boundary, **changes}}


def test_counts_that_agree_are_read(tmp_path: Path) -> None:
    assert read(with_boundary(), tmp_path) == with_boundary()
    rounded = with_boundary(miou=0.4375, iou=[0.375, 0.50004, None])
    assert read(rounded, tmp_path) == rounded
    nothing = with_boundary(counts=[[], []], iou=[None] * 3, miou=None)
    assert read(nothing, tmp_path) == nothing


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"width": 0.0}, "boundary.width"),
        ({"width": 0.51}, "boundary.width"),
        ({"width": True}, "boundary.width"),
        ({"width": "0.02"}, "boundary.width"),
        ({"miou": 1.01}, "boundary.miou"),
        ({"miou": 0.9}, "boundary.miou is 0.9, its counts give 0.4375"),
        ({"miou": None}, "boundary.miou is None"),
        ({"iou": [3 / 8, 0.9, None]}, "boundary.iou.1 is 0.9, its counts give 0.5"),
        ({"iou": [3 / 8, 4 / 8, 0.0]}, "boundary.iou.2 is 0.0, its counts give None"),
        ({"iou": [3 / 8, 4 / 8]}, "boundary.iou has 2 values for 3 classes"),
        ({"iou": [0.1] * 1001}, "boundary.iou"),
        ({"counts": [[0, 2, 4, 3]]}, "boundary has 1 lists of counts for 2 images"),
        ({"counts": [[0, 2, 4], []]}, "boundary.counts.0 has 3 numbers"),
        ({"counts": [[], [3, 1, 1, 1]]}, "boundary.counts.1 names class 3, allowed are 0 to 2"),
        ({"counts": [[1, 1, 1, 1, 0, 1, 1, 1], []]}, "boundary.counts.0 does not name each class once"),
        ({"counts": [[0, 4, 4, 3], []]}, "boundary.counts.0 has more correct pixels"),
        ({"counts": [[0, -1, 4, 3], []]}, "boundary.counts.0.1"),
        ({"counts": [[0, 2.0, 4, 3], []]}, "boundary.counts.0.1"),
        ({"counts": [[0, 2**63, 2**63, 2**63], []]}, "boundary.counts.0.1"),
        ({"counts": [[0] * 4004, []]}, "boundary.counts.0"),
        ({"counts": [[0, 2, 6, 3], []]}, "boundary.counts.0 has more boundary pixels of class 0 than per_image has"),
        ({"counts": [[0, 2, 4, 5], []]}, "boundary.counts.0 has more boundary pixels of class 0"),
        ({"counts": [[], [0, 3, 3, 3]]}, "boundary.counts.1 has more boundary pixels of class 0"),
        ({"counts": [[2, 0, 0, 1], []]}, "boundary.counts.0 has more boundary pixels of class 2"),
    ],
)
def test_numbers_out_of_bounds_or_that_the_counts_do_not_give_are_refused(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(RmrkdError) as refused:
        read(with_boundary(**changes), tmp_path)
    assert expected in refused.value.message


@pytest.mark.parametrize("key", ["width", "miou", "iou", "counts"])
def test_every_part_is_required(key: str, tmp_path: Path) -> None:
    result = with_boundary()
    del result["boundary"][key]
    with pytest.raises(RmrkdError, match=rf"boundary\.{key}"):
        read(result, tmp_path)


def test_it_needs_the_counts_of_the_images(tmp_path: Path) -> None:
    result = with_boundary()
    del result["per_image"]
    with pytest.raises(RmrkdError, match="boundary is given without per_image"):
        read(result, tmp_path)
