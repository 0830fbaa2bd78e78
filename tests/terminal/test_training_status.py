"""The state of a training run, and its live display in terminals of any width."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from rmrkd_cli.terminal import messages
from rmrkd_cli.terminal.live_display import live_display
from rmrkd_cli.terminal.training_status import TrainingStatus, format_loss, sparkline


def make_status(*names: str, steps: int = 30) -> TrainingStatus:
    status = TrainingStatus("distill", best=(0.3655, 200))
    for step in range(steps):
        status.add_losses({name: 2.0 / (step + 1 + index) for index, name in enumerate(names)})
    status.update(0.4, "120/300", 0.146, 26.4, evaluation_time_unknown=False)
    return status


FIVE = ("ce", "aux_ce", "rmrkd", "mgd", "dkd")


def render(monkeypatch: pytest.MonkeyPatch, status: TrainingStatus, width: int) -> list[str]:
    """Return the lines of the live display, with the bar of a validation in progress."""
    stream = StringIO()
    terminal = Console(file=stream, force_terminal=True, width=width, no_color=True, legacy_windows=False)
    monkeypatch.setattr(messages, "err", terminal)
    with live_display() as display:
        training = display.training_progress(status)
        assert training is not None
        training.update()
        bar = display.progress_bar("validation", 80)
        assert bar is not None
        bar.update(3)
        assert display._progress is not None
        lines = terminal.render_lines(display._progress.get_renderable(), pad=False)  # as rich's Live does
    return ["".join(segment.text for segment in line) for line in lines]


def test_a_sparkline_goes_from_its_lowest_to_its_highest() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([9, 9, 1, 5, 2], 3) == "▁█▃"
    assert sparkline([3, 3], 5) == "▁▁"
    assert sparkline([float("nan")], 5) == ""


@pytest.mark.parametrize("width", [1, 20, 40, 60, 77, 80, 119, 200])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (("ce",), FIVE, tuple(f"a_very_long_name_{index}" for index in range(20))):
        lines = render(monkeypatch, make_status(*names), width)
        assert all(len(line) <= min(width, 79) for line in lines)
        assert len(lines) <= 13


@pytest.mark.parametrize("width", [80, 120])
def test_position_time_best_and_every_loss_are_shown(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = render(monkeypatch, make_status(*FIVE), width)
    assert len(lines) == 5
    text = "\n".join(lines)
    assert [part for part in ("distill", "120/300", "left 0:00:26", "validation", "3/80") if part not in text] == []
    assert "0.146 s/step   best mIoU 36.55 at iteration 200" in text
    for name in ("total", *FIVE):
        assert f"{name} " in text
    assert text.count("█") >= 6
    assert 9 <= lines[0].count("━") <= 10  # 40 % of 24
    assert "0.067" in text  # the last value of `ce`


def test_the_line_for_logs_holds_position_losses_and_best() -> None:
    assert make_status("ce", "dkd").log_line == "distill 120/300  ce 0.067  dkd 0.065  best mIoU 36.55"


def test_time_left_counts_down_between_steps_and_marks_unknown_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    status = TrainingStatus("distill")
    assert status.time_left == ""
    status.update(0.1, "1/10", 1.0, 90.0, evaluation_time_unknown=True)
    now = 130.0
    assert status.time_left == "0:01:00+"


def test_losses_of_any_size_fit_their_column() -> None:
    texts = [format_loss(value) for value in (0.0, 1.5, 9999.0, 1e30, 1e-30, -1e38, float("nan"), float("inf"))]
    assert max(map(len, texts)) <= 9
    assert texts[:3] == ["0.000", "1.500", "9999.000"]
