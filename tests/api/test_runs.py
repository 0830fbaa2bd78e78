"""A program uses the Python API: nothing is printed, no handler is set, and messages and progress reach it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import rmrkd_cli
from rmrkd_cli.results.record import read_record
from tests.helpers.cli import rmrkd, run_main
from tests.helpers.forked import run_ranks


class _Records(logging.Handler):
    """Keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _state() -> tuple[object, ...]:
    """Return what belongs to the program and not to a package that it imports."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)]
    return handlers, warnings.showwarning, sys.stdout.errors, sys.stderr.errors, logging.getLogger("rmrkd_cli").handlers


def _program(tiny: str, folder: str, rank: int) -> None:
    """Train, measure, compare, predict, export and transfer; then train again in a thread."""
    os.chdir(folder)
    sys.stdout, sys.stderr = (open(f"{name}.txt", "w") for name in ("out", "err"))  # noqa: SIM115
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        os.dup2(stream.fileno(), number)
    before = _state()
    updates: list[rmrkd_cli.ProgressUpdate] = []
    work = Path("work")
    options = {"role": "all", "settings": {"schedule.iters": 2, "teacher.schedule.iters": 2}, "device": "cpu"}
    records = rmrkd_cli.train(tiny, work_dir=work, progress=updates.append, **options)  # type: ignore[arg-type]
    files = [work / role / "student.pth" for role in ("baseline", "distill")]
    found = {
        "roles": [record["role"] for record in records],
        "trained": [(one.task, one.position) for one in updates if one.losses],
        "validated": [one.position for one in updates if one.task == "validation"],
        "best": [one.best_miou for one in updates if one.best_miou is not None][-1],
        "miou": rmrkd_cli.evaluate(files[1], device="cpu", workers=0)["metrics"]["miou"],
        "groups": [group.label for group in rmrkd_cli.compare(files, device="cpu", workers=0, report="page").groups],
        "predicted": len(rmrkd_cli.predict(files[1], "photos", device="cpu", workers=0, out="shown").entries),
        "bytes": rmrkd_cli.export(files[1], "student.onnx").bytes,
        "tensors": rmrkd_cli.transfer(work / "distill" / "last.pth", "student.safetensors")[0],
    }
    errors: list[BaseException] = []

    def again() -> None:
        try:
            rmrkd_cli.train(tiny, role="baseline", work_dir="threaded", max_iters=1, device="cpu")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=again)
    thread.start()
    thread.join()
    found |= {"thread": [str(error) for error in errors], "kept": _state() == before}
    records_ = _Records()
    logging.getLogger("rmrkd_cli").addHandler(records_)
    logging.getLogger("rmrkd_cli").setLevel("INFO")
    rmrkd_cli.train(tiny, role="baseline", work_dir="threaded", max_iters=1, device="cpu", resume=True)
    found["messages"] = records_.texts
    Path("found.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "photos").mkdir()
    for name in "ab":
        Image.new("RGB", (96, 64), (90, 40, 20)).save(folder / "photos" / f"{name}.png")
    run_ranks(_program, str(tiny), str(folder), ranks=1, seconds=240)
    return folder


def test_results_are_those_of_the_files(folder: Path) -> None:
    found = json.loads((folder / "found.json").read_text())
    record = read_record(folder / "work" / "distill" / "result.json")
    assert found["roles"] == ["teacher", "baseline", "distill"]
    assert found["miou"] == record["metrics"]["miou"]
    assert found["groups"] == ["baseline", "distill"]
    assert found["predicted"] == 2
    assert found["bytes"] == (folder / "student.onnx").stat().st_size
    state = torch.load(folder / "work" / "distill" / "student.pth", weights_only=True)["state_dict"]
    assert found["tensors"] == len(state)
    assert (folder / "page" / "index.html").is_file()


def test_a_function_of_the_program_sees_every_step_and_image(folder: Path) -> None:
    found = json.loads((folder / "found.json").read_text())
    assert dict.fromkeys(map(tuple, found["trained"])).keys() >= {
        (role, f"{step}/2") for role in ("teacher", "baseline", "distill") for step in (1, 2)
    }
    assert found["validated"][-4:] == [f"{done}/4" for done in (1, 2, 3, 4)]
    lines = (folder / "work" / "distill" / "log.jsonl").read_text().splitlines()
    assert found["best"] == json.loads(lines[-1])["best_miou"]


def test_nothing_is_printed_and_the_program_keeps_its_handlers_and_streams(folder: Path) -> None:
    found = json.loads((folder / "found.json").read_text())
    assert (folder / "out.txt").read_text() == ""
    assert (folder / "err.txt").read_text() == ""
    assert found["kept"] is True


def test_it_runs_in_a_thread_and_its_messages_go_to_logging(folder: Path) -> None:
    found = json.loads((folder / "found.json").read_text())
    assert found["thread"] == []
    assert found["messages"] == ["baseline is already finished: threaded/baseline"]


def test_what_the_function_raises_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    def stop(update: rmrkd_cli.ProgressUpdate) -> None:
        if update.position == "1/3":
            raise KeyError("enough")

    options: dict[str, Any] = {"role": "baseline", "work_dir": tmp_path, "max_iters": 3, "device": "cpu", "workers": 0}
    with pytest.raises(KeyError, match="enough"):
        rmrkd_cli.train(tiny, **options, progress=stop)
    records = rmrkd_cli.train(tiny, **options, resume=True)
    assert records[0]["training"]["iterations"] == 3


def test_the_log_file_has_every_message_and_quiet_prints_only_results(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "messages.txt"
    options = ["--role", "baseline", "--max-iters", "1", "--device", "cpu", "--work-dir", tmp_path / "work"]
    outcome = rmrkd("train", "--preset", tiny, *options, "--workers", "0", "--quiet", "--log-file", log)
    assert outcome.exit_code == 0
    assert capfd.readouterr().err == ""
    lines = log.read_text().splitlines()
    assert any("INFO baseline iteration 1: mIoU" in line for line in lines)
    assert any(re.search(r"DEBUG saved the state after iteration 1 in `.*baseline`", line) for line in lines)
    assert all(line[:4].isdigit() for line in lines)


def test_errors_and_details_are_in_the_log_file_and_details_are_printed_with_verbose(tmp_path: Path) -> None:
    log = tmp_path / "messages.txt"
    code, _, err = run_main("presets", "dmo", "--verbose", "--log-file", str(log))
    assert code == 2
    assert err.count("unknown preset `dmo`") == 1
    assert re.search(r"^rmrkd [\d.]+, Python [\d.]+: presets dmo --verbose", err)
    text = log.read_text()
    assert re.search(r" ERROR unknown preset `dmo`.*\n", text)
    code, _, err = run_main("presets", "--log-file", str(log))
    assert code == 0
    assert log.read_text().startswith(text)
    weights = tmp_path / "student.pth"
    weights.write_bytes(b"weights")
    code, _, err = run_main("presets", "--log-file", str(weights))
    assert (code, weights.read_bytes()) == (2, b"weights")
    assert "exists, and is no file of messages" in err
    code, _, err = run_main("presets", "--log-file", str(tmp_path / "none" / "messages.txt"))
    assert code == 2
    assert "cannot be written: No such file or directory" in err
