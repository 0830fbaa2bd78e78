from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmrkd_cli.terminal.durations import format_clock, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("90 min", 5400), ("1h30m", 5400), ("45s", 45), ("45", 45), ("1h 1m 1s", 3661),
     ("0.5h", 1800), ("1H", 3600), ("2.5", 2.5)],
)  # fmt: skip
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2x", "-5", "1m2h", "1e3", "nan", "٣h", "1h30m45s9", "9" * 40])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="2h, 90m, 1h30m or 45s"):
        parse_duration(text)


@given(st.integers(0, 10**7))
def test_what_is_shown_is_read_back(seconds: int) -> None:
    shown = format_duration(seconds)
    assert abs(parse_duration(shown) - seconds) <= (30 if seconds >= 3600 else 0)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(7200, "2 h"), (3661, "1 h 01 min"), (7199.9, "2 h"), (3600 * 1.9999, "2 h"), (750, "12 min 30 s"),
     (720, "12 min"), (45, "45 s"), (2.5, "2.5 s"), (0, "0 s"), (59.7, "1 min")],
)  # fmt: skip
def test_times_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


def test_a_clock_never_runs_below_nought() -> None:
    assert [format_clock(seconds) for seconds in (3725, 59.6, -3)] == ["1:02:05", "0:01:00", "0:00:00"]
