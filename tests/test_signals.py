from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rmrkd_cli import signals
from rmrkd_cli.data.loader import quiet_worker

CATCHING = """
import hashlib, sys
from rmrkd_cli.signals import exit_on_stops, stop_requests
exit_on_stops()
with stop_requests(patient={patient}) as stop:
    print("ready", flush=True)
    while not stop.signum:  # one call into C, in which Python runs no handler
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", {rounds})
print("saved", stop.signum, flush=True)
"""


def _default() -> None:
    """Tests that are run under nohup inherit a SIGHUP that is ignored, and rmrkd leaves such a signal alone."""
    for signum in signals.STOPS:
        signal.signal(signum, signal.SIG_DFL)


def started(patient: bool, rounds: int) -> subprocess.Popen[str]:
    code = CATCHING.format(patient=patient, rounds=rounds)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_default
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("signum", signals.STOPS)
def test_a_first_signal_is_a_request(signum: signal.Signals) -> None:
    process = started(patient=False, rounds=1000)
    process.send_signal(signum)
    told, _ = process.communicate(timeout=30)
    assert told == f"saved {int(signum)}\n"
    assert process.returncode == 0


def test_a_second_signal_leaves_at_once_even_out_of_a_long_call() -> None:
    process = started(patient=False, rounds=200_000_000)  # minutes
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=30)
    assert (told, process.returncode) == ("", 143)


def test_a_patient_worker_takes_a_second_signal_for_the_first() -> None:
    process = started(patient=True, rounds=1_000_000)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert (told, process.returncode) == (f"saved {int(signal.SIGTERM)}\n", 0)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)]
)
def test_outside_of_a_run_a_signal_ends_the_command_without_a_traceback(signum: signal.Signals, code: int) -> None:
    program = "import time, rmrkd_cli.signals as s; s.exit_on_stops(); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_default
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signum)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (code, f"stopped by {signum.name}\n")


def test_the_command_line_itself_leaves_so() -> None:
    """From its first moments on, while it still loads."""
    process = subprocess.Popen([sys.executable, "-m", "rmrkd_cli", "train", "--preset", "demo"], stderr=subprocess.PIPE)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 143
    assert b"Traceback" not in told


def test_handlers_are_put_back_and_no_descriptor_is_left() -> None:
    before = [signal.getsignal(signum) for signum in signals.STOPS]
    opened = len(os.listdir("/proc/self/fd"))
    with signals.stop_requests():
        assert [signal.getsignal(signum) for signum in signals.STOPS] != before
    assert [signal.getsignal(signum) for signum in signals.STOPS] == before
    assert len(os.listdir("/proc/self/fd")) == opened


def test_loader_processes_ignore_all_of_them() -> None:
    with signals.restore_default_handlers():
        quiet_worker(0)
        assert {signal.getsignal(signum) for signum in signals.STOPS} == {signal.SIG_IGN}


def test_nohup_is_respected() -> None:
    with signals.restore_default_handlers():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signum == 0


def test_a_signal_while_python_takes_itself_down_changes_nothing() -> None:
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


def test_a_loader_process_that_hangs_keeps_nobody_from_ending() -> None:
    """As one that was forked while another thread held a lock: it answers nobody, and ignores SIGTERM."""
    program = (
        "import multiprocessing, sys, time; from rmrkd_cli.__main__ import main; from rmrkd_cli import signals\n"
        "def hang(): signals.ignore_stops(); started.set(); time.sleep(600)\n"
        "started = multiprocessing.get_context('fork').Event()\n"
        "multiprocessing.get_context('fork').Process(target=hang, daemon=True).start(); started.wait()\n"
        "sys.argv = ['rmrkd', '--version']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stop_that_is_lost_in_a_destructor_ends_the_command_all_the_same() -> None:
    program = (
        "import os, signal, time; from rmrkd_cli.signals import exit_on_stops; exit_on_stops()\n"
        "class Lost:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1)\n"
        "Lost(); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 143
