"""A tracker that fails is named once and switched off, and the run continues."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rmrkd_cli.errors import Interrupted
from rmrkd_cli.training.trackers import group
from rmrkd_cli.training.trackers.background import Background
from rmrkd_cli.training.trackers.base import Image, Outcome, TrackedRun, Tracker
from rmrkd_cli.training.trackers.group import Trackers
from rmrkd_cli.training.trackers.messages import describe_error, hide_secrets
from rmrkd_cli.training.trackers.store import read_logged, read_states

CALLS = ("start", "log_step", "log_validation", "log_images", "log_result", "flush", "close")


class Recorder(Tracker):
    """Notes its calls; raises in the call that `fails` names."""

    fails = ""

    def __init__(self, run: TrackedRun) -> None:
        self.calls: list[str] = []
        self.outcomes: list[tuple[Outcome, float]] = []
        run.state["id"] = type(self).__name__
        made.append(self)
        self.note("start")

    def note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fails:
            raise ValueError(f"no {call}\nsecond line")

    def log_step(self, scalars: Mapping[str, float], iteration: int) -> None:
        self.note("log_step")

    def log_validation(self, scalars: Mapping[str, float], class_iou: Mapping[str, float], iteration: int) -> None:
        self.note("log_validation")

    def log_images(self, images: Mapping[str, Image], iteration: int) -> None:
        self.note("log_images")

    def log_result(self, scalars: Mapping[str, float], files: object, iteration: int) -> None:
        self.note("log_result")

    def flush(self) -> None:
        self.note("flush")

    def close(self, outcome: Outcome, seconds: float) -> None:
        self.outcomes.append((outcome, seconds))
        self.note("close")


class Failing(Recorder):
    pass


made: list[Recorder] = []


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The printed messages; the trackers `tensorboard` and `wandb` are recorders."""
    module = SimpleNamespace(TensorBoardTracker=Recorder, WandbTracker=Failing)
    monkeypatch.setattr(group, "import_module", lambda name: module)
    made.clear()
    return []


def tracked(path: Path, messages: list[str]) -> TrackedRun:
    return TrackedRun(
        path=path, preset="tiny", role="distill", method="cwd", seed=3, dataset="camvid", config={}, facts={},
        log=messages.append, warn=messages.append,
    )  # fmt: skip


def drive(trackers: Trackers, path: Path) -> None:
    """Call everything twice, as a run does."""
    file = path / "student.pth"
    file.write_bytes(b"1")
    for iteration in (1, 2):
        trackers.log_step({"lr": 0.1}, iteration)
        trackers.log_validation({"mIoU": 1.0}, {}, iteration)
        trackers.log_images({"a": np.zeros((2, 2, 3), np.uint8)}, iteration)
        trackers.flush()
    trackers.log_result({"mIoU": 1.0}, [file], 2)


@pytest.mark.parametrize("call", CALLS)
def test_an_error_in_any_call_is_one_warning_and_the_others_continue(
    call: str, messages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "fails", call)
    trackers = Trackers()
    with trackers.closed_at_end():
        trackers.open(("wandb", "tensorboard"), tracked(tmp_path, messages))
        drive(trackers, tmp_path)
    rest = "" if call == "close" else "; the run continues without wandb"
    assert messages == [f"wandb: no {call}{rest}"]
    failing, other = made
    assert failing.calls.count(call) == 1
    assert other.calls == [
        "start", *(("log_step", "log_validation", "log_images", "flush") * 2), "log_result", "close",
    ]  # fmt: skip
    assert other.outcomes[0][0] == "finished"
    if call not in ("start", "close"):
        assert failing.calls[-2:] == [call, "close"]
        assert failing.outcomes == [("failed", 0)]  # without waiting
    assert read_states(tmp_path)["tensorboard"] == {"id": "Recorder"}


@pytest.mark.parametrize(("error", "outcome"), [(Interrupted(15, "stopped"), "stopped"), (ValueError("x"), "failed")])
def test_the_end_of_the_run_is_that_of_the_trackers(
    error: Exception, outcome: str, messages: list[str], tmp_path: Path
) -> None:
    trackers = Trackers()

    def run() -> None:
        with trackers.closed_at_end():
            trackers.open(("tensorboard",), tracked(tmp_path, messages))
            raise error

    with pytest.raises(type(error)):
        run()
    assert [made[0].outcomes[0][0], made[0].calls] == [outcome, ["start", "close"]]


def test_without_trackers_nothing_is_written(messages: list[str], tmp_path: Path) -> None:
    trackers = Trackers()
    with trackers.closed_at_end():
        trackers.open((), tracked(tmp_path, messages))
        trackers.log_step({"lr": 0.1}, 1)
    assert list(tmp_path.iterdir()) == []
    assert messages == []


def test_names_of_a_run(tmp_path: Path) -> None:
    run = tracked(tmp_path, [])
    assert (run.name, run.group) == ("tiny/distill-cwd seed 3", "tiny/distill-cwd")


def test_secrets_do_not_reach_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    text = f"cannot reach https://me:pass@host:5000/a and http://host/@b with {'k' * 40}"
    assert hide_secrets(text) == "cannot reach https://…@host:5000/a and http://host/@b with …"
    assert len(describe_error(ValueError("x" * 1000))) == 300


def test_calls_in_the_background_keep_their_order_and_report_their_error() -> None:
    done: list[int] = []
    background = Background("test")
    for number in range(100):
        background.run(lambda number=number: done.append(number))  # type: ignore[misc]
    background.close(lambda: done.append(-1), 30)
    assert done == [*range(100), -1]

    failing = Background("test")
    failing.run(lambda: 1 / 0)
    deadline = time.monotonic() + 30
    while failing._error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        failing.run(lambda: done.append(5))
    done.clear()
    with pytest.raises(ZeroDivisionError):
        failing.close(lambda: done.append(7), 30)
    assert done == [7]


def test_the_end_does_not_wait_longer_than_it_may() -> None:
    release = threading.Event()
    background = Background("test")
    background.run(release.wait)
    with pytest.raises(TimeoutError, match="not everything was received within 1 s"):
        background.close(lambda: None, 1)
    release.set()


def test_what_was_logged_is_read_from_a_log_that_ends_in_the_middle_of_a_line(tmp_path: Path) -> None:
    assert read_logged(tmp_path) == read_logged(tmp_path / "missing")
    lines = [
        '{"iter": 1, "losses": {}}',
        '{"iter": 2, "losses": {}}',
        '{"iter": 2, "val_miou": 0.5}',
        '{"iter": 3, "lo',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert (read_logged(tmp_path).steps, read_logged(tmp_path).validation) == ((1, 2), 2)
    (tmp_path / "trackers.json").write_text("[")
    assert read_states(tmp_path) == {}
