"""The device and the number of workers for --device and --gpus."""

from __future__ import annotations

import pytest
import torch

from rmrkd_cli.distributed.device import BACKEND, choose_device, forced_backend, own_device
from rmrkd_cli.errors import RmrkdError


def set_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("wanted", "gpus", "available", "expected"),
    [
        ("auto", None, 0, ("cpu", 1)),
        ("auto", None, 2, ("cuda", 1)),
        ("auto", 2, 2, ("cuda", 2)),
        ("cpu", 3, 0, ("cpu", 3)),
        ("cpu", None, 2, ("cpu", 1)),
        ("cuda", None, 1, ("cuda", 1)),
    ],
)
def test_device_and_workers(
    wanted: str, gpus: int | None, available: int, expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(monkeypatch, available)
    assert choose_device(wanted, gpus) == expected


@pytest.mark.parametrize(
    ("wanted", "gpus", "available", "hint"),
    [("auto", 4, 2, "--gpus 2"), ("cuda", 1, 0, "--device cpu --gpus 1"), ("auto", 2, 0, "--device cpu --gpus")],
)
def test_more_gpus_than_available_are_rejected(
    wanted: str, gpus: int | None, available: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(monkeypatch, available)
    with pytest.raises(RmrkdError, match=rf"this machine has {available} GPU") as caught:
        choose_device(wanted, gpus)
    assert hint in caught.value.hint


def test_a_command_without_gpus_is_not_told_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch, 0)
    with pytest.raises(RmrkdError, match="--device cuda: torch finds no GPU on this machine") as caught:
        choose_device("cuda", None)
    assert caught.value.hint == "--device cpu, or rmrkd doctor"


@pytest.mark.parametrize(
    ("value", "device", "expected"), [("", "cpu", None), ("gloo", "cuda", "gloo"), ("nccl", "cuda", "nccl")]
)
def test_the_backend_of_the_environment(
    value: str, device: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BACKEND, value)
    assert forced_backend(device) == expected


@pytest.mark.parametrize(
    ("value", "device", "message"), [("mpi", "cuda", "mpi: allowed are nccl and gloo"), ("nccl", "cpu", "needs GPUs")]
)
def test_a_backend_that_does_not_work_is_rejected(
    value: str, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BACKEND, value)
    with pytest.raises(RmrkdError, match=message):
        forced_backend(device)


def test_workers_share_a_gpu_over_gloo_only(monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch, 2)
    assert own_device("cuda", 1).index == 1
    with pytest.raises(RmrkdError, match=r"worker 2 .* has no GPU: 2 GPU"):
        own_device("cuda", 2)
    monkeypatch.setenv(BACKEND, "gloo")
    assert choose_device("auto", 4) == ("cuda", 4)
    assert [own_device("cuda", rank).index for rank in range(4)] == [0, 1, 0, 1]


def test_a_worker_that_sees_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers often show each worker its own GPU alone."""
    set_gpus(monkeypatch, 1)
    assert own_device("cuda", 3).index == 0
