"""Workers that another launcher has started: torchrun, Kubernetes and others."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.external_worker import ExternalWorker, read_external_worker
from rmrkd_cli.distributed.members import Member, check_members
from rmrkd_cli.distributed.worker_errors import ERRORS
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.helpers.cli import run_main
from tests.helpers.forked import Ranks, start_ranks
from tests.helpers.ports import free_port

ROOT = Path(__file__).parents[2]
TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
    "MASTER_ADDR": "gpu07", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
STUCK = """
import datetime
from torch import nn
from torch.distributed import get_rank, is_initialized
from torch.distributed.distributed_c10d import _get_default_store


class Stuck(nn.Module):
    def forward(self, student, teacher, labels):
        if not is_initialized():  # the check before training
            return student.mean()
        if get_rank() == 1:
            raise ValueError("rank 1 cannot go on")
        _get_default_store().wait(["never"], datetime.timedelta(seconds=300))  # in C++, as NCCL: no signal ends it
"""


def start(tiny: Path, folder: Path, *options: str, pause: float = 0, **environment: str) -> Ranks:
    arguments = ["train", "--preset", str(tiny), "--work-dir", "work", "--device", "cpu", *options]
    return start_ranks(arguments, folder, free_port(), pause=pause, **environment)


def student_of(folder: Path, role: str = "baseline") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / role / "student.pth", weights_only=True)["state_dict"]
    return state


def test_torchruns_variables() -> None:
    assert read_external_worker(TORCHRUN) == ExternalWorker(
        rank=3, size=4, local_rank=1, local_size=2, host="gpu07", port=29500, machine="1", launcher_has_store=True,
        attempt=2,
    )  # fmt: skip


def test_the_five_common_variables_are_enough() -> None:
    found = read_external_worker({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "m", "MASTER_PORT": "1"})
    assert found is not None
    assert (found.local_rank, found.local_size, found.launcher_has_store) == (None, None, False)
    assert found.machine.startswith(socket.gethostname())


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "", "WORLD_SIZE": ""},
        {**TORCHRUN, ERRORS: "[]"},
    ],
)
def test_without_other_workers_rmrkd_starts_its_own(environment: dict[str, str]) -> None:
    """Also in a pod alone, and in workers of rmrkd's own launcher."""
    assert read_external_worker(environment) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": None}, "RANK is set, but WORLD_SIZE is not"),
        ({"RANK": None}, "WORLD_SIZE is set, but RANK is not"),
        ({"RANK": None, "WORLD_SIZE": None}, "LOCAL_RANK is set, but RANK is not"),
        ({"RANK": "4"}, "RANK=4 is not an integer from 0 to 3"),
        ({"RANK": "-1"}, "RANK=-1 is not an integer"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is not an integer from 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is not an integer from 1"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 is not an integer from 0 to 1"),
        ({"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE=5 is not an integer from 1 to 4"),
        ({"LOCAL_RANK": None}, "LOCAL_WORLD_SIZE is 2, but LOCAL_RANK is not set"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http is not a port"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is not a port"),
    ],
)
def test_incomplete_or_wrong_variables_are_named(changes: dict[str, str | None], message: str) -> None:
    environment = {key: value for key, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(RmrkdError, match=re.escape(message)) as failure:
        read_external_worker(environment)
    assert "torchrun --nproc_per_node N -m rmrkd_cli" in failure.value.hint
    assert "--gpus N" in failure.value.hint


@pytest.mark.parametrize(
    ("local_ranks", "message"),
    [((None, None), "workers 0 and 1 on gpu07 do not know LOCAL_RANK"), ((0, 0), "both|have LOCAL_RANK=0")],
)
def test_two_workers_of_a_machine_need_two_local_ranks(local_ranks: tuple[int | None, ...], message: str) -> None:
    with pytest.raises(RmrkdError, match=message):
        check_members([Member(rank, local, "m", "gpu07", 1, "1") for rank, local in enumerate(local_ranks)])


def test_two_versions_are_refused() -> None:
    with pytest.raises(RmrkdError, match=r"worker 1 on gpu08 has rmrkd 0\.2, worker 0 has 0\.1"):
        check_members([Member(0, 0, "a", "gpu07", 1, "0.1"), Member(1, 0, "b", "gpu08", 1, "0.2")])


@pytest.mark.usefixtures("forked_workers")
def test_the_result_is_that_of_rmrkds_own_workers(tiny: Path, tmp_path: Path) -> None:
    """Two roles in the same processes and process group, stopped once by a signal to rank 1, and resumed."""
    overrides = ["schedule.iters=6", "teacher.schedule.iters=6", "teacher.init=scratch", "role=all"]
    train(load_preset(str(tiny), overrides=overrides), tmp_path / "own", "cpu", Cluster(workers=2))
    options = ("--max-iters", "6", "--set", "schedule.checkpoint_interval=1")
    ranks = start(tiny, tmp_path, *options)
    log = tmp_path / "work" / "baseline" / "log.jsonl"
    while not (log.is_file() and log.read_bytes()) and ranks.processes[0].is_alive():
        time.sleep(0.005)
    ranks.processes[1].terminate()
    (first, text), (second, silent) = ranks.wait()
    assert (first, second, silent) == (143, 143, ""), text
    assert text.count("stopped by SIGTERM after iteration") == 1
    assert (tmp_path / "work" / "baseline" / "last.pth").is_file()
    (first, text), (second, silent) = start(tiny, tmp_path, *options, "--resume").wait()
    assert (first, second, silent) == (0, 0, ""), text
    assert "teacher is already finished" in text
    assert "closes" in text or "gap" in text
    for role in ("teacher", "baseline", "distill"):
        own, other = student_of(tmp_path / "own", role), student_of(tmp_path / "work", role)
        assert all(torch.equal(own[key], other[key]) for key in own), role
        lines = (tmp_path / "work" / role / "log.jsonl").read_text().splitlines()
        assert [line["iter"] for line in map(json.loads, lines) if "losses" in line] == [1, 2, 3, 4, 5, 6]
    record = json.loads((tmp_path / "work" / "distill" / "result.json").read_text())
    assert record["training"]["workers"] == 2
    _check_evaluation(tmp_path)


def _check_evaluation(folder: Path) -> None:
    files = [f"work/{role}/student.pth" for role in ("baseline", "distill")]
    options = ["--device", "cpu", "--workers", "0"]
    (first, text), (second, silent) = start_ranks(["compare", *files, *options], folder, free_port()).wait()
    assert (first, second, silent) == (0, 0, ""), text
    assert "distill - baseline" in text
    arguments = ["eval", files[0], *options, "--json", "result.json"]
    (first, text), (second, silent) = start_ranks(arguments, folder, free_port()).wait()
    assert (first, second, silent) == (0, 0, ""), text
    measured, trained = (
        json.loads((folder / name).read_text()) for name in ("result.json", "work/baseline/result.json")
    )
    assert measured["matrix"] == trained["matrix"]


def test_an_error_of_one_rank_ends_all_at_once_even_those_that_wait_in_c(tiny: Path, tmp_path: Path) -> None:
    """As under NCCL, where neither a signal nor a lost connection reaches the others."""
    (tmp_path / "stuck.py").write_text(STUCK)
    train(load_preset(str(tiny), overrides=["role=teacher", "schedule.iters=1"]), tmp_path, "cpu", Cluster())
    options = ("--role", "distill", "--method", "stuck.py:Stuck")
    options += ("--teacher-checkpoint", "teacher/student.pth", "--min-teacher-miou", "0")
    ranks = start(tiny, tmp_path, *options)
    ranks.processes[1].join(60)
    since = time.monotonic()
    (first, text), (second, trace) = ranks.wait()
    assert time.monotonic() - since < 10
    assert (first, second) == (1, 1), text
    assert text.count("rank 1 cannot go on") == 1
    assert "error:" in text
    assert "error:" not in trace


@pytest.mark.usefixtures("forked_workers")
def test_an_error_of_one_of_rmrkds_own_workers_ends_all_at_once(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    train(load_preset(str(tiny), overrides=["role=teacher", "schedule.iters=1"]), tmp_path, "cpu", Cluster())
    overrides = ["role=distill", f"teacher.checkpoint={{path: {tmp_path}/teacher/student.pth}}"]
    code = f"{tmp_path}/stuck.py"
    preset = load_preset(str(tiny), method=f"{code}:Stuck", overrides=overrides)
    since = time.monotonic()
    with pytest.raises(RmrkdError, match="rank 1 cannot go on"):
        train(preset, tmp_path, "cpu", Cluster(workers=2), code=(code,))
    assert time.monotonic() - since < 30


@pytest.mark.parametrize("launcher_stops_the_others", [False, True])
def test_a_killed_rank_ends_the_others(tiny: Path, tmp_path: Path, launcher_stops_the_others: bool) -> None:
    """torchrun sends SIGTERM to the others at once."""
    ranks = start(tiny, tmp_path, "--role", "baseline", "--max-iters", "9999")
    log = tmp_path / "work" / "baseline" / "log.jsonl"
    while not (log.is_file() and log.read_bytes()) and ranks.processes[0].is_alive():
        time.sleep(0.005)
    ranks.processes[1].kill()
    if launcher_stops_the_others:
        ranks.processes[0].terminate()
    (first, text), _ = ranks.wait(20)
    assert first == 1
    assert re.search(r"error: worker 1 .* was killed or crashed", text), text
    assert text.count("error:") == 1
    assert "--resume" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", "3"), "--gpus 3: another launcher has started 2 worker(s) on this machine (RANK=0, WORLD_SIZE=2)"),
        (("--nodes", "2"), "--nodes 2: another launcher has started these 2 workers on 1 machine(s)"),
        (("--node-rank", "0"), "--node-rank 0: another launcher has started the workers"),
        (("--max-restarts", "1"), "--max-restarts 1: another launcher has started the workers"),
        (("--batch", "2"), "--batch"),
        (("--fresh",), "--fresh: the launcher has restarted the workers, and"),
    ],
)
def test_wrong_usage_is_said_once(tiny: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (first, text), (second, silent) = start(tiny, tmp_path, *options, TORCHELASTIC_RESTART_COUNT="1").wait()
    assert (first, second, silent) == (2, 2, "")
    assert message in text
    assert text.count("error:") == 1
    assert not (tmp_path / "work").exists()


def test_a_worker_that_starts_late_learns_of_wrong_usage_too(tiny: Path, tmp_path: Path) -> None:
    """On a busy machine workers of one launcher start seconds apart."""
    (first, text), (second, silent) = start(tiny, tmp_path, "--batch", "2", pause=4).wait()
    assert (first, second, silent) == (2, 2, ""), text
    assert text.count("error:") == 1


def test_equal_options_are_accepted_and_slurm_is_not_asked(tiny: Path, tmp_path: Path) -> None:
    """srun starts torchrun, or one task for each GPU with these variables."""
    slurm = {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"
    }  # fmt: skip
    options = ("--role", "baseline", "--gpus", "2", "--nodes", "1", "--max-iters", "1")
    (first, text), (second, silent) = start(tiny, tmp_path, *options, **slurm).wait()
    assert (first, second, silent) == (0, 0, ""), text
    assert "on 2 cpu worker(s)" in text


def test_each_machine_checks_its_images_and_keeps_them_decoded(tiny: Path, tmp_path: Path) -> None:
    """Two torchruns, which number the machines."""
    machines = {"GROUP_RANK": "{rank}", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    options, on_two = ("--role", "baseline", "--max-iters", "2"), ("--cache", "ram", "--gpus", "1", "--nodes", "2")
    (first, text), (second, silent) = start(tiny, tmp_path, *options, *on_two, **machines).wait()
    assert (first, second, silent) == (0, 0, ""), text
    (first, text), (second, silent) = start(tiny, tmp_path, *options, "--fresh").wait()
    states = [student_of(tmp_path / "work", role) for role in ("baseline", "baseline.old1")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("options", [("--dry-run", "--role", "baseline"), ("--print-config",)])
def test_what_needs_one_process_runs_in_one(tiny: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    (first, text), (second, silent) = start(tiny, tmp_path, *options).wait()
    assert (first, second, silent) == (0, 0, ""), text
    assert "tiny" in text


@pytest.mark.parametrize("arguments", [["presets"], ["train", "--help"], ["--version"]])
def test_other_commands_run_on_rank_0_alone(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert run_main(*arguments) == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    code, text, _ = run_main(*arguments)
    assert (code, bool(text)) == (0, True)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("options", [(), ("--standalone",)])
def test_torchrun(tiny: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """SIGTERM to torchrun reaches all ranks; they save. Then the run resumes to the result of rmrkd's own workers."""
    preset = load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=12", "schedule.eval_interval=12"])
    train(preset, tmp_path / "own", "cpu", Cluster(workers=2))
    work = tmp_path / "work"
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc_per_node", "2", "-m", "rmrkd_cli"]
    command += ["train", "--preset", str(tiny), "--role", "baseline", "--work-dir", str(work), "--max-iters", "12"]
    command += ["--set", "schedule.eval_interval=12"]
    environment = {**os.environ, "MASTER_PORT": str(free_port())}
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    log = work / "baseline" / "log.jsonl"
    while not (log.is_file() and log.read_bytes()) and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGTERM)
    error = running.communicate(timeout=60)[1]
    assert error.count("stopped by SIGTERM after iteration") == 1, error
    assert (work / "baseline" / "last.pth").is_file()
    if options:  # a rendezvous as that of the two torchruns in test_coordination.py, which end by themselves
        train(preset, work, "cpu", Cluster(workers=2), resume=True)
    else:
        resumed = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert resumed.returncode == 0, resumed.stderr
    own, other = student_of(tmp_path / "own"), student_of(work)
    assert all(torch.equal(own[key], other[key]) for key in own)
