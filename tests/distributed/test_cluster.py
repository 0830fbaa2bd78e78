from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.distributed import worker
from rmrkd_cli.distributed.cluster import MOST_RESTARTS, Cluster, Slurm, cluster_of, first_host, slurm_step
from rmrkd_cli.distributed.network_interface import address_towards, interface_towards
from rmrkd_cli.distributed.process_group import choose_device
from rmrkd_cli.distributed.rendezvous import TcpRendezvous
from rmrkd_cli.distributed.worker_errors import ERRORS, WorkerErrors
from rmrkd_cli.errors import Interrupted, LostError, RmrkdError, RunError
from rmrkd_cli.signals import restore_default_handlers

STEP = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NODEID": "1", "SLURM_GPUS_ON_NODE": "4",
}  # fmt: skip


@pytest.mark.parametrize("endpoint", ["host", "host:port", ":29500", "host:999999"])
def test_a_meeting_place_is_a_host_and_a_port(endpoint: str) -> None:
    with pytest.raises(RmrkdError, match="is not HOST:PORT"):
        Cluster(nodes=2, rdzv_endpoint=endpoint)


@pytest.mark.parametrize(
    ("endpoint", "place"), [("gpu07:29500", ("gpu07", 29500)), ("[fe80::1]:2000", ("fe80::1", 2000))]
)
def test_a_meeting_place_is_taken_apart(endpoint: str, place: tuple[str, int]) -> None:
    assert Cluster(nodes=2, rdzv_endpoint=endpoint).meeting_place == place


def test_several_workers_are_started_again_unless_told() -> None:
    assert Cluster().restarts == 0
    assert Cluster(workers=2).restarts == MOST_RESTARTS
    assert Cluster(workers=2, max_restarts=0).restarts == 0
    assert Cluster(max_restarts=2).restarts == 2


def test_a_step_of_slurm_says_where_this_machine_stands() -> None:
    first, second = (slurm_step({**STEP, "SLURM_NODEID": node}) for node in "01")
    assert first is not None
    assert second is not None
    assert (first.nodes, first.node_rank, first.gpus) == (2, 0, 4)
    assert second.node_rank == 1
    assert first.endpoint == second.endpoint
    host, port = first.endpoint.split(":")
    assert host == "gpu07"
    assert 20000 <= int(port) < 30000


def test_two_steps_of_a_job_meet_at_different_ports() -> None:
    ports = {slurm_step({**STEP, "SLURM_STEP_ID": step}).endpoint for step in "0123"}  # type: ignore[union-attr]
    assert len(ports) == 4


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "4", "SLURM_NODEID": "0"}])
def test_outside_of_srun_slurm_says_nothing(environment: dict[str, str]) -> None:
    """A batch script is started once, however many machines its job has."""
    assert slurm_step(environment) is None


def test_a_task_for_each_gpu_is_refused() -> None:
    with pytest.raises(RmrkdError, match=r"starts this command 8 times on 2 machine") as failure:
        slurm_step({**STEP, "SLURM_STEP_NUM_TASKS": "8"})
    assert "--ntasks-per-node=1" in failure.value.hint


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("cn1", "cn1"),
        ("cn1,cn2", "cn1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[3,5]", "gpu3"),
        ("r[0-1]n[10-12]-ib,x", "r0n10-ib"),
        ("a-b.c.d[001-100]", "a-b.c.d001"),
    ],
)
def test_the_first_host_of_slurms_short_form(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_the_way_to_a_meeting_place() -> None:
    assert address_towards("127.0.0.1", 29500) == "127.0.0.1"
    assert interface_towards("127.0.0.1", 29500) == "lo"
    with pytest.raises(RmrkdError, match="cannot be found"):
        address_towards("no-such-host.invalid", 29500)


def test_cpu_workers_need_no_gpu() -> None:
    assert choose_device("cpu", 3) == ("cpu", 3)


@pytest.fixture
def verdicts(tmp_path: Path) -> WorkerErrors:
    for name in ("own", "shared"):
        (tmp_path / name).mkdir()
    return WorkerErrors(tmp_path / "own", tmp_path / "shared", "token")


def test_the_first_final_error_counts_and_hides_passing_ones(verdicts: WorkerErrors) -> None:
    assert verdicts.error() is None
    assert verdicts.tell(RunError("lost another"), final=False)
    assert not verdicts.tell(RunError("lost too"), final=False)
    assert not verdicts.final
    assert str(verdicts.error()) == "lost another"
    assert verdicts.tell(RmrkdError("a wrong label", "mend it"), final=True)
    assert not verdicts.tell(RmrkdError("another"), final=True)
    found = verdicts.error()
    assert verdicts.final
    assert found is not None
    assert (found.message, found.hint, found.exit_code) == ("a wrong label", "mend it", 2)
    verdicts.clear()
    assert verdicts.error() is None
    assert not list(verdicts.own.iterdir())
    assert not list(verdicts.shared.iterdir())  # type: ignore[union-attr]


def test_a_final_error_of_one_machine_is_seen_by_another_of_the_same_start_alone(verdicts: WorkerErrors) -> None:
    verdicts.tell(RunError("the disk is full"), final=True)
    elsewhere = verdicts.own.parent / "elsewhere"
    assert str(WorkerErrors(elsewhere, verdicts.shared, "token").error()) == "the disk is full"
    assert WorkerErrors(elsewhere, verdicts.shared, "other").error() is None
    verdicts.forget_passing()
    assert verdicts.final


def test_an_error_that_cannot_be_left_is_told_all_the_same(
    verdicts: WorkerErrors, capfd: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk, which may be the error itself."""
    assert verdicts.shared is not None
    verdicts.shared.rmdir()
    verdicts.tell(RunError("cannot write `last.pth`"), final=True)
    assert "cannot write `last.pth`" in capfd.readouterr().err
    assert str(verdicts.error()) == "cannot write `last.pth`"
    assert [path.suffix for path in verdicts.own.iterdir()] == [".json"]


def test_a_signal_is_told_as_one(verdicts: WorkerErrors) -> None:
    verdicts.tell(Interrupted(10, "stopped by SIGUSR1"), final=True)
    found = verdicts.error()
    assert isinstance(found, Interrupted)
    assert found.exit_code == 143


def test_workers_read_where_to_tell_from_their_environment(
    verdicts: WorkerErrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (verdicts, WorkerErrors(verdicts.own)):
        monkeypatch.setenv(ERRORS, given.environment)
        read = WorkerErrors.of_this_process()
        assert (read.own, read.shared, read.token) == (given.own, given.shared, given.token)


@pytest.mark.parametrize(
    ("error", "final", "traces"),
    [
        (ValueError("a defect"), True, 1),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:545] Connection closed by peer"), False, 0),
        (LostError("a process that reads images is gone"), False, 0),
        (RunError("a wrong label"), True, 0),
        (OSError(28, "No space left on device"), True, 0),
    ],
)
def test_a_worker_tells_what_can_pass_and_what_cannot(
    error: Exception, final: bool, traces: int, verdicts: WorkerErrors, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(_: object) -> None:
        raise error

    monkeypatch.setenv(ERRORS, verdicts.environment)
    monkeypatch.setattr(worker, "_die_with_the_launcher", lambda: None)
    monkeypatch.setattr("rmrkd_cli.distributed.job.read_job", lambda _: None)
    monkeypatch.setattr("rmrkd_cli.distributed.launcher.run_job", fail)
    with restore_default_handlers():
        codes = [worker.main("job.json") for _ in range(2)]  # two workers that meet the same
    assert codes == [1, 1]
    assert verdicts.final == final
    assert capfd.readouterr().err.count("Traceback") == traces


def test_attempts_are_counted_alike_by_all_machines() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    first, second = (
        TcpRendezvous(Cluster(nodes=2, node_rank=rank, rdzv_endpoint=endpoint), "baseline") for rank in (0, 1)
    )
    assert first.token == second.token
    assert (first.attempt(), second.attempt()) == (0, 0)
    first.advance(0)
    second.advance(0)
    assert (first.attempt(), second.attempt()) == (1, 1)
    second.advance(1)
    assert first.attempt() == 2
    again = TcpRendezvous(Cluster(nodes=2, node_rank=1, rdzv_endpoint=endpoint), "baseline")
    assert again.attempt() == 2
    other = TcpRendezvous(Cluster(nodes=2, node_rank=1, rdzv_endpoint=endpoint), "distill")
    assert other.attempt() == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (2, 1, "gpu07:24711")),
        ({"nodes": 2}, (2, 1, "gpu07:24711")),
        ({"nodes": 1}, (1, 0, None)),
        ({"node_rank": 0, "rdzv_endpoint": "a:1"}, (2, 0, "a:1")),
    ],
)
def test_what_the_user_says_goes_before_what_slurm_says(given: dict[str, Any], expected: tuple[object, ...]) -> None:
    nothing: dict[str, Any] = {"nodes": None, "node_rank": None, "rdzv_endpoint": None, "max_restarts": None}
    slurm = Slurm(2, 1, "gpu07:24711", 4)
    cluster = cluster_of(workers=4, slurm=slurm, **{**nothing, **given})
    assert (cluster.nodes, cluster.node_rank, cluster.rdzv_endpoint) == expected
