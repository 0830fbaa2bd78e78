"""Workers and machines that are lost and restarted."""

from __future__ import annotations

import json
import os
import signal
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
from tests.helpers import forked
from tests.helpers.ports import free_port

ROOT = Path(__file__).parents[2]


def kill_one_worker(run_dir: Path, after: int) -> threading.Thread:
    """Start a thread that kills one of this process's workers when the log has `after` lines."""

    def kill() -> None:
        log = run_dir / "log.jsonl"
        while not (log.is_file() and len(log.read_bytes().splitlines()) >= after):
            time.sleep(0.005)
        os.kill(worker_pids(os.getpid())[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def worker_pids(launcher: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(launcher), "-f", "distributed.worker"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
def test_three_workers_give_the_same_result_after_one_was_killed(
    tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With three workers the order of a sum matters, and must not depend on where a run was resumed."""
    train(load_preset(str(tiny), overrides=["role=teacher", "schedule.iters=1"]), tmp_path, "cpu", Cluster())
    overrides = ["role=distill", "schedule.iters=24", "schedule.eval_interval=12", "schedule.checkpoint_interval=5"]
    overrides += [f"teacher.checkpoint={{path: {tmp_path}/teacher/student.pth}}"]
    preset = load_preset(str(tiny), overrides=overrides)
    results = []
    for name in ("uninterrupted", "killed"):
        run_dir = tmp_path / name / "distill"
        killing = kill_one_worker(run_dir, 9) if name == "killed" else None
        train(preset, tmp_path / name, "cpu", Cluster(workers=3))
        if killing is not None:
            killing.join(timeout=1)
            assert not killing.is_alive()
        lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
        losses = [(line["iter"], line["losses"]) for line in lines if "losses" in line]
        results.append((losses, torch.load(run_dir / "student.pth", weights_only=True)["state_dict"]))
    err = capfd.readouterr().err
    assert "was killed by signal 9" in err
    assert err.count("all workers are restarted (restart 1 of 3)") == 1
    assert "Traceback" not in err
    assert [number for number, _ in results[0][0]] == list(range(1, 25))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][key], results[1][1][key]) for key in results[0][1])


def test_without_restarts_a_killed_worker_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=400", "schedule.eval_interval=400"])
    kill_one_worker(tmp_path / "baseline", 2)
    with pytest.raises(RmrkdError, match="worker 1 was killed by signal 9; by hand") as failure:
        train(preset, tmp_path, "cpu", Cluster(workers=2, max_restarts=0))
    assert failure.value.exit_code == 1
    assert worker_pids(os.getpid()) == []


class TwoMachines:
    """Two launchers on loopback, as two machines. The second is started first, and must wait."""

    def __init__(self, tiny: Path, work_dir: Path, *options: str) -> None:
        self.arguments = ["train", "--preset", str(tiny), "--role", "baseline", "--work-dir", str(work_dir)]
        self.arguments += ["--device", "cpu", *options, "--nodes", "2"]
        self.arguments += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--node-rank"]
        self.log = work_dir / "baseline" / "log.jsonl"

    def wait_for_log(self, lines: int) -> None:
        """Wait until the log has `lines` lines."""
        while not (self.log.is_file() and len(self.log.read_bytes().splitlines()) >= lines):
            assert self.running()
            time.sleep(0.05)

    def running(self) -> bool:
        """Whether both run."""
        raise NotImplementedError


class Forked(TwoMachines):
    """Launchers and workers are forked."""

    def __init__(self, tiny: Path, work_dir: Path, *options: str) -> None:
        super().__init__(tiny, work_dir, *options)
        self.files = [(work_dir.parent / f"out{rank}", work_dir.parent / f"err{rank}") for rank in (0, 1)]
        starts = [([*self.arguments, str(rank)], work_dir.parent, *self.files[rank]) for rank in (1, 0)]
        self.nodes = [forked.start_launcher(*start) for start in starts][::-1]

    def running(self) -> bool:
        return all(node.is_alive() for node in self.nodes)

    def outputs(self, timeout: float) -> list[tuple[str, str]]:
        """Wait for both, and return their stdout and stderr."""
        deadline = time.monotonic() + timeout
        for node in self.nodes:
            node.join(max(0.0, deadline - time.monotonic()))
            node.kill()
        return [(out.read_text(), err.read_text()) for out, err in self.files]


class Interpreters(TwoMachines):
    """Launchers and workers are processes as a user starts them: a worker ends with its launcher."""

    def __init__(self, tiny: Path, work_dir: Path, *options: str) -> None:
        super().__init__(tiny, work_dir, *options)
        self.nodes = [self.start(rank) for rank in (1, 0)][::-1]

    def start(self, rank: int, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rmrkd_cli", *self.arguments, str(rank), *options]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def running(self) -> bool:
        return [node.poll() for node in self.nodes] == [None, None]

    def outputs(self, timeout: float) -> list[tuple[str, str]]:
        """Wait for both, and return their stdout and stderr."""
        return [node.communicate(timeout=timeout) for node in self.nodes]


@pytest.mark.slow
@pytest.mark.parametrize("signalled", [0, 1])
def test_a_signal_to_one_machine_stops_both(tiny: Path, tmp_path: Path, signalled: int) -> None:
    work = tmp_path / "work"
    both = Forked(tiny, work, "--max-iters", "9999", "--set", "schedule.eval_interval=9999")
    both.wait_for_log(4)
    both.nodes[signalled].terminate()
    outputs = both.outputs(timeout=20)
    assert [node.exitcode for node in both.nodes] == [143, 143], outputs
    assert all("stopped by SIGTERM after iteration" in error for _, error in outputs)
    assert (work / "baseline" / "last.pth").is_file()


@pytest.mark.slow
def test_two_machines_share_a_run_directory(tiny: Path, tmp_path: Path) -> None:
    both = Interpreters(tiny, tmp_path, "--max-iters", "2")
    outputs = both.outputs(timeout=300)
    assert [node.returncode for node in both.nodes] == [0, 0], outputs
    assert "baseline" in outputs[0][0]
    assert outputs[1][0] == ""
    assert json.loads((tmp_path / "baseline" / "result.json").read_text())["training"]["workers"] == 2


@pytest.mark.slow
def test_a_machine_that_restarts_at_once_joins_the_other(tiny: Path, tmp_path: Path) -> None:
    """Before the first machine noticed the loss, so that the place at the rendezvous is still taken."""
    both = Interpreters(tiny, tmp_path, "--max-iters", "40", "--set", "schedule.checkpoint_interval=3")
    both.wait_for_log(8)
    [worker] = worker_pids(both.nodes[0].pid)
    os.kill(worker, signal.SIGSTOP)  # so that it notices late
    both.nodes[1].kill()
    both.nodes[1].communicate()
    both.nodes[1] = both.start(1, "--resume")
    time.sleep(8)
    os.kill(worker, signal.SIGCONT)
    outputs = both.outputs(timeout=300)
    assert [node.returncode for node in both.nodes] == [0, 0], outputs
    lines = [json.loads(line) for line in both.log.read_text().splitlines()]
    assert [line["iter"] for line in lines if "losses" in line] == list(range(1, 41))


@pytest.mark.usefixtures("forked_workers")
def test_an_agent_that_returns_no_result_is_started_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's agent returns None if the others close a rendezvous without it; torch's launcher then fails."""
    from torch.distributed.launcher import api

    run, calls = api.LocalElasticAgent.run, []

    def return_none_first(self: api.LocalElasticAgent) -> object:
        calls.append(self)
        return None if len(calls) == 1 else run(self)

    monkeypatch.setattr(api.LocalElasticAgent, "run", return_none_first)
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=1"])
    record = train(preset, tmp_path, "cpu", Cluster(workers=2, max_restarts=0))[0]
    assert len(calls) == 2
    assert record["training"]["workers"] == 2
