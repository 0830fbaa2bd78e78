"""Clusters, Slurm, network interfaces, the rendezvous, and errors of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmrkd_cli.distributed import worker
from rmrkd_cli.distributed.cluster import DEFAULT_RESTARTS, Cluster, resolve_cluster
from rmrkd_cli.distributed.network_interface import local_address, local_interface
from rmrkd_cli.distributed.rendezvous import TcpRendezvous
from rmrkd_cli.distributed.slurm import SlurmStep, first_host, read_slurm_step
from rmrkd_cli.distributed.worker_errors import ERRORS, WorkerErrors
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError, WorkerLostError
from rmrkd_cli.signals import preserve_handlers
from tests.helpers.ports import free_port

STEP = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NODEID": "1", "SLURM_GPUS_ON_NODE": "4",
}  # fmt: skip


@pytest.mark.parametrize("endpoint", ["host", "host:port", ":29500", "host:999999"])
def test_an_endpoint_is_a_host_and_a_port(endpoint: str) -> None:
    with pytest.raises(RmrkdError, match="is not HOST:PORT"):
        Cluster(nodes=2, rdzv_endpoint=endpoint)


@pytest.mark.parametrize(
    ("endpoint", "address"), [("gpu07:29500", ("gpu07", 29500)), ("[fe80::1]:2000", ("fe80::1", 2000))]
)
def test_an_endpoint_is_split_into_host_and_port(endpoint: str, address: tuple[str, int]) -> None:
    assert Cluster(nodes=2, rdzv_endpoint=endpoint).rdzv_address == address


def test_several_workers_are_restarted_by_default() -> None:
    assert Cluster().restarts == 0
    assert Cluster(workers=2).restarts == DEFAULT_RESTARTS
    assert Cluster(workers=2, max_restarts=0).restarts == 0
    assert Cluster(max_restarts=2).restarts == 2


def test_a_slurm_step_gives_node_rank_and_endpoint() -> None:
    first, second = (read_slurm_step({**STEP, "SLURM_NODEID": node}) for node in "01")
    assert first is not None
    assert second is not None
    assert (first.nodes, first.node_rank, first.gpus) == (2, 0, 4)
    assert second.node_rank == 1
    assert first.endpoint == second.endpoint
    host, port = first.endpoint.split(":")
    assert host == "gpu07"
    assert 20000 <= int(port) < 30000


def test_two_steps_of_a_job_use_different_ports() -> None:
    ports = {read_slurm_step({**STEP, "SLURM_STEP_ID": step}).endpoint for step in "0123"}  # type: ignore[union-attr]
    assert len(ports) == 4


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "4", "SLURM_NODEID": "0"}])
def test_without_srun_there_is_no_step(environment: dict[str, str]) -> None:
    """A batch script runs once, on the first machine of its job."""
    assert read_slurm_step(environment) is None


def test_a_task_for_each_gpu_is_rejected() -> None:
    with pytest.raises(RmrkdError, match=r"starts this command 8 times on 2 machine") as failure:
        read_slurm_step({**STEP, "SLURM_STEP_NUM_TASKS": "8"})
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
def test_first_host_of_a_node_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_address_and_interface_on_the_route_to_a_host() -> None:
    assert local_address("127.0.0.1", 29500) == "127.0.0.1"
    assert local_interface("127.0.0.1", 29500) == "lo"
    with pytest.raises(RmrkdError, match="cannot reach host"):
        local_address("no-such-host.invalid", 29500)


@pytest.fixture
def errors(tmp_path: Path) -> WorkerErrors:
    for name in ("own", "shared"):
        (tmp_path / name).mkdir()
    return WorkerErrors(tmp_path / "own", tmp_path / "shared", "token")


def test_the_first_fatal_error_counts_and_hides_retryable_ones(errors: WorkerErrors) -> None:
    assert errors.read() is None
    assert errors.write(RunError("lost another"), fatal=False)
    assert not errors.write(RunError("lost too"), fatal=False)
    assert not errors.fatal
    assert str(errors.read()) == "lost another"
    assert errors.write(RmrkdError("a wrong label", "fix it"), fatal=True)
    assert not errors.write(RmrkdError("another"), fatal=True)
    found = errors.read()
    assert errors.fatal
    assert found is not None
    assert (found.message, found.hint, found.exit_code) == ("a wrong label", "fix it", 2)
    errors.clear()
    assert errors.read() is None
    assert not list(errors.local_dir.iterdir())
    assert not list(errors.shared_dir.iterdir())  # type: ignore[union-attr]


def test_other_machines_of_the_same_start_read_a_fatal_error(errors: WorkerErrors) -> None:
    errors.write(RunError("the disk is full"), fatal=True)
    elsewhere = errors.local_dir.parent / "elsewhere"
    assert str(WorkerErrors(elsewhere, errors.shared_dir, "token").read()) == "the disk is full"
    assert WorkerErrors(elsewhere, errors.shared_dir, "other").read() is None
    errors.clear_retryable()
    assert errors.fatal


def test_an_error_that_cannot_be_written_is_printed(errors: WorkerErrors, capfd: pytest.CaptureFixture[str]) -> None:
    """For example on a full disk, which may be the error itself."""
    assert errors.shared_dir is not None
    errors.shared_dir.rmdir()
    errors.write(RunError("cannot write `last.pth`"), fatal=True)
    assert "cannot write `last.pth`" in capfd.readouterr().err
    assert str(errors.read()) == "cannot write `last.pth`"
    assert [path.suffix for path in errors.local_dir.iterdir()] == [".json"]


def test_workers_that_the_agent_replaced_are_not_taken_for_lost(errors: WorkerErrors) -> None:
    """torch's agent replaces all workers when a machine joins again; the rank of this machine's may change."""
    first = WorkerErrors(errors.local_dir, port="29500")
    first.register(1)
    (errors.local_dir / "worker-29500-2").write_text("12345")
    assert first.local_peers() == {2: 12345}
    second = WorkerErrors(errors.local_dir, port="29501")
    second.register(0)
    second.register(1)
    assert second.local_peers() == {}
    second.clear_retryable()
    assert not list(errors.local_dir.iterdir())


def test_a_signal_is_read_as_an_interruption(errors: WorkerErrors) -> None:
    errors.write(Interrupted(10, "stopped by SIGUSR1"), fatal=True)
    found = errors.read()
    assert isinstance(found, Interrupted)
    assert found.exit_code == 143


def test_workers_read_the_folders_from_their_environment(errors: WorkerErrors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders may contain a colon, as in a date."""
    with_colon = WorkerErrors(errors.local_dir, Path("/runs/2026-11-29_12:30"), "token")
    for given in (errors, with_colon, WorkerErrors(errors.local_dir)):
        monkeypatch.setenv(ERRORS, given.environment)
        read = WorkerErrors.from_environment()
        assert (read.local_dir, read.shared_dir, read.token) == (given.local_dir, given.shared_dir, given.token)


@pytest.mark.parametrize(
    ("error", "fatal", "traces"),
    [
        (ValueError("a bug"), True, 1),
        (RuntimeError("cannot decode /data/gloomy/1.png"), True, 1),
        (RuntimeError("cannot decode /data/gloo/1.png: gloo"), True, 1),
        (RuntimeError("[/__w/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:18070"), False, 0),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:545] Connection closed by peer"), False, 0),
        (WorkerLostError("a loader process was killed"), False, 0),
        (RunError("a wrong label"), True, 0),
        (OSError(28, "No space left on device"), True, 0),
    ],
)
def test_a_worker_distinguishes_fatal_and_retryable_errors(
    error: Exception, fatal: bool, traces: int, errors: WorkerErrors, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(_: object) -> None:
        raise error

    monkeypatch.setenv(ERRORS, errors.environment)
    monkeypatch.setattr(worker, "_die_with_launcher", lambda: None)
    monkeypatch.setattr("rmrkd_cli.distributed.job.read_job", lambda _: None)
    monkeypatch.setattr("rmrkd_cli.distributed.job.run_job", fail)
    with preserve_handlers():
        codes = [worker.main("job.json") for _ in range(2)]  # two workers with the same error
    assert codes == [1, 1]
    assert errors.fatal == fatal
    assert capfd.readouterr().err.count("Traceback") == traces


def test_all_machines_count_the_same_attempts() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
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
def test_options_override_slurm(given: dict[str, Any], expected: tuple[object, ...]) -> None:
    unset: dict[str, Any] = {"nodes": None, "node_rank": None, "rdzv_endpoint": None, "max_restarts": None}
    slurm = SlurmStep(2, 1, "gpu07:24711", 4)
    cluster = resolve_cluster(workers=4, slurm=slurm, **{**unset, **given})
    assert (cluster.nodes, cluster.node_rank, cluster.rdzv_endpoint) == expected
