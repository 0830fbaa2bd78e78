"""Stop signals, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rmrkd_cli import signals
from rmrkd_cli.data.loader import init_worker

CATCHING = """
import hashlib, sys
from rmrkd_cli.signals import exit_on_stop_signals, stop_requests
exit_on_stop_signals()
with stop_requests(ignore_repeats={ignore_repeats}) as stop:
    print("ready", flush=True)
    while not stop.signum:  # one C call, during which Python runs no handler
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", {rounds})
print("saved", stop.signum, flush=True)
"""


def _reset() -> None:
    """Reset the handlers: under nohup tests inherit an ignored SIGHUP, which rmrkd would keep ignoring."""
    for signum in signals.STOP_SIGNALS:
        signal.signal(signum, signal.SIG_DFL)


def start(ignore_repeats: bool, rounds: int) -> subprocess.Popen[str]:
    code = CATCHING.format(ignore_repeats=ignore_repeats, rounds=rounds)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_reset
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("signum", signals.STOP_SIGNALS)
def test_the_first_signal_is_a_request(signum: signal.Signals) -> None:
    process = start(ignore_repeats=False, rounds=1000)
    process.send_signal(signum)
    out, _ = process.communicate(timeout=30)
    assert out == f"saved {int(signum)}\n"
    assert process.returncode == 0


def test_a_second_signal_ends_the_process_even_in_a_long_c_call() -> None:
    process = start(ignore_repeats=False, rounds=200_000_000)  # minutes
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("", 143)


def test_a_worker_can_ignore_repeated_signals() -> None:
    process = start(ignore_repeats=True, rounds=1_000_000)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (f"saved {int(signal.SIGTERM)}\n", 0)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)]
)
def test_outside_a_run_a_signal_ends_the_command_without_a_traceback(signum: signal.Signals, code: int) -> None:
    program = "import time, rmrkd_cli.signals as s; s.exit_on_stop_signals(); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_reset
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, f"stopped by {signum.name}\n")


def test_a_signal_during_imports_ends_the_command_without_a_traceback() -> None:
    process = subprocess.Popen([sys.executable, "-m", "rmrkd_cli", "train", "--preset", "demo"], stderr=subprocess.PIPE)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert b"Traceback" not in err


def test_a_program_that_only_imports_the_package_keeps_its_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_owners", [])
    before = [signal.getsignal(signum) for signum in signals.STOP_SIGNALS]
    with signals.stop_requests() as stop:
        assert [signal.getsignal(signum) for signum in signals.STOP_SIGNALS] == before
        assert stop.signum == 0


def test_handlers_are_restored_and_no_descriptor_is_left_open() -> None:
    before = [signal.getsignal(signum) for signum in signals.STOP_SIGNALS]
    open_before = len(os.listdir("/proc/self/fd"))
    with signals.stop_requests():
        assert [signal.getsignal(signum) for signum in signals.STOP_SIGNALS] != before
    assert [signal.getsignal(signum) for signum in signals.STOP_SIGNALS] == before
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_loader_processes_ignore_stop_signals() -> None:
    with signals.preserve_handlers():
        init_worker(0)
        assert {signal.getsignal(signum) for signum in signals.STOP_SIGNALS} == {signal.SIG_IGN}


def test_nohup_is_respected() -> None:
    with signals.preserve_handlers():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signum == 0


def test_a_signal_during_interpreter_shutdown_changes_nothing() -> None:
    program = (
        "import os, signal, sys; from rmrkd_cli.__main__ import main; sys.argv = ['rmrkd', '--version']\n"
        "end = os._exit\n"
        "def late(code): os.kill(os.getpid(), signal.SIGUSR1); end(code)\n"
        "os._exit = late\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rmrkd ")


def test_a_hanging_loader_process_does_not_block_the_exit() -> None:
    """For example one that was forked while another thread held a lock; it ignores SIGTERM."""
    program = (
        "import multiprocessing, sys, time; from rmrkd_cli.__main__ import main; from rmrkd_cli import signals\n"
        "def hang(): signals.ignore_stop_signals(); started.set(); time.sleep(600)\n"
        "started = multiprocessing.get_context('fork').Event()\n"
        "multiprocessing.get_context('fork').Process(target=hang, daemon=True).start(); started.wait()\n"
        "sys.argv = ['rmrkd', '--version']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_in_a_destructor_ends_the_command() -> None:
    program = (
        "import os, signal, time; from rmrkd_cli.signals import exit_on_stop_signals; exit_on_stop_signals()\n"
        "class Lost:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1)\n"
        "Lost(); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 143
