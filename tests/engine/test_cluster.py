from __future__ import annotations

from pathlib import Path

import pytest

from rmrkd_cli.engine.addresses import address_towards, interface_towards
from rmrkd_cli.engine.cluster import MOST_RESTARTS, Cluster, first_host, slurm_step
from rmrkd_cli.engine.distributed import choose_device
from rmrkd_cli.engine.verdict import Verdicts
from rmrkd_cli.errors import Interrupted, RmrkdError, RunError

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


def test_the_first_final_error_counts_and_hides_passing_ones(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    assert verdicts.error() is None
    assert verdicts.tell(RunError("lost another"), final=False)
    assert not verdicts.tell(RunError("lost too"), final=False)
    assert not verdicts.final
    assert str(verdicts.error()) == "lost another"
    assert verdicts.take_passing() == "lost another"
    assert verdicts.take_passing() == ""
    assert verdicts.tell(RmrkdError("a wrong label", "mend it"), final=True)
    assert not verdicts.tell(RmrkdError("another"), final=True)
    found = verdicts.error()
    assert verdicts.final
    assert found is not None
    assert (found.message, found.hint, found.exit_code) == ("a wrong label", "mend it", 2)
    verdicts.clear()
    assert verdicts.error() is None
    assert list(tmp_path.iterdir()) == []


def test_a_signal_is_told_as_one(tmp_path: Path) -> None:
    Verdicts(tmp_path).tell(Interrupted(10, "stopped by SIGUSR1"), final=True)
    found = Verdicts(tmp_path).error()
    assert isinstance(found, Interrupted)
    assert found.exit_code == 143
