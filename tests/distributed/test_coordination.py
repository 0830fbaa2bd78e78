"""How workers of another launcher find each other, and those of the same start, in one store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from rmrkd_cli.distributed import coordination, join_notice
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.coordination import Coordinator
from rmrkd_cli.distributed.external_worker import ExternalWorker
from rmrkd_cli.distributed.generation import Welcome, ask_generation
from rmrkd_cli.distributed.lost_worker import connection_lost
from rmrkd_cli.errors import RmrkdError, RunError, WorkerLostError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.helpers.ports import free_port

ROOT = Path(__file__).parents[2]
TWICE = RmrkdError("two workers have RANK=0", "hint")


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a store that lives as long as the test, as a launcher's does."""
    number = free_port()
    store = TCPStore("127.0.0.1", number, is_master=True, wait_for_workers=False)
    yield number
    del store


def worker(rank: int, port: int, *, size: int = 2, local: int = 0, machine: str = "m") -> ExternalWorker:
    return ExternalWorker(
        rank=rank, size=size, local_rank=local, local_size=None, host="127.0.0.1", port=port, machine=machine,
        launcher_has_store=True,
    )  # fmt: skip


def join(first: Coordinator, other: ExternalWorker) -> Coordinator:
    """Connect another rank while rank 0 answers."""
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(Coordinator, other)
        while not connecting.done():
            first.welcome()
            time.sleep(0.01)
        return connecting.result()


def ask(store: Any, *looks: Welcome) -> int:
    """Ask for the generation; between two looks the given workers of rank 0 answer."""

    def wait() -> None:
        assert looks, "nobody answers"
        for welcome in looks:
            welcome.answer(store, TWICE)

    return ask_generation(store, wait)


def test_rank_0_takes_a_new_generation_at_each_start() -> None:
    store = HashStore()
    assert [ask(store, Welcome(store)) for _ in range(3)] == [1, 2, 3]


def test_a_new_worker_waits_for_the_living_rank_0() -> None:
    """Answers and questions of an earlier start stay in the store."""
    store = HashStore()
    early = [store.add("tickets", 1), store.add("tickets", 1)]  # the second never got an answer
    Welcome(store).answer(store, TWICE)
    with pytest.raises(AssertionError, match="nobody answers"):
        ask(store)
    second = Welcome(store)
    assert [ask(store, second), ask(store, second)] == [2, 2]
    assert early == [1, 2]


def test_a_second_rank_0_is_refused_by_the_living_one() -> None:
    store = HashStore()
    first, second = Welcome(store), Welcome(store)
    first.answer(store, TWICE)
    assert "two workers have RANK=0" in store.get(f"generation/{second.generation}/error").decode()
    assert not store.check([f"generation/{first.generation}/error"])


def test_machines_prepare_themselves_by_their_first_worker(port: int) -> None:
    first = Coordinator(worker(0, port, size=3, machine="a"))
    workers = [worker(rank, port, size=3, local=rank - 1, machine="b") for rank in (1, 2)]
    members = [first, *(join(first, other) for other in workers)]
    assert [member.local_size for member in members] == [1, 2, 2]
    assert [member.leads_machine for member in members] == [True, True, False]
    assert [member.machines for member in members] == [2, 2, 2]
    members[1].set_image_cache("/proc/1/fd/5")
    assert [member.image_cache("/proc/2/fd/3") for member in members] == ["/proc/2/fd/3", *["/proc/1/fd/5"] * 2]
    with pytest.raises(RmrkdError, match="two workers have RANK=2 of WORLD_SIZE=3"):
        join(first, workers[1])


def test_restarted_workers_do_not_see_those_before_whatever_their_machines_count(port: int) -> None:
    before = Coordinator(worker(0, port))
    join(before, worker(1, port, local=1))
    before.write(TWICE)
    first = Coordinator(worker(0, port))  # on a machine that did not count the restart
    second = join(first, worker(1, port, local=1))
    assert (before.restarted, first.restarted, second.restarted) == (False, True, True)
    assert [member.rank for member in first.members] == [0, 1]
    assert first.read_error() is None


@pytest.mark.parametrize("rank", [0, 1])
def test_missing_workers_are_named_soon_with_the_variables_that_expect_them(
    rank: int, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(join_notice, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(coordination, "JOIN_SECONDS", 0.4)
    with pytest.raises(RunError, match="for 1 of 2 workers"):
        _ = Coordinator(worker(rank, port)).members
    text = capsys.readouterr().err
    assert (
        f"worker {rank} waits for 1 of 2 workers at 127.0.0.1:{port}: {1 - rank}. RANK={rank} and WORLD_SIZE=2" in text
    )
    assert "unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE" in text
    assert text.count("waits for") == 1


def test_the_connection_is_lost_to_the_process_that_has_the_store(port: int) -> None:
    with_launcher = Coordinator(worker(0, port))
    assert str(connection_lost(with_launcher.worker)) == f"lost the connection to the launcher at 127.0.0.1:{port}"
    assert "--resume" in connection_lost(with_launcher.worker).hint
    with_launcher.worker = replace(with_launcher.worker, launcher_has_store=False)
    assert str(connection_lost(with_launcher.worker)) == "lost the connection to worker 0"


def test_a_worker_that_starts_late_has_time_to_read_the_error_of_rank_0(port: int) -> None:
    """Rank 0 waits no more for workers that have not connected, but for one that has."""
    first = Coordinator(worker(0, port))
    first.write(RmrkdError("wrong", "hint"))

    def follow() -> str:
        second = Coordinator(worker(1, port))
        time.sleep(0.5)  # busy
        error = second.read_error()
        second.leave()
        return str(error)

    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        while not first._welcome._answered and not following.done():
            first.wait_until_left(0.01)
        assert first.store.add("left", 0) == 1
        assert "wrong" in following.result()


def test_a_store_that_closes_while_a_worker_connects_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    number = free_port()
    store = [TCPStore("127.0.0.1", number, is_master=True, wait_for_workers=False)]

    def close(*_: object) -> int:
        store.clear()
        return 1

    monkeypatch.setattr(coordination, "ask_generation", close)
    monkeypatch.setattr(coordination, "_LEAVE_SECONDS", 0.5)
    with pytest.raises(WorkerLostError, match="lost the connection to worker 0"):
        coordination.connect(replace(worker(1, number), launcher_has_store=False))


def test_workers_that_left_are_no_lost_peers(port: int) -> None:
    first = Coordinator(worker(0, port, size=3))
    others = [join(first, worker(rank, port, size=3, local=rank)) for rank in (1, 2)]
    _ = first.members
    assert set(first.local_peers(first.store)) == {1, 2}
    others[1].leave()
    assert set(first.local_peers(first.store)) == {1}


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")  # those of the run to compare with
@pytest.mark.parametrize("killed", [0, 1])
def test_two_torchruns_restart_after_the_loss_of_a_worker(tiny: Path, tmp_path: Path, killed: int) -> None:
    """One restart is enough, and the result is that of a run that lost nothing."""
    sizes = ["schedule.eval_interval=20", "schedule.checkpoint_interval=2"]
    train(
        load_preset(str(tiny), overrides=["role=baseline", "schedule.iters=20", *sizes]), tmp_path / "own", "cpu",
        Cluster(workers=2),
    )  # fmt: skip
    work = tmp_path / "work"
    endpoint = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "1", "--max_restarts", "1"]
    command += ["-m", "rmrkd_cli", "train", "--preset", str(tiny), "--role", "baseline", "--work-dir", str(work)]
    command += ["--device", "cpu", "--resume", "--max-iters", "20", "--set", sizes[0], "--set", sizes[1]]
    outputs = [tmp_path / f"agent{number}.txt" for number in range(2)]
    agents = []
    for output in outputs:
        with output.open("w") as stream:
            agents.append(subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream))
    checkpoint = work / "baseline" / "last.pth"
    while not checkpoint.is_file() and all(agent.poll() is None for agent in agents):
        time.sleep(0.02)
    os.kill(_find_worker(agents, killed), signal.SIGKILL)
    try:
        codes = [agent.wait(240) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    text = "\n".join(output.read_text() for output in outputs)
    assert codes == [0, 0], text
    assert "two workers have" not in text
    own, other = (
        torch.load(folder / "baseline" / "student.pth", weights_only=True)["state_dict"]
        for folder in (tmp_path / "own", work)
    )
    assert all(torch.equal(own[key], other[key]) for key in own)
    lines = map(json.loads, (work / "baseline" / "log.jsonl").read_text().splitlines())
    assert [line["iter"] for line in lines if "losses" in line] == [*range(1, 21)]


def _find_worker(agents: list[subprocess.Popen[bytes]], rank: int) -> int:
    """Return the process id of a rank among the children of the agents."""
    for agent in agents:
        for child in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError(f"no worker has RANK={rank}")
