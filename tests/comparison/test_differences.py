"""Differences of boundary IoU, and what is said where some results have none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rmrkd_cli.comparison.bootstrap import counts_of, iou, paired_intervals
from rmrkd_cli.comparison.compare import as_document, compare
from rmrkd_cli.report import tables
from rmrkd_cli.results.record import Record
from tests.comparison.test_comparison import CLASSES, IMAGES, record


def with_boundary(
    role: str = "baseline", seed: int = 0, skill: float = 0.5, *, edges: float = 0.3, width: float = 0.02, **facts: Any
) -> Record:
    """A record whose boundaries have 30 of 100 pixels, a share of them correct."""
    draws = np.random.default_rng([seed, round(1000 * edges)])
    hits = draws.binomial(30, edges, (IMAGES, 2)).tolist()
    counts = [[0, a, 30, 30, 1, b, 30, 29] for a, b in hits]
    *each, miou = iou(counts_of({"counts": counts}, 3).sum(0)).tolist()
    ious = [None if value != value else value for value in each]
    boundary = {"width": width, "miou": miou, "iou": ious, "counts": counts}
    return {**record(role, seed, skill), "boundary": boundary, **facts}


def test_the_interval_is_that_of_miou_on_the_counts_of_boundaries() -> None:
    first, second = with_boundary(), with_boundary("distill", skill=0.7, edges=0.5)
    (difference,) = compare([first, second]).boundary_differences
    assert (difference.base, difference.to) == ("baseline", "distill")
    assert difference.mean.value == pytest.approx(second["boundary"]["miou"] - first["boundary"]["miou"])
    bounds = paired_intervals(*([counts_of(one["boundary"], 3)] for one in (first, second)))
    assert [difference.mean.low, difference.mean.high] == bounds[-1].tolist()
    assert [difference.classes[1].low, difference.classes[1].high] == bounds[1].tolist()
    assert difference.classes[2].value is None


def test_seeds_are_averaged_and_listed() -> None:
    runs = [
        with_boundary(role, seed, edges=edges)
        for role, edges in (("baseline", 0.3), ("distill", 0.5))
        for seed in range(3)
    ]
    compared = compare(runs)
    boundary = compared.groups[0].boundary
    assert boundary is not None
    mious = [run["boundary"]["miou"] for run in runs]
    assert boundary.miou == pytest.approx(np.mean(mious[:3]))
    assert boundary.spread == pytest.approx(np.std(mious[:3], ddof=1))
    (difference,) = compared.boundary_differences
    expected = [(seed, pytest.approx(mious[3 + seed] - mious[seed])) for seed in range(3)]
    assert list(difference.by_seed) == expected
    assert difference.mean.value == pytest.approx(np.mean(mious[3:]) - np.mean(mious[:3]))
    (line,) = [line for line in tables.summary_lines(compared) if "mean boundary IoU" in line]
    assert line.startswith(f"distill - baseline = {100 * (difference.mean.value or 0):+.2f} mean boundary IoU, 95 % ")
    assert "over the choice of these 40 images; by seed 0: +" in line
    columns, rows = tables.summary_table(compared.groups)
    cell = dict(zip(columns, rows[0], strict=True))["boundary IoU"]
    assert cell == f"{100 * boundary.miou:.2f} ± {100 * (boundary.spread or 0):.2f}"


def test_the_table_has_the_classes_and_their_mean() -> None:
    compared = compare([with_boundary(), with_boundary("distill", edges=0.5)])
    table = tables.boundary_table(compared)
    assert table is not None
    columns, rows = table
    assert columns == ["class", "baseline", "distill", "distill - baseline"]
    assert [row[0] for row in rows] == [*CLASSES, "mean boundary IoU"]
    assert rows[2][1:] == ["–", "–", "–"]
    assert "[" in rows[-1][-1]
    separate = tables.boundary_table(compared, separate_bounds=True)
    assert separate is not None
    assert separate[0][-2:] == ["distill - baseline, 2.5 %", "distill - baseline, 97.5 %"]


def test_without_boundary_iou_all_is_as_before() -> None:
    compared = compare([record(), record("distill", skill=0.7)])
    assert compared.boundary_differences == compared.boundary_warnings == ()
    assert tables.boundary_table(compared) is None
    assert "boundary IoU" not in tables.summary_table(compared.groups)[0]
    assert not any("boundary" in line for line in tables.summary_lines(compared))
    with_it = compare([with_boundary(), with_boundary("distill", skill=0.7)])
    assert with_it.differences == compared.differences
    assert with_it.warnings == compared.warnings


def test_results_without_it_are_named() -> None:
    compared = compare([with_boundary("teacher"), with_boundary(), record("distill", skill=0.7)])
    assert compared.boundary_warnings == (
        "no boundary IoU of distill: the result has none; compare the checkpoints with `--boundary-iou`",
    )
    assert compared.boundary_differences == ()
    assert len(compared.differences) == 1
    assert not any("boundary" in warning for warning in compared.warnings)  # it does not weaken the mIoU
    table = tables.boundary_table(compared)
    assert table is not None
    assert table[0] == ["class", "teacher", "baseline"]
    columns, rows = tables.summary_table(compared.groups)
    cells = [dict(zip(columns, row, strict=True))["boundary IoU"] for row in rows]
    assert cells[2] == "–"
    assert "–" not in cells[:2]
    assert any(line.startswith("warning: no boundary IoU of distill") for line in tables.summary_lines(compared))


def test_a_group_without_it_leaves_the_difference_of_the_others() -> None:
    records = [record("teacher"), with_boundary(), with_boundary("distill", edges=0.6)]
    compared = compare(records)
    assert [(one.base, one.to) for one in compared.boundary_differences] == [("baseline", "distill")]
    assert "no boundary IoU of teacher" in compared.boundary_warnings[0]


def test_seeds_of_which_some_have_it_are_named() -> None:
    compared = compare([with_boundary(seed=0), record(seed=1), with_boundary("distill")])
    assert compared.groups[0].boundary is None
    assert compared.boundary_differences == ()
    assert compared.boundary_warnings == (
        "no boundary IoU of baseline: only some of its seeds have it; compare the checkpoints with `--boundary-iou`",
    )


@pytest.mark.parametrize("same_group", [True, False])
def test_other_widths_are_not_compared(same_group: bool) -> None:
    narrow = with_boundary(seed=1, width=0.005) if same_group else with_boundary("distill", width=0.005)
    compared = compare([with_boundary(), narrow])
    assert compared.boundary_differences == ()
    assert tables.boundary_table(compare([with_boundary(), with_boundary("distill", width=0.005)])) is None
    each = "baseline 0.005 and 0.02" if same_group else "baseline 0.02 and distill 0.005"
    assert compared.boundary_warnings == (
        f"boundary IoU is not compared, as the widths of the boundaries differ: {each}; compare the checkpoints with "
        "`--boundary-iou`",
    )
    assert "boundary IoU" not in tables.summary_table(compared.groups)[0]


def test_the_document_has_it() -> None:
    compared = compare([with_boundary(), with_boundary("distill", edges=0.5)])
    document = json.loads(json.dumps(as_document(compared)))
    assert document["groups"][0]["boundary"]["width"] == 0.02
    assert document["boundary_differences"][0]["mean"]["value"] == compared.boundary_differences[0].mean.value
    plain = json.loads(json.dumps(as_document(compare([record(), record("distill", skill=0.7)]))))
    assert plain["groups"][0]["boundary"] is None
    assert plain["boundary_differences"] == []
