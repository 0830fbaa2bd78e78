"""What a result file may hold, and how it is written."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.results.record import read_record, to_json

PROTOCOL = {
    "dataset": "camvid", "split": "val", "images": 2, "fingerprint": "abc", "classes": ["sky", "road", "never"],
    "scale": [96, 64], "scales": [1.0], "flip": False, "mode": "whole",
}  # fmt: skip
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


def record() -> dict[str, Any]:
    """Two images, whose counts add up to the matrix."""
    return {
        "format": 1,
        "protocol": copy.deepcopy(PROTOCOL),
        "metrics": {
            "miou": 7 / 12, "macc": 35 / 48, "aacc": 15 / 20, "iou": [5 / 10, 10 / 15, None],
            "accuracy": [5 / 8, 10 / 12, None], "dice": [10 / 15, 20 / 25, None], "mdice": 11 / 15,
        },
        "matrix": [[5, 3, 0], [2, 10, 0], [0, 0, 0]],
        "per_image": {"names": ["a", "b"], "counts": [[0, 3, 5, 4, 1, 4, 5, 6], [0, 2, 3, 3, 1, 6, 7, 7]]},
    }  # fmt: skip


def read(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    path.write_text(to_json(result))
    return read_record(path)


@given(VALUES)
def test_json_holds_the_same_values_and_a_list_of_numbers_on_one_line(value: Any) -> None:
    """All else stands as Python writes it."""
    assert repr(json.loads(to_json(value))) == repr(json.loads(json.dumps(value)))  # 1 is not 1.0, nor True

    def joined(found: re.Match[str]) -> str:
        return "[" + ", ".join(part.strip() for part in found[1].split(",")) + "]"

    number = r"(?:null|true|false|-?[0-9][-+.0-9eE]*)"
    texts = re.compile(r'"(?:[^"\\]|\\.)*"')
    ours, plain = (texts.sub('""', text).strip() for text in (to_json(value), json.dumps(value, indent=1)))
    assert ours == re.sub(rf"\[\s*({number}(?:,\s*{number})*)\s*\]", joined, plain)


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], {"a": [float("-inf")]}])
def test_json_is_strict(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(value)


def test_results_of_hundreds_of_images_stay_small() -> None:
    result = record()
    counts = [value for k in range(19) for value in (k, 12_345, 67_890, 54_321)]
    result["per_image"] = {"names": [f"town/town_{n:06d}_000019" for n in range(500)], "counts": [counts] * 500}
    text = to_json(result)
    assert len(text) < 500 * 600
    assert text.count("\n") < 1100


def test_counts_that_agree_are_read(tmp_path: Path) -> None:
    assert read(record(), tmp_path) == record()
    for key in ("matrix", "per_image"):
        result = record()
        del result[key]
        assert read(result, tmp_path) == result


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[0, 3, 5, 4, 1, 4, 5, 6]], "2 names and 1 lists of counts for 2 images"),
        ([[0, 3, 5], []], "counts.0 has 3 numbers"),
        ([[3, 3, 5, 5], []], "counts.0 names class 3, allowed are 0 to 2"),
        ([[], [1, 1, 1, 1, 0, 1, 1, 1]], "counts.1 does not name each class once"),
        ([[0, 1, 1, 1, 0, 1, 1, 1], []], "counts.0 does not name each class once"),
        ([[0, 6, 5, 6, 1, 4, 5, 4], []], "counts.0 has more correct pixels"),
        ([[0, 5, 5, 4, 1, 4, 5, 6], []], "counts.0 has more correct pixels"),
        ([[0, 3, 5, 4, 1, 4, 5, 5], []], "counts.0 has 10 true and 9 predicted pixels"),
        ([[0, 3, 5, 4, 1, 4, 5, 6], [0, 1, 3, 3, 1, 6, 7, 7]], "4 correct pixels of class 0, the matrix has 5"),
        ([[0, 3, 5, 4, 1, 4, 5, 6], [0, 2, 2, 2, 1, 6, 8, 8]], "7 true pixels of class 0, the matrix has 8"),
        ([[0, 3, 5, 4, 1, 4, 5, 6], [0, 2, 3, 2, 1, 6, 7, 8]], "6 predicted pixels of class 0, the matrix has 7"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(counts: list[list[int]], expected: str, tmp_path: Path) -> None:
    result = record()
    result["per_image"]["counts"] = counts
    with pytest.raises(RmrkdError) as refused:
        read(result, tmp_path)
    assert expected in refused.value.message


@pytest.mark.parametrize("without", ["matrix", "per_image", None])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iou": [0.9, 10 / 15, None]}, "metrics.iou.0 is 0.9, its counts give 0.5"),
        ({"iou": [5 / 10, 10 / 15, 0.0]}, "metrics.iou.2 is 0.0, its counts give None"),
        ({"accuracy": [5 / 8, None, None]}, "metrics.accuracy.1 is None"),
        ({"dice": [0.5, 20 / 25, None]}, "metrics.dice.0 is 0.5"),
        ({"miou": 0.9}, "metrics.miou is 0.9"),
        ({"macc": None}, "metrics.macc is None"),
        ({"aacc": 0.5}, "metrics.aacc is 0.5"),
        ({"mdice": 0.5}, "metrics.mdice is 0.5"),
    ],
)
def test_metrics_that_the_counts_do_not_give_are_refused(
    changes: dict[str, Any], expected: str, without: str | None, tmp_path: Path
) -> None:
    result = {key: value for key, value in record().items() if key != without}
    result["metrics"] |= changes
    with pytest.raises(RmrkdError) as refused:
        read(result, tmp_path)
    assert expected in refused.value.message


def test_rounded_metrics_are_read_and_a_mean_that_older_results_lack(tmp_path: Path) -> None:
    result = record()
    result["metrics"] |= {"miou": 0.5833, "iou": [0.5, 0.6667, None]}
    del result["metrics"]["mdice"]
    assert read(result, tmp_path) == result


@pytest.mark.parametrize("matrix", [[], [[1]], [[1, 2, 3], [1, 2, 3], [1, 2]], [[0] * 3] * 4])
def test_a_matrix_of_another_size_is_refused(matrix: list[list[int]], tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match="matrix is not 3 rows of 3 counts"):
        read({**record(), "matrix": matrix}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mode": "slide"}, "'slide'"),
        ({"window": [64, 64]}, "'whole'"),
        ({"window": [64, 64], "stride": [32, 32]}, "'whole'"),
        ({"mode": "slide", "window": [64, 64]}, "stride None"),
        ({"mode": "slide", "window": [64, 64], "stride": [32, 65]}, "[32, 65] is larger than window"),
        ({"mode": "slide", "window": [0, 64], "stride": [1, 1]}, "protocol.window.0"),
        ({"mode": "slide", "window": [64, 64, 64], "stride": [1, 1]}, "protocol.window"),
        ({"mode": "slide", "window": [64, 99999], "stride": [1, 1]}, "protocol.window.1"),
    ],
)
def test_windows_are_checked(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    result = record()
    result["protocol"] |= changes
    with pytest.raises(RmrkdError) as refused:
        read(result, tmp_path)
    assert expected in refused.value.message


def test_windows_are_read(tmp_path: Path) -> None:
    result = record()
    result["protocol"] |= {"mode": "slide", "window": [64, 64], "stride": [43, 64]}
    assert read(result, tmp_path) == result
