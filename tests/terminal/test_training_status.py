"""What a training run shows of itself fits any terminal."""

from __future__ import annotations

import time

import pytest

from rmrkd_cli.terminal.training_status import TrainingStatus, number, sparkline


def course(*names: str, steps: int = 30) -> TrainingStatus:
    made = TrainingStatus("distill", best=(0.3655, 200))
    for step in range(steps):
        made.logged({name: 2.0 / (step + 1 + place) for place, name in enumerate(names)})
    made.moved(0.4, "120/300", 0.146, 26.4, unknown=False)
    return made


FIVE = ("ce", "aux_ce", "rmrkd", "mgd", "dkd")


def test_a_course_goes_from_its_lowest_to_its_highest() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([9, 9, 1, 5, 2], 3) == "▁█▃"
    assert sparkline([3, 3], 5) == "▁▁"
    assert sparkline([float("nan")], 5) == ""


@pytest.mark.parametrize("width", [1, 20, 40, 60, 77, 80, 119, 200])
@pytest.mark.parametrize("drawn", [True, False])
def test_no_line_is_wider_than_the_terminal(width: int, drawn: bool) -> None:
    for names in (("ce",), FIVE, tuple(f"a_very_long_name_{place}" for place in range(20))):
        shown = course(*names)
        rows = shown.rows(width, drawn=drawn)
        assert all(len(row) <= width for row in rows)
        assert len(shown.facts(width)) <= width
        assert len(rows) <= 4


@pytest.mark.parametrize(("width", "rows"), [(77, 2), (117, 2)])
def test_total_and_five_losses_are_all_there_with_their_course(width: int, rows: int) -> None:
    shown = course(*FIVE).rows(width)
    assert len(shown) == rows
    text = "\n".join(shown)
    for name in ("total", *FIVE):
        assert f"{name} " in text
    assert text.count("█") >= 6
    assert "0.067" in text  # the last of `ce`, weighted


def test_the_note_for_logs_holds_losses_and_best() -> None:
    assert course("ce", "dkd").note == "ce 0.067  dkd 0.065  best mIoU 36.55"


def test_time_left_runs_on_between_steps_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shown = TrainingStatus("distill")
    assert shown.time_left == ""
    shown.moved(0.1, "1/10", 1.0, 90.0, unknown=True)
    now = 130.0
    assert shown.time_left == "0:01:00+"


def test_values_of_any_size_fit_their_column() -> None:
    shown = [number(value) for value in (0.0, 1.5, 9999.0, 1e30, 1e-30, -1e38, float("nan"), float("inf"))]
    assert max(map(len, shown)) <= 9
    assert shown[:3] == ["0.000", "1.500", "9999.000"]
