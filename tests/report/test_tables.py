from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from statistics import mean, stdev

import pytest
import torch

from rmrkd_cli.comparison.compare import compare
from rmrkd_cli.comparison.groups import group_records
from rmrkd_cli.comparison.protocol import check_same_protocol
from rmrkd_cli.comparison.types import Interval
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.confusion_matrix import ConfusionMatrix
from rmrkd_cli.evaluation.result_record import make_record
from rmrkd_cli.report import tables
from rmrkd_cli.results.csv import to_csv
from rmrkd_cli.results.record import Record, to_json

PROTOCOL = {
    "dataset": "camvid", "split": "val", "images": 2, "fingerprint": "abc", "classes": ["sky", "<b>road</b>", "never"],
    "scale": [96, 64], "scales": [1.0], "flip": False, "mode": "whole",
}  # fmt: skip


def record(hits: int, role: str = "baseline", seed: int = 0, **facts: object) -> Record:
    """A network that is right on `hits` of 10 pixels of the first class and on all of the second."""
    matrix = ConfusionMatrix(3)
    truth = torch.tensor([0] * 10 + [1] * 10)
    guess = torch.tensor([0] * hits + [1] * (20 - hits))
    matrix.update(guess, truth)
    return make_record(matrix, PROTOCOL, role=role, name="tiny", seed=seed, checkpoint=f"{role}.pth", **facts)


def test_a_record_is_strict_json_with_none_for_what_never_occurs() -> None:
    result = record(5)
    assert json.loads(to_json(result)) == result
    assert result["metrics"]["iou"] == [0.5, pytest.approx(10 / 15), None]
    assert result["metrics"]["miou"] == pytest.approx((0.5 + 10 / 15) / 2)
    assert result["matrix"] == [[5, 5, 0], [0, 10, 0], [0, 0, 0]]


def test_a_table_has_a_column_for_each_group_and_each_difference() -> None:
    compared = compare([record(8, "teacher"), record(4), record(6, "distill")])
    columns, rows = tables.class_table(compared)
    assert columns == ["class", "teacher", "baseline", "distill", "distill - baseline"]
    assert rows[0] == ["sky", "80.00", "40.00", "60.00", "+20.00"]
    assert rows[2] == ["never", "–", "–", "–", "–"]
    assert rows[-1][0] == "mean IoU"


def test_intervals_stand_behind_their_difference_or_in_columns_of_their_own() -> None:
    compared = compare([record(4), record(6, "distill")])
    (difference,) = compared.differences
    known = replace(difference, mean=Interval(0.1, 0.05, 0.1512), classes=difference.classes)
    compared = replace(compared, differences=(known,))
    assert tables.class_table(compared)[1][-1][-1] == "+10.00 [+5.00, +15.12]"
    columns, rows = tables.class_table(compared, separate_bounds=True)
    assert columns[-3:] == ["distill - baseline", "distill - baseline, 2.5 %", "distill - baseline, 97.5 %"]
    assert rows[-1][-3:] == ["+10.00", "+5.00", "+15.12"]
    assert rows[0][-3:] == ["+20.00", "–", "–"]


def test_the_summary_has_intervals_and_warnings() -> None:
    lines = tables.summary_lines(compare([record(10, "teacher"), record(4), record(7, "distill")]))
    assert lines[0].startswith("distill - baseline = +")
    assert "of the gap between the baseline and the teacher" in lines[1]
    assert any(line.startswith("warning: fewer than 3 seeds (baseline 1, distill 1)") for line in lines)
    seeds = [record(hits, role, seed=seed) for role, hits in (("baseline", 3), ("distill", 6)) for seed in (0, 1, 2)]
    lines = tables.summary_lines(compare(seeds))
    assert "by seed 0: +" in lines[0]
    assert not any("seeds" in line for line in lines)


def test_several_seeds_are_one_line_with_their_spread() -> None:
    columns, rows = tables.summary_table(compare([record(hits, seed=hits) for hits in (2, 4, 6)]).groups)
    row = dict(zip(columns, rows[0], strict=True))
    assert len(rows) == 1
    assert row["seeds"] == "2, 4, 6"
    mious = [record(hits)["metrics"]["miou"] for hits in (2, 4, 6)]
    assert row["mIoU"] == f"{100 * mean(mious):.2f} ± {100 * stdev(mious):.2f}"


def test_other_protocols_are_refused_line_by_line() -> None:
    other = record(5, "distill")
    other["protocol"] = {**PROTOCOL, "flip": True, "images": 3}
    with pytest.raises(RmrkdError) as refused:
        check_same_protocol([record(5), other])
    assert "flip: False in `baseline`, True in `distill`" in refused.value.message
    assert "number of images: 2" in refused.value.message
    assert "scale" not in refused.value.message


def test_what_only_later_versions_say_of_a_protocol_counts_too() -> None:
    other = record(5, "distill")
    other["protocol"] = {**PROTOCOL, "post": "crf"}
    with pytest.raises(RmrkdError, match="post: None in `baseline`, crf in `distill`"):
        check_same_protocol([record(5), other])


def test_other_windows_of_two_checkpoints_name_the_options_for_one() -> None:
    sliding = {**PROTOCOL, "mode": "slide", "window": [64, 32], "stride": [43, 21]}
    records = [{**record(5), "protocol": protocol} for protocol in (sliding, {**sliding, "window": [48, 48]})]
    with pytest.raises(RmrkdError) as refused:
        check_same_protocol(records)
    assert "--mode slide --crop 64x32 --stride 43x21" in refused.value.hint


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"names": ["b", "a"]}, "image 1 is `a` in one and `b` in the other"),
        ({"counts": [[0, 3, 4, 4], [1, 1, 1, 1]]}, "image `a` has different labels"),
        ({"counts": [[0, 3, 5, 5], [0, 0, 1, 0, 1, 0, 0, 1]]}, "image `b` has different labels"),
    ],
)
def test_the_same_images_with_other_labels_are_refused(changes: dict[str, object], expected: str) -> None:
    """Image names stay the same when label files are replaced between two evaluations."""
    per_image = {"names": ["a", "b"], "counts": [[0, 3, 5, 5], [1, 1, 1, 1]]}
    first, second = (record(5, per_image=counts) for counts in (per_image, per_image | changes))
    with pytest.raises(RmrkdError) as refused:
        check_same_protocol([first, second])
    assert expected in refused.value.message
    fewer = {"names": ["a", "b"], "counts": [[0, 4, 5, 4, 2, 0, 0, 1], [1, 1, 1, 1]]}
    check_same_protocol([first, record(5, per_image=fewer)])  # predictions may differ


def test_matrices_of_other_labels_are_refused() -> None:
    other = record(5)
    other["matrix"] = [[5, 6, 0], [0, 9, 0], [0, 0, 0]]
    with pytest.raises(RmrkdError, match="`sky` has 10 pixels in the labels of one, 11 in the other"):
        check_same_protocol([record(5), other])


def test_cells_that_a_spreadsheet_would_run_are_quoted() -> None:
    text = to_csv((["a"], [["=1+1"], ["@x"], ["fine, thanks"]]))
    assert [row[0] for row in csv.reader(io.StringIO(text))] == ["a", "'=1+1", "'@x", "fine, thanks"]


def test_sizes_and_times_are_readable() -> None:
    training = {"seconds": 3725.0, "seconds_per_step": 0.5}
    latency = {"median_ms": 12.4, "low_ms": 11.9, "high_ms": 13.2}
    columns, rows = tables.summary_table(
        group_records(
            [record(5, parameters=12_790_000, macs=5e9, training=training, latency=latency, checkpoint_bytes=51e6)]
        )
    )
    row = dict(zip(columns, rows[0], strict=True))
    assert row["parameters"] == "12.79 M"
    assert row["MACs"] == "5.00 G"
    assert row["latency"] == "12.4 ms (11.9–13.2)"
    assert row["file"] == "51.00 MB"
    assert row["training"] == "1 h 02 min"
