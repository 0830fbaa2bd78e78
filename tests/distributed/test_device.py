"""The device and the number of workers for --device and --gpus."""

from __future__ import annotations

import pytest
import torch

from rmrkd_cli.distributed.device import choose_device
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
    [("auto", 4, 2, "--gpus 2"), ("cuda", None, 0, "--device cpu --gpus 1"), ("auto", 2, 0, "--device cpu --gpus")],
)
def test_more_gpus_than_available_are_rejected(
    wanted: str, gpus: int | None, available: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(monkeypatch, available)
    with pytest.raises(RmrkdError, match=rf"this machine has {available} GPU") as caught:
        choose_device(wanted, gpus)
    assert hint in caught.value.hint
