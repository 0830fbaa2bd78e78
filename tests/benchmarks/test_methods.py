"""`python -m benchmarks.methods`: it runs, resumes, and shows what was measured."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import memory, plain
from benchmarks.methods import __main__ as command
from benchmarks.methods import losses, steps
from benchmarks.methods.costs import format_ratio, write_costs
from benchmarks.methods.page import Page
from benchmarks.methods.runs import Conditions, Outcome
from benchmarks.result import Disagreement, Result, Row, Setting
from benchmarks.store import Store
from benchmarks.training import BASELINE, TEACHER, wrap_in_shell
from rmrkd_cli.losses import LOSSES
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import load_method, method_names, preset_dir
from tests.helpers.cli import rmrkd

QUICK = Setting(pairs=1, quick=True)
Starts = list[list[str]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """The trainings that were started, in this process: importing torch would be most of what they take."""
    starts: Starts = []

    def start(arguments: list[str], output: Path) -> int:
        starts.append(arguments)
        return rmrkd(*arguments).exit_code

    monkeypatch.setattr(command, "start", start)
    monkeypatch.setattr(memory, "_in_own_process", lambda *_: 2.0**20)
    return starts


def rows_of(page: str, title: str) -> dict[str, list[str]]:
    """A table's cells, by their first."""
    part = page.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
    return {cells[0].strip("`"): cells[1:] for cells in lines[2:]}


@pytest.mark.slow
def test_everything_runs_and_resumes(
    tiny: Path,
    tmp_path: Path,
    started: Starts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, folder, results = tmp_path / "page.md", tmp_path / "work", tmp_path / "results"
    given = ["--quick", "--preset", str(tiny), "--methods", "kd,rmrkd", "--work-dir", str(folder), "--device", "cpu"]
    given += ["--results", str(results)]
    original = command.start
    monkeypatch.setattr(
        command, "start", lambda arguments, output: 1 if "kd" in arguments else original(arguments, output)
    )
    assert command.main([*given, "--output", str(page)]) == 1
    first = page.read_text()
    assert set(rows_of(first, "Equal iterations")) == {"baseline", "rmrkd"}
    assert {"teacher", "baseline", "distill"} == {value_of(arguments, "--role") for arguments in started}

    monkeypatch.setattr(command, "start", original)
    started.clear()
    assert command.main([*given, "--output", str(page)]) == 0
    assert [value_of(arguments, "--method") for arguments in started] == ["kd", "kd"]
    second = page.read_text()
    started.clear()
    assert command.main([*given, "--output", str(page)]) == 0
    assert not started
    assert page.read_text() == second
    assert "Tiny sizes" in second
    check_page(second, folder)

    shutil.rmtree(folder)
    assert command.main([*given, "--output", str(page)]) == 0
    assert not started  # all of it follows from the records
    assert page.read_text() == second
    assert not any(str(tmp_path) in path.read_text() for path in (results / "equal-iterations").iterdir())

    (results / "equal-iterations" / "kd-seed-0.json").unlink()
    capsys.readouterr()
    assert command.main([*given, "--output", str(page)]) == 0
    assert [value_of(arguments, "--role") for arguments in started] == ["teacher", "distill"]
    assert "differs" not in "".join(capsys.readouterr())  # trained again, to the same bits
    assert without_memory(page.read_text()) == without_memory(second)


@pytest.mark.slow
def test_methods_are_trained_with_what_their_trials_chose(tiny: Path, tmp_path: Path, started: Starts) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "work"
    given = ["--quick", "--preset", str(tiny), "--methods", "kd", "--work-dir", str(folder), "--device", "cpu"]
    given += ["--trials", "2", "--set", "schedule.iters=3", "--output", str(page)]
    assert command.main(given) == 0
    assert [arguments[0] for arguments in started] == [*["train"] * 3, "tune", *["train"] * 4]
    tune = next(arguments for arguments in started if arguments[0] == "tune")
    assert (value_of(tune, "--trials"), value_of(tune, "--max-iters")) == ("2", "1")
    chosen = load_preset(str(tiny), recipe=str(folder / "tuning" / "kd" / "best.yaml")).losses["kd"]
    for name, miou in (("equal-iterations", "Equal iterations"), ("equal-time-0.2s", "Equal time")):
        run, automatic = (folder / each / "seed-0" / "distill-kd" for each in (f"{name}-tuned", name))
        assert load_preset(str(run / "config.yaml")).losses["kd"] == chosen
        assert load_preset(str(automatic / "config.yaml")).losses["kd"].weight == "auto"
        for title, one in ((f"{miou}, tuned", run), (miou, automatic)):
            result = json.loads((one / "result.json").read_text())
            assert rows_of(page.read_text(), title)["kd"][0] == f"{100 * result['metrics']['miou']:.2f}"
            assert set(rows_of(page.read_text(), title)) == {"baseline", "kd"}
    assert isinstance(chosen.weight, float)
    text = " ".join(page.read_text().split())
    assert "in 2 trials of 1 iterations" in text
    assert "chosen by mIoU on the validation images of the tables" in text
    ((searched, settings),) = rows_of(page.read_text(), "Tuned settings").values()
    assert searched == "2"
    assert f"kd.weight {chosen.weight:.3g}" in settings
    cost = rows_of(page.read_text(), "Seconds of a step")
    assert cost["cost of `kd"][4] == "1.00"  # to `kd`
    assert rows_of(page.read_text(), "Equal iterations, tuned")["kd"][5] == cost["cost of `kd, tuned"][0]
    started.clear()
    assert command.main(given) == 0
    assert not started
    given[given.index("--trials") + 1] = "3"  # one trial more
    command.main(given)  # where it is the best, the runs with other weights are in the way
    assert [arguments[0] for arguments in started].count("tune") == 1


def without_memory(page: str) -> str:
    """The trainings run in this process, whose peak only grows. Columns are as wide as their longest figure."""
    return re.sub(r" +|-{3,}", " ", re.sub(r"[\d.]+ [MG]iB", "", page))


def value_of(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def check_page(page: str, folder: Path) -> None:
    reached, later = rows_of(page, "Equal iterations"), rows_of(page, "Equal time")
    assert set(reached) == set(later) == {"baseline", "kd", "rmrkd"}
    places = {"baseline": "baseline", "kd": "distill-kd", "rmrkd": "distill"}
    for rows, where in ((reached, "equal-iterations"), (later, "equal-time-0.2s")):
        means = [float(cells[0]) for cells in rows.values()]
        assert means == sorted(means, reverse=True)
        for name, cells in rows.items():
            result = json.loads((folder / where / "seed-0" / places[name] / "result.json").read_text())
            assert cells[0] == f"{100 * result['metrics']['miou']:.2f}"
    seconds = rows_of(page, "Seconds of a step")
    assert {name: cells[0] for name, cells in seconds.items()} == {
        f"cost of `{name}": reached[name][5] for name in ("kd", "rmrkd")
    }
    weights = json.loads((folder / "equal-iterations/seed-0/distill-kd/result.json").read_text())["training"]["weights"]
    assert rows_of(page, "Automatic weights")["kd"][1] == f"{weights['kd']:g}"
    assert set(rows_of(page, "Losses against the plain form of their formulas")) == {"dkd", "kd", "mgd", "rmrkd"}


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_a_loss_agrees_with_the_plain_form_it_is_timed_against(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_in_own_process", lambda *_: 1.0)
    if kind == "adversarial":  # trains a network of its own, and has no formula to write plainly
        assert losses.naive_of(kind) is None
        return
    result = losses.against_plain(kind, QUICK)
    assert "value" in result.checked
    assert [row.label for row in result.rows] == ["time", "extra memory"]


def test_a_wrong_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = plain.idd
    monkeypatch.setattr(plain, "idd", lambda *given: 2 * right(*given))
    with pytest.raises(Disagreement, match="relative difference"):
        losses.against_plain("idd", QUICK)


def stored(tmp_path: Path) -> Store:
    store = Store(tmp_path / "measured.json", {"CPU": "one"})
    for name, times in {BASELINE: [0.1, 0.2, 0.4], "kd": [0.3, 0.5, 0.8], "mgd": [0.1, 0.3, 0.8]}.items():
        row = Row("time", "s", [0.1, 0.2, 0.4], times, bound=True)
        store.put(Result(steps.key(name), name, "", [row]))
    return store


def test_kept_times_are_those_of_the_same_networks_and_device(tmp_path: Path) -> None:
    machine = {"CPU": "one", "measured on": "cpu", "networks": "demo"}
    store = Store(tmp_path / "measured.json", machine, keep=True)
    store.put(Result("step kd", "kd", "", [Row("time", "s", [0.1], [0.2], bound=True)]))

    def found(**changed: str) -> tuple[list[str], str]:
        again = Store(tmp_path / "measured.json", {**machine, **changed}, keep=True)
        return list(again.results), again.machine["CPU"]

    assert found(CPU="two") == (["step kd"], "one")
    assert found(networks="other") == ([], "one")
    assert found(**{"measured on": "cuda"}) == ([], "one")


def test_iterations_of_equal_time_follow_the_ratio_to_the_baseline(tmp_path: Path) -> None:
    store = stored(tmp_path)
    assert [steps.seconds(name, store) for name in (BASELINE, "kd", "mgd")] == pytest.approx([0.2, 0.5, 0.3])
    assert [steps.iterations(name, store, 20.0) for name in (BASELINE, "kd", "mgd", "at")] == [100, 40, 67, None]
    assert steps.iterations("kd", store, 0.01) == 1


def test_steps_with_other_settings_are_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "measured.json", {"CPU": "one"})
    timed: list[tuple[str, Sequence[str]]] = []
    monkeypatch.setattr(steps, "_step", lambda name, settings, *_: timed.append((name, settings)))
    monkeypatch.setattr(steps, "rounds", lambda found, _: [[1.0 + place] for place in range(len(found))])
    conditions = Conditions("demo", (0,), ("kd", "mgd"), (), 20.0, tmp_path, "cpu")

    def measure(chosen: dict[str, list[str]] | None = None) -> list[tuple[str, Sequence[str]]]:
        timed.clear()
        steps.measure(conditions, QUICK, store, "today", chosen)
        return timed

    own = [(BASELINE, ()), ("kd", ()), ("mgd", ())]
    assert [list(measure()), list(measure())] == [own, []]
    few, many = (["losses.mgd.mask_ratio=0.3"], ["losses.mgd.mask_ratio=0.8"])
    assert measure({"mgd": few}) == [(BASELINE, ()), ("mgd", few)]
    assert not measure({"mgd": few})
    assert measure({"mgd": many}) == [(BASELINE, ()), ("mgd", many)]
    assert steps.iterations("mgd, tuned", store, 20.0) == 10  # of the baseline's 20, in twice its time
    assert steps.iterations("mgd", store, 20.0) == 7


def test_the_page_shows_means_spreads_and_differences(tmp_path: Path) -> None:
    def one(name: str, *miou: float, **weights: tuple[float, ...]) -> Outcome:
        return Outcome(name, miou, 300, 2.0**30, weights, dict.fromkeys(weights, "by the rule"))

    outcomes = {
        TEACHER: one(TEACHER, 50, 51, 52),
        BASELINE: one(BASELINE, 20, 21, 22),
        "kd": one("kd", 22, 21, 26, kd=(1.5, 3.0, 2.0)),
        "mgd": one("mgd", 19, 20, 21.5, mgd=(2e-5, 2e-5, 2e-5)),
    }
    page = Page(load_preset("demo"), "the command", "today", (0, 1, 2), 20.0, stored(tmp_path), outcomes, {}).text()
    reached = rows_of(page, "Equal iterations")
    assert list(reached) == ["kd", BASELINE, "mgd"]
    assert reached["kd"] == [
        "23.00", "2.65", "+2.00", "+2.00, +0.00, +4.00", "0.500", "2.50", "1.00 GiB", "22.00, 21.00, 26.00",
    ]  # fmt: skip
    assert reached[BASELINE][:4] == ["21.00", "1.00", "–", "–"]
    assert reached["mgd"][3] == "-1.00, -1.00, -0.50"
    assert rows_of(page, "Automatic weights")["kd"] == ["kd", "1.5 – 3", "–", "by the rule"]
    assert "The teachers of the seeds have 50.00, 51.00, 52.00." in " ".join(page.split())
    assert "## Equal time" not in page
    assert "Written by `the command`, today." in page


def test_costs_are_written_into_the_recipes_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    for name in method_names():
        (folder / f"{name}.yaml").write_text((preset_dir() / "methods" / f"{name}.yaml").read_text())
    before = {name: load_method(name) for name in method_names()}
    for module in ("names", "methods"):
        monkeypatch.setattr(f"rmrkd_cli.presets.{module}.preset_dir", lambda: tmp_path)
    first = {name: 1.234 + number for number, name in enumerate(before)}
    for ratios in (first, {"kd": 7.0}):
        assert {path.stem for path in write_costs(ratios, folder)} == set(ratios)
        assert not write_costs(ratios, folder)
    for name, old in before.items():
        cost = 7.0 if name == "kd" else float(format_ratio(first[name]))
        assert old.about is not None
        assert load_method(name) == old.model_copy(update={"about": old.about.model_copy(update={"cost": cost})})
        assert (folder / f"{name}.yaml").read_text().startswith("# rmrkd train ")


def test_a_training_does_not_begin_with_the_peak_memory_of_this_process() -> None:
    tell = [sys.executable, "-c", "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"]
    ballast = b"x" * (300 << 20)
    peak_kib = int(subprocess.run(wrap_in_shell(tell), capture_output=True, text=True, check=True).stdout)
    assert peak_kib << 10 < len(ballast)
    assert subprocess.call(wrap_in_shell([sys.executable, "-c", "raise SystemExit(7)"])) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "cirdk"], "did you mean `cirkd`"),
        (["--seeds", "0,0"], "--seeds"),
        (["--time", "0"], "--time"),
        (["--rounds", "0"], "--rounds"),
        (["--trials", "1"], "--trials"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--quick", *arguments])
    assert message in capsys.readouterr().err
