from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser

import pytest
import torch

from rmrkd_cli import report
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.metrics import ConfusionMatrix

PROTOCOL = {
    "dataset": "camvid", "split": "val", "images": 2, "fingerprint": "abc", "classes": ["sky", "<b>road</b>", "never"],
    "scale": [96, 64], "scales": [1.0], "flip": False, "mode": "whole",
}  # fmt: skip


def record(hits: int, role: str = "baseline", **facts: object) -> report.Record:
    """A network that is right on `hits` of 10 pixels of the first class and on all of the second."""
    matrix = ConfusionMatrix(3)
    truth = torch.tensor([0] * 10 + [1] * 10)
    guess = torch.tensor([0] * hits + [1] * (20 - hits))
    matrix.update(guess, truth)
    return report.make_record(matrix, PROTOCOL, role=role, name="tiny", seed=0, checkpoint=f"{role}.pth", **facts)


def test_a_record_is_strict_json_with_none_for_what_never_occurs() -> None:
    made = record(5)
    assert json.loads(report.to_json(made)) == made
    assert made["metrics"]["iou"] == [0.5, pytest.approx(10 / 15), None]
    assert made["metrics"]["miou"] == pytest.approx((0.5 + 10 / 15) / 2)
    assert made["matrix"] == [[5, 5, 0], [0, 10, 0], [0, 0, 0]]


def test_differences_are_to_the_baseline_and_leave_the_teacher_out() -> None:
    columns, rows = report.class_table([record(8, "teacher"), record(4), record(6, "distill")])
    assert columns == ["class", "teacher", "baseline", "distill", "distill - baseline"]
    assert rows[0] == ["sky", "80.00", "40.00", "60.00", "+20.00"]
    assert rows[2] == ["never", "–", "–", "–", "–"]
    assert rows[-1][0] == "mean IoU"


def test_without_a_baseline_the_first_is_compared_with() -> None:
    columns, rows = report.class_table([record(4, "distill", label="a"), record(6, "distill", label="b")])
    assert columns[-1] == "b - a"
    assert rows[0][-1] == "+20.00"


def test_the_share_of_the_gap_needs_all_three_roles() -> None:
    three = [record(10, "teacher"), record(4), record(7, "distill")]
    assert report.gap_line(three[1:]) is None
    line = report.gap_line(three)
    assert line is not None
    by_role = {r["role"]: r["metrics"]["miou"] for r in three}
    gap = (by_role["distill"] - by_role["baseline"]) / (by_role["teacher"] - by_role["baseline"])
    assert f"{100 * gap:.0f} % of the gap" in line
    weak = report.gap_line([record(4, "teacher"), record(6), record(7, "distill")])
    assert weak is not None
    assert "not above the baseline" in weak


def test_names_tell_records_apart_as_far_as_needed() -> None:
    assert report.labels([record(1), record(2, "distill")]) == ["baseline", "distill"]
    assert report.labels([record(1), {**record(2), "seed": 1}]) == ["tiny baseline 0", "tiny baseline 1"]
    assert report.labels([record(1), record(1)]) == ["1: baseline", "2: baseline"]


def test_other_protocols_are_refused_line_by_line() -> None:
    other = record(5, "distill")
    other["protocol"] = {**PROTOCOL, "flip": True, "images": 3}
    with pytest.raises(RmrkdError) as refused:
        report.check_same_protocol([record(5), other])
    assert "flip: False in `baseline`, True in `distill`" in refused.value.message
    assert "number of images: 2" in refused.value.message
    assert "scale" not in refused.value.message


def test_the_page_shows_every_cell_and_runs_nothing_of_a_strangers() -> None:
    texts: list[str] = []

    class Cells(HTMLParser):
        def handle_data(self, data: str) -> None:
            texts.append(data)

    records = [record(4), record(6, "distill")]
    page = report.to_html("<script>alert(1)</script>", records)
    assert "<script" not in page
    assert "<b>" not in page
    reader = Cells()
    reader.feed(page)
    for row in report.class_table(records)[1]:
        assert set(row) <= set(texts)


def test_cells_that_a_spreadsheet_would_run_are_quoted() -> None:
    text = report.to_csv((["a"], [["=1+1"], ["@x"], ["fine, thanks"]]))
    assert [row[0] for row in csv.reader(io.StringIO(text))] == ["a", "'=1+1", "'@x", "fine, thanks"]


def test_sizes_and_times_are_readable() -> None:
    training = {"seconds": 3725.0, "seconds_per_step": 0.5}
    latency = {"median_ms": 12.4, "low_ms": 11.9, "high_ms": 13.2}
    columns, rows = report.summary_table(
        [record(5, parameters=12_790_000, macs=5e9, training=training, latency=latency)]
    )
    told = dict(zip(columns, rows[0], strict=True))
    assert told["parameters"] == "12.79 M"
    assert told["MACs"] == "5.00 G"
    assert told["latency"] == "12 ms (12–13)"
    assert told["training"] == "1 h 02 min"
