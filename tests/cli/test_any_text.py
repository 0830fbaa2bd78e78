"""Any text as the value of any option: exit code 0 or 2, no traceback, and no file changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from rmrkd_cli.cli.app import app
from rmrkd_cli.distributed.job import EvalJob
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.terminal.sanitize import CONTROL
from rmrkd_cli.training import preflight
from tests.cli.test_bad_input import Stamps, contents, fill
from tests.helpers.cli import run_main

CAMVID = ["--preset", "psp18w32-psp18w8-camvid", "--data-root", "camvid", "--work-dir", "work"]
BASE = {  # arguments with which each command gets as far as possible
    "train": CAMVID, "eval": ["plain.pth"], "transfer": ["released.pth", "out.pth"], "compare": ["a.json", "same.json"],
    "doctor": ["--no-step"], "plot": ["runs/good"],
    "predict": ["plain.pth", "camvid", "--out", "shown"], "export": ["plain.pth", "out.onnx"],
    "data check": ["camvid", "--data-root", "camvid", "--workers", "1"],
    "data prepare": ["voc12aug", "--data-root", "hollow", "--sbd", "hollow", "--workers", "1"],
}  # fmt: skip
HOSTILE = [
    "", " ", "-", "--", "-x", "--help", ".", "..", "../..", "/", "~", "~nobody-of-this-name/x", "/dev/null",
    "/dev/zero", "/proc/self/mem", "camvid", "no/such/folder/file", "plain.pth/below", "x" * 5000, "x/" * 3000, "a\0b",
    "\ud800",
    "\udcff", "a\nb", "a\r\x1b[2J\x1b]0;title\x07", "\x9b31m", "\u202eabc", "[red]x[/red]:bug:", "\\", "ünïcode 図",
    "0", "-1",
    "nan", "inf", "1e999", "9" * 400, "9" * 5000, "10000000000000000000000000000000", "0x10", "1_000", "true", "null",
    "none", "{a: b}", "[[[[", "a=b", "title=x", "seed=" + "9" * 99, "schedule.iters=1e999", "teacher=&a [*a]",
    "losses=" + "[" * 999,
    "a.b.c.d=1", "=", "title={\"\ud800\": 1}", "schedule.crop=[99999999,99999999]", "auto", "cpu", "1,2",
    ",".join("1" * 99), "host:99999", "host:29500", "all", "mgd", "cityscapes",
]  # fmt: skip
TEXT = st.sampled_from(HOSTILE) | st.text(max_size=30) | st.integers().map(str) | st.floats().map(str)


def parameters(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the words and each parameter of every command."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner, (*path, name))
    if path and not hasattr(command, "commands"):
        yield from ((path, parameter) for parameter in command.params)


PARAMETERS = list(parameters(typer.main.get_command(app)))


def line(path: tuple[str, ...], parameter: Any, value: str) -> list[str]:
    """Return a command line in which only one value may be wrong."""
    base = list(BASE.get(" ".join(path), []))
    if parameter.param_type_name == "option":
        name = max(parameter.opts, key=len)
        return [*path, *base, name if getattr(parameter, "is_flag", False) else f"{name}={value}"]
    arguments = [other for there, other in PARAMETERS if there == path and other.param_type_name == "argument"]
    given = base or [value] * sum(other.required for other in arguments)
    number = arguments.index(parameter)
    return [*path, *given[:number], value, *given[number + 1 :]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep") / "below" / "inputs"
    folder.mkdir(parents=True)
    fill(folder)
    (folder / "same.json").write_bytes((folder / "a.json").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def here(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory. All checks run in it, but no training and no evaluation."""
    record = json.loads((filled / "a.json").read_text())
    checked = preflight.check_inputs

    def check(*args: Any, **options: Any) -> None:
        checked(*args, **options)
        raise RmrkdError("all checks passed")

    def execute(job: EvalJob, cluster: object) -> None:
        Path(job.output).write_text(json.dumps(record))

    monkeypatch.chdir(filled)
    monkeypatch.setenv("RMRKD_CACHE", str(filled.parent / "cache"))
    monkeypatch.setattr("rmrkd_cli.training.preflight.check_inputs", check)
    monkeypatch.setattr("rmrkd_cli.distributed.launcher.execute", execute)
    monkeypatch.setattr("rmrkd_cli.doctor.run_checks", lambda step: iter(()))
    monkeypatch.setattr("rmrkd_cli.training.dry_run.report_dry_run", lambda *args, **options: ["rehearsed"])
    monkeypatch.setattr("rmrkd_cli.report.html.write_figures", lambda *args: [])
    monkeypatch.setattr("rmrkd_cli.report.html.document.inline_svg", lambda *args, **options: Markup())
    monkeypatch.setattr("rmrkd_cli.report.figures.draw_curves", lambda *args, **options: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    usage = shutil.disk_usage(filled)._replace(free=1 << 50)  # whatever this machine has: no warning of a full disk
    monkeypatch.setattr("rmrkd_cli.training.disk_check.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("rmrkd_cli.installation.setup.find_installer", lambda **_: nullcontext(Mock()))
    monkeypatch.setattr("rmrkd_cli.doctor.demo_network.build_demo_student", lambda: 1)
    return filled


def check(path: tuple[str, ...], parameter: Any, value: str, here: Path, before: Stamps) -> None:
    if parameter.name == "unlabelled" and value == "/":
        return  # it would read all images of this machine
    code, out, err = run_main(*line(path, parameter, value))
    assert code in (0, 2), err
    assert "Traceback" not in err
    begins = ("error: ", "rmrkd ") if parameter.name == "verbose" else "error: "
    assert err.startswith(begins) or code == 0, err
    assert not CONTROL.search((out + err).replace("\n", ""))
    after = contents(here)
    assert {name: after.get(name) for name in before} == before
    written = {value} if parameter.name == "log_file" else set()  # it has the error
    if code == 2 and path != ("data", "check"):  # it writes --json even if it finds errors
        assert {name for name in after if after[name] != before.get(name)} <= written
    for name in sorted(set(after) - set(before), reverse=True):  # results
        file = here / name
        file.rmdir() if file.is_dir() else file.unlink()


@pytest.mark.parametrize(
    "quarters", [{0}, pytest.param({1, 2, 3}, marks=pytest.mark.slow)], ids=["a quarter of the values", "the others"]
)
@pytest.mark.parametrize(("path", "parameter"), PARAMETERS, ids=lambda part: str(getattr(part, "name", part)))
def test_hostile_values(path: tuple[str, ...], parameter: Any, quarters: set[int], here: Path) -> None:
    """Each parameter gets every fourth value at first, and its neighbours get the others."""
    before = contents(here)
    for number, value in enumerate(HOSTILE, -PARAMETERS.index((path, parameter))):
        if number % 4 in quarters:
            check(path, parameter, value, here, before)
            if getattr(parameter, "is_flag", False):
                break


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PARAMETERS), value=TEXT)
def test_any_text(place: tuple[tuple[str, ...], Any], value: str, here: Path) -> None:
    if "/" in value and value not in HOSTILE:
        value = value.replace("/", "")  # no results outside of this folder
    check(*place, value, here, contents(here))
