"""Text from files and arguments on stdout, stderr and in reports: control characters are escaped, nothing is lost."""

from __future__ import annotations

import copy
import csv
import json
import logging
import os
import subprocess
import sys
import warnings
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from rmrkd_cli.comparison.protocol import check_same_protocol
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.methods import preset_dir
from rmrkd_cli.results.record import to_json
from rmrkd_cli.terminal import console, live_display, messages, sanitize
from rmrkd_cli.terminal.sanitize import CONTROL, escape_control, escape_message
from tests.helpers.cli import run_main
from tests.presets.test_presets import places
from tests.report.test_tables import record

# Sets a title, clears the screen, uses both introducers, reverses a line, begins a line, has zero width and markup.
ODD = (
    "a\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\u2066\u200e\u2028c\u200b\ufeff\nerror: [red]x[/red] :bug: \\[b] "
    "</td><script>alert(1)</script>\x7f"
)
SEEN = (
    r"\x1b]0;title\x07",
    r"\x1b[2J",
    r"\x9b31m",
    r"\u202e",
    r"\u2028",
    r"\nerror:",
    "[red]x[",
    "red] :bug:",
    r"\[b]",
)
FILE = ODD.replace("/", "_")


def is_escaped(text: str) -> bool:
    """Return whether the whole text is visible and none of its control characters is left."""
    unfolded = text.replace("\n", "").replace(" ", "")
    return not CONTROL.search(text.replace("\n", "")) and all(part.replace(" ", "") in unfolded for part in SEEN)


def test_every_control_character_is_escaped() -> None:
    every = "".join(map(chr, range(0x110000)))
    shown = escape_control(every)
    assert not CONTROL.search(shown)
    assert escape_control("é図😀 \\x1b") == "é図😀 \\x1b"
    assert (escape_control("\x1b\u202e\n\t\udcff"), escape_control("\U000e0041")) == (
        r"\x1b\u202e\n\t\udcff",
        r"\U000e0041",
    )
    kept = [character for character in shown if character.isprintable() or ord(character) > 127]
    assert len(kept) > 1_000_000


def test_only_indented_lines_are_lines_of_a_message() -> None:
    assert escape_message("two:\n  a\n  b\nerror: c") == "two:\n  a\n  b\\nerror: c"
    assert escape_message("a\n b\r\n  c\x1b[2J\n\n  d") == "a\\n b\\r\n  c\\x1b[2J\\n\n  d"


@pytest.mark.parametrize("name", ["x\n  faked: line", "x`:\n  faked: line", "x\nerror: y"])
def test_no_argument_begins_a_line(name: str) -> None:
    for arguments in (
        ["eval", name],
        ["presets", f"{name}.yaml"],
        ["train", "--preset", "demo", "--set", f"seed={name}"],
    ):
        code, _, err = run_main(*arguments)
        assert code == 2
        assert not [line for line in err.splitlines()[1:] if line.strip().startswith(("faked", "error"))]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", ODD], ["transfer", ODD, "out.pth"], ["compare", ODD, "b.json"], [ODD],
        ["presets", f"{ODD}.yaml"], ["presets", ODD], ["train", "--preset", ODD],
        ["train", "--preset", "demo", f"--{ODD}"],
        ["train", "--preset", "demo", "--method", ODD], ["train", "--preset", "demo", "--role", ODD],
        ["train", "--preset", "demo", "--set", ODD], ["train", "--preset", "demo", "--set", f"title={json.dumps(ODD)}"],
        ["train", "--preset", "demo", "--set", f"{ODD}=1"], ["train", "--preset", "demo", "--cache", ODD],
        ["train", "--preset", "demo", "--gpus", ODD], ["train", "--preset", "demo", "--work-dir", ODD],
        ["eval", "x.pth", "--scales", ODD], ["eval", "x.pth", "--dataset", ODD], ["presets", "demo", ODD],
    ],
    ids=lambda arguments: " ".join(arguments).replace(ODD, "ODD")[:60].encode("unicode_escape").decode(),
)  # fmt: skip
def test_option_values_and_file_names_in_messages(arguments: list[str]) -> None:
    torch.save({"state_dict": {"student.decode_head.x": torch.ones(1)}}, "in.pth")
    code, out, err = run_main(*arguments)
    assert (code, out) == (2, "")
    assert not CONTROL.search(err.replace("\n", "")), err
    assert err.count("\nerror:") == 0
    assert r"\x1b" in err or "U+001B" in err or r"\u001b" in err, err


def test_names_on_stdout(here: Path) -> None:
    torch.save({"state_dict": {"student.decode_head.x": torch.ones(1)}}, "in.pth")
    code, out, err = run_main("transfer", "in.pth", f"{FILE}.pth")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert is_escaped(out)
    assert (here / f"{FILE}.pth").is_file()


def test_keys_of_a_checkpoint(here: Path) -> None:
    torch.save({"state_dict": {f"{ODD}.x": torch.ones(1)}}, f"{FILE}.pth")
    code, _, err = run_main("transfer", f"{FILE}.pth", "out.pth")
    assert code == 2
    assert is_escaped(err)


@pytest.mark.parametrize(
    "place", ["title", "name", "data.classes.0", "teacher.config", "losses", "data.root", "unknown"]
)
def test_texts_of_a_preset(place: str) -> None:
    raw = yaml.safe_load((preset_dir() / "demo.yaml").read_text())
    if place == "losses":
        raw["losses"][ODD] = {"type": "mgd"}
    elif place == "unknown":
        raw[ODD] = 1
    else:
        *parents, last = place.replace(".0", "").split(".")
        reduce(getitem, parents, raw)[last] = [ODD] if place.endswith("0") else ODD
    Path("own.yaml").write_text(yaml.safe_dump(raw))
    code, out, err = run_main("presets", "own.yaml")
    assert (code, out) == (2, "")
    assert not CONTROL.search(err.replace("\n", ""))
    assert "own.yaml" in err


def odd_records() -> list[dict[str, Any]]:
    records = [record(4, label=ODD), record(6, "distill", label=f"{ODD} 2", method=ODD)]
    for each in records:
        each["protocol"] = {**each["protocol"], "classes": [ODD, "=1+1", "-2+3"], "split": ODD, "fingerprint": ODD}
    return records


def test_records_in_tables_and_reports(here: Path) -> None:
    for number, made in enumerate(odd_records()):
        Path(f"{number}.json").write_text(json.dumps(made))
    code, out, err = run_main("compare", "0.json", "1.json", "--report", "report", "--json", "all.json")
    assert (code, err) == (0, "")
    assert is_escaped(out)
    for file in (file for file in (here / "report").iterdir() if file.suffix in (".html", ".csv", ".json")):
        text = file.read_text()
        assert not CONTROL.search(text.replace("\n", "")), file
    page = (here / "report/index.html").read_text()
    assert page.count("<script") == 1  # ours
    assert "&lt;/td&gt;&lt;script&gt;" in page
    rows = list(csv.reader((here / "report/classes.csv").open(newline="")))
    assert [row[0] for row in rows][2:4] == ["'=1+1", "'-2+3"]
    assert rows[1][-3:] == ["+20.00", "–", "–"]
    for file in (here / "report/results.json", here / "all.json"):
        document = json.loads(file.read_text())
        assert [each["label"] for each in document["results"]] == [ODD, f"{ODD} 2"]


def test_json_on_stdout_is_equal_when_parsed() -> None:
    made = odd_records()
    for number, each in enumerate(made):
        Path(f"{number}.json").write_text(json.dumps(each))
    code, out, err = run_main("compare", "0.json", "1.json", "--json", "-")
    assert (code, err, json.loads(out)["results"]) == (0, "", made)
    assert not CONTROL.search(out.replace("\n", ""))
    assert json.loads(to_json({ODD: "é😀\U000e0041\udcff"})) == {ODD: "é😀\U000e0041\udcff"}


def test_different_protocols_name_odd_values() -> None:
    first, second = odd_records()
    second["protocol"]["split"] = "val"
    with pytest.raises(RmrkdError) as refused:
        check_same_protocol([first, second])
    assert len(refused.value.message.splitlines()) == 2
    assert not CONTROL.search(refused.value.message.replace("\n", ""))


def test_tables_progress_logs_and_warnings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    console.print_table(ODD, [ODD, "x"], [[ODD, ODD]], [ODD])
    messages.log(ODD)
    monkeypatch.setattr(live_display, "_LINE_INTERVAL", 0)
    live_display.ProgressBar(ODD, 3, None).update(1)
    sanitize.install_output_guard()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning(UserWarning(ODD), UserWarning, f"{ODD}.py", 1)
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.LogRecord("x", logging.WARNING, "x.py", 1, "%s", (ODD,), None))
    printed = capsys.readouterr()
    assert is_escaped(printed.out)
    assert is_escaped(printed.err)
    assert printed.err.count("\n") == 4


def test_a_progress_bar_shows_odd_names_as_text() -> None:
    from io import StringIO

    from rich.console import Console

    stream = StringIO()
    terminal = Console(file=stream, force_terminal=True, width=400, no_color=True, legacy_windows=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(messages, "err", terminal)
        with live_display.live_display() as display:
            progress_bar = display.progress_bar(ODD, 3)
            assert progress_bar is not None
            progress_bar.update(2)
            assert display._progress is not None
            display._progress.refresh()
    assert [part for part in SEEN if part not in stream.getvalue()] == []
    assert not {"\x9b", "\u202e", "\x07", "]0;title\x07"} & set(stream.getvalue())


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE], ids=["ascii", "C"])
def test_a_terminal_with_ascii_only(environment: dict[str, str], here: Path) -> None:
    program = [sys.executable, "-m", "rmrkd_cli"]
    for arguments, code in ((["presets"], 0), (["--help"], 0), (["presets", "図"], 2), (["eval", "図.pth"], 2)):
        done = subprocess.run(
            [*program, *arguments], capture_output=True, cwd=here, env={**os.environ, **environment}, timeout=120
        )
        assert done.returncode == code, done.stderr
        assert (done.stdout + done.stderr).isascii()
        assert b"Traceback" not in done.stderr


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_record_is_compared_or_explained(data: st.DataObject, here: Path) -> None:
    good = record(5, parameters=3, macs=4, training={"seconds": 1.0, "seconds_per_step": 0.5}, iterations=1)
    good["latency"] = {"median_ms": 1.0, "low_ms": 1.0, "high_ms": 1.0}
    bad = json.loads(json.dumps(good))
    values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(
        [10**400, -1, 1e308, ODD, "x" * 6000, "\ud800", [], {}, [[]], [None] * 2000, {"a": {}}, "../../etc/passwd"]
    )  # fmt: skip
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(places(bad)) or [("format",)]))
        node, action = reduce(getitem, parents, bad), data.draw(st.sampled_from(["drop", "replace", "rename"]))
        value = node.pop(last) if isinstance(node, list) or last in node else None
        if action == "replace":
            fresh = copy.deepcopy(data.draw(values))  # the lists above must not change, nor hold themselves
            node.insert(last, fresh) if isinstance(node, list) else node.update({last: fresh})
        elif action == "rename" and isinstance(node, dict):
            node[data.draw(st.text(max_size=5))] = value
    Path("a.json").write_text(json.dumps(good))
    Path("b.json").write_text(json.dumps(bad))
    for order in (("a.json", "b.json"), ("b.json", "a.json")):
        for path in (here / "r").glob("*"):
            path.unlink()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("rmrkd_cli.report.html.write_figures", lambda *args: [])  # which takes seconds
            patched.setattr("rmrkd_cli.report.html.document.inline_svg", lambda *args, **options: Markup())
            code, out, err = run_main("compare", *order, "--report", "r")
        assert code in (0, 2), err
        assert not CONTROL.search((out + err).replace("\n", ""))
        assert code == 0 or (err.startswith("error: ") and ("b.json" in err or "not comparable" in err)), err


def test_a_record_cannot_make_compare_open_other_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is measured for a checkpoint beside the record, never for another path that the record names."""
    opened: list[str] = []

    def load(path: str, *args: object, **options: object) -> None:
        opened.append(path)
        raise RmrkdError("seen")

    monkeypatch.setattr("rmrkd_cli.evaluation.checkpoint_network.load_checkpoint_network", load)
    for folder in ("run", "other"):
        (here / folder).mkdir()
        (here / folder / "student.pth").touch()
    for named, expected in {
        "run/student.pth": ["run/student.pth"], str(here / "run/student.pth"): ["run/student.pth"],
        "gone/student.pth": ["run/student.pth"], "other/student.pth": [], "/etc/passwd": [], "..": [], "a\0b": [],
    }.items():  # fmt: skip
        for name in ("run/a.json", "run/b.json"):
            Path(name).write_text(json.dumps({**record(5), "checkpoint": named if name == "run/a.json" else None}))
        opened.clear()
        code, _, err = run_main("compare", "run/a.json", "run/b.json")
        assert (code, opened) == (0, expected), err
