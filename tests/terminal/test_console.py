"""Tables of numbers on narrow terminals."""

from __future__ import annotations

import pytest

from rmrkd_cli.terminal import console

COLUMNS = ["class", "baseline", "distill", "distill - baseline"]
ROWS = [["sky", "18.44", "68.44", "+50.00 [+46.60, +52.71]"], ["mean IoU", "7.34", "15.35", "+8.01 [+7.47, +8.43]"]]


def printed(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr(console.out, "width", width)
    console.print_numbers("IoU, %", COLUMNS, ROWS, ["a note"], bold_last=True)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_table_that_fits_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    needed = 1 + sum(3 + width for width in (8, 8, 7, 23))
    lines = printed(needed, monkeypatch, capsys)
    assert sum("class" in line for line in lines) == 1
    assert "  sky           18.44     68.44   +50.00 [+46.60, +52.71]" in lines
    assert lines[-1] == "a note"


@pytest.mark.parametrize("width", [20, 30, 40, 57])
def test_a_wider_table_is_split_between_columns(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No number continues on the next line, unless it is wider than the terminal beside the first column."""
    lines = printed(width, monkeypatch, capsys)
    assert lines[0] == "IoU, %"
    assert lines.count("IoU, %") == lines.count("a note") == 1
    assert lines[-1] == "a note"
    blocks = sum("class" in line for line in lines)
    assert blocks == (2 if width > 31 else 3)
    assert sum(line.startswith("  sky ") for line in lines) == blocks
    for number in ("18.44", "68.44", "7.34", "15.35"):
        assert sum(number in line for line in lines) == 1
    if width > 37:
        assert any("+50.00 [+46.60, +52.71]" in line for line in lines)


def test_a_table_of_names_alone_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console.out, "width", 12)
    console.print_numbers("", ["class"], [["sky"]])
    assert "sky" in capsys.readouterr().out
