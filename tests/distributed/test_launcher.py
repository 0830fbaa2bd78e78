"""Workers and machines that are lost, and are started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train

ROOT = Path(__file__).parents[2]


def killed_once(run_dir: Path, after: int) -> threading.Thread:
    """Ends one of this process's workers, in a thread, when that many lines are logged."""

    def kill() -> None:
        log = run_dir / "log.jsonl"
        while not (log.is_file() and len(log.read_bytes().splitlines()) >= after):
            time.sleep(0.005)
        os.kill(workers_of(os.getpid())[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def workers_of(launcher: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(launcher), "-f", "distributed.worker"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_three_workers_end_alike_though_one_was_killed(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three, since with two the order of a sum cannot matter; with three it must not depend on where a run began."""
    train(load_preset(str(tiny), overrides=["role=teacher", "schedule.iters=1"]), tmp_path, "cpu", Cluster())
    overrides = ["role=distill", "schedule.iters=24", "schedule.eval_interval=12", "schedule.checkpoint_interval=5"]
    overrides += [f"teacher.checkpoint={{path: {tmp_path}/teacher/student.pth}}"]
    preset = load_preset(str(tiny), overrides=overrides)
    ends = []
    for name in ("whole", "killed"):
        run_dir = tmp_path / name / "distill"
        killing = killed_once(run_dir, 9) if name == "killed" else None
        train(preset, tmp_path / name, "cpu", Cluster(workers=3))
        if killing is not None:
            killing.join(timeout=1)
            assert not killing.is_alive()
        lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
        losses = [(line["iter"], line["losses"]) for line in lines if "losses" in line]
        ends.append((losses, torch.load(run_dir / "student.pth", weights_only=True)["state_dict"]))
    told = capfd.readouterr().err
    assert "was ended by signal 9" in told
    assert told.count("all workers are started again (1 of 3 times)") == 1
    assert "Traceback" not in told
    assert [number for number, _ in ends[0][0]] == list(range(1, 25))
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][key], ends[1][1][key]) for key in ends[0][1])


def test_a_killed_worker_is_named_where_none_is_started_again(tiny: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=400", "schedule.eval_interval=400"])
    killed_once(tmp_path / "baseline", 2)
    with pytest.raises(RmrkdError, match="worker 1 was ended by signal 9; killed by hand") as failure:
        train(preset, tmp_path, "cpu", Cluster(workers=2, max_restarts=0))
    assert failure.value.exit_code == 1
    assert workers_of(os.getpid()) == []


class TwoMachines:
    """Two launchers on loopback stand for two machines; the second is started first, and must wait."""

    def __init__(self, tiny: Path, work_dir: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.command = [sys.executable, "-m", "rmrkd_cli", "train", "--preset", str(tiny), "--role", "baseline"]
        self.command += ["--work-dir", str(work_dir), "--device", "cpu", *options, "--nodes", "2"]
        self.command += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--node-rank"]
        self.log = work_dir / "baseline" / "log.jsonl"
        self.nodes = [self.start(rank) for rank in (1, 0)][::-1]

    def start(self, rank: int, *options: str) -> subprocess.Popen[str]:
        command = [*self.command, str(rank), *options]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(self, lines: int) -> None:
        """Waits for so many lines of the log."""
        while not (self.log.is_file() and len(self.log.read_bytes().splitlines()) >= lines):
            assert [node.poll() for node in self.nodes] == [None, None]
            time.sleep(0.05)

    def told(self, timeout: float) -> list[tuple[str, str]]:
        """stdout and stderr of both, which must end in time."""
        return [node.communicate(timeout=timeout) for node in self.nodes]


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_machine_stops_both(tiny: Path, tmp_path: Path, signalled: int) -> None:
    both = TwoMachines(tiny, tmp_path, "--max-iters", "9999", "--set", "schedule.eval_interval=9999")
    both.until(4)
    both.nodes[signalled].send_signal(signal.SIGTERM)
    told = both.told(timeout=20)
    assert [node.returncode for node in both.nodes] == [143, 143], told
    assert all("stopped by SIGTERM after iteration" in error for _, error in told)
    assert (tmp_path / "baseline" / "last.pth").is_file()


@pytest.mark.slow
def test_two_machines_share_a_directory_that_the_first_claims(tiny: Path, tmp_path: Path) -> None:
    both = TwoMachines(tiny, tmp_path, "--max-iters", "2")
    told = both.told(timeout=300)
    assert [node.returncode for node in both.nodes] == [0, 0], told
    assert "baseline" in told[0][0]
    assert told[1][0] == ""
    assert json.loads((tmp_path / "baseline" / "result.json").read_text())["training"]["workers"] == 2


@pytest.mark.slow
def test_a_machine_that_was_killed_and_comes_back_at_once_goes_on_with_the_other(tiny: Path, tmp_path: Path) -> None:
    """Before the first one has noticed, so that its place at the meeting is still taken."""
    both = TwoMachines(tiny, tmp_path, "--max-iters", "40", "--set", "schedule.checkpoint_interval=3")
    both.until(8)
    [worker] = workers_of(both.nodes[0].pid)
    os.kill(worker, signal.SIGSTOP)  # it notices late
    both.nodes[1].kill()
    both.nodes[1].communicate()
    both.nodes[1] = both.start(1, "--resume")
    time.sleep(8)
    os.kill(worker, signal.SIGCONT)
    told = both.told(timeout=300)
    assert [node.returncode for node in both.nodes] == [0, 0], told
    lines = [json.loads(line) for line in both.log.read_text().splitlines()]
    assert [line["iter"] for line in lines if "losses" in line] == list(range(1, 41))


@pytest.mark.usefixtures("forked_workers")
def test_a_meeting_that_was_left_without_a_result_is_met_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch's agent does where the others close a meeting that has no place for it; its launcher then fails."""
    from torch.distributed.launcher import api

    run, calls = api.LocalElasticAgent.run, []

    def leaving_first(self: api.LocalElasticAgent) -> object:
        calls.append(self)
        return None if len(calls) == 1 else run(self)

    monkeypatch.setattr(api.LocalElasticAgent, "run", leaving_first)
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=1"])
    record = train(preset, tmp_path, "cpu", Cluster(workers=2, max_restarts=0))[0]
    assert len(calls) == 2
    assert record["training"]["workers"] == 2
