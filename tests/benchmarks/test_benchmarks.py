from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import memory, plain, step, transfer
from benchmarks.__main__ import main
from benchmarks.registry import load_benchmarks
from benchmarks.report import table, write_report
from benchmarks.result import Disagreement, Result, Row, Setting
from benchmarks.store import Store
from tests.helpers.cli import rmrkd

QUICK = Setting(pairs=1, quick=True)
ROWS = {
    "startup": 4,
    "data": 3,
    "evaluation": 2,
    "guarantees": 2,
    "rmrkd-19x2048": 2,
    "rmrkd-150x512": 2,
    "rmrkd-bmm": 2,
    "step": 2,
    "step-parts": 2,
    "stored-teacher": 3,
}
RESULT = Result(
    "one",
    "what is compared",
    "agrees",
    [
        Row("fast", "s", [10.0, 20.0, 60.0], [0.1, 0.1, 0.1], goal=150.0),
        Row("memory", "B", [2**30], [2**20], goal=2000.0),
        Row("bound", "s", [1.0], [1.5], bound=True, goal=2.0),
        Row("no goal", "s", [1.0], [1.0]),
    ],
    taken="today",
)


def in_this_process(*command: Any) -> str:
    """`rmrkd transfer IN OUT`, or a copy of IN to OUT."""
    if command[1] == "transfer":
        return rmrkd(*command[1:]).stdout
    torch.save(torch.load(command[-2], weights_only=True), command[-1])
    return ""


SLOW = ("transfer", "rmrkd-19x2048")  # they start interpreters


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in load_benchmarks()]
)
def test_every_benchmark_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that import torch take most of the time, so only one benchmark measures memory in processes."""
    monkeypatch.setattr(transfer, "output", in_this_process)
    if name != "rmrkd-19x2048":
        monkeypatch.setattr(memory, "_in_own_process", lambda *_: 1.0)
    result = load_benchmarks()[name](QUICK)
    assert (result.name, len(result.rows)) == (name, ROWS.get(name, 1))
    assert all(len(row.plain) == len(row.ours) == 1 and row.ratios[0] > 0 for row in result.rows)


@pytest.mark.parametrize("side", memory.SIDES)
def test_the_steps_for_memory_run(side: str) -> None:
    assert "mgd" in step.workload("step", side, QUICK)()


@pytest.mark.parametrize(
    ("name", "function"),
    [("rmrkd-19x2048", "rmrkd"), ("idd", "idd"), ("ifvd", "ifvd"), ("mgd", "mgd"), ("step", "dkd")],
)
def test_a_wrong_result_fails(name: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(plain, function)
    monkeypatch.setattr(plain, function, lambda *given, **named: 2 * right(*given, **named))
    with pytest.raises(Disagreement, match="relative difference"):
        load_benchmarks()[name](QUICK)


def test_a_wrong_result_gives_exit_code_1_and_the_others_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = plain.idd
    monkeypatch.setattr(plain, "idd", lambda *given, **named: 2 * right(*given, **named))
    report = tmp_path / "report.md"
    assert main(["idd", "ifvd", "--quick", "--device", "cpu", "--output", str(report)]) == 1
    output, written = capsys.readouterr(), report.read_text(encoding="utf-8")
    assert "idd: FAILED" in output.err
    assert not output.out
    assert "ifvd: time" in written
    assert "idd: time" not in written


def test_an_unknown_name_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rmrdk", "--quick"])
    assert "rmrkd-bmm" in capsys.readouterr().err


def test_ratios_and_goals() -> None:
    fast, memory, bound, no_goal = RESULT.rows
    assert fast.ratios == pytest.approx([100, 200, 600])
    assert (memory.ratios, bound.ratios) == ([1024.0], [1.5])
    assert [row.meets_goal for row in (fast, memory, bound, no_goal)] == [True, False, True, None]


def test_the_report_shows_median_range_and_goal() -> None:
    written = write_report({"CPU": "a CPU"}, [RESULT])
    against_plain, against_bound = (
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| one")]
        for part in written.split("## ")[1:3]
    )
    assert against_plain == [
        ["one: fast", "20.0 s", "100 ms", "200 (100 – 600)", "≥ 150", "yes"],
        ["one: memory", "1.00 GiB", "1 MiB", "1024", "≥ 2000", "**no**"],
        ["one: no goal", "1.00 s", "1.00 s", "1.00", "–", "–"],
    ]
    assert against_bound == [["one: bound", "1.00 s", "1.50 s", "1.50", "≤ 2", "yes"]]
    assert "- CPU: a CPU" in written
    assert "What is compared. Check: agrees. Taken today, 3 pairs." in written


def test_columns_of_a_table_have_equal_width() -> None:
    assert (
        table(("a", "b", "c"), [("long", "1", "yes")]) == "| a    | b | c   |\n| ---- | : | --- |\n| long | 1 | yes |"
    )


def test_results_of_another_machine_are_discarded(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    Store(path, {"CPU": "one"}).put(RESULT)
    assert Store(path, {"CPU": "one"}).results == {"one": RESULT}
    assert Store(path, {"CPU": "another"}).results == {}


@pytest.mark.parametrize(
    "module", ["benchmarks.side_by_side", "benchmarks.guarantees", "benchmarks.gpu", "benchmarks.__main__"]
)
def test_every_entry_point_is_importable(module: str) -> None:
    assert importlib.import_module(module)
