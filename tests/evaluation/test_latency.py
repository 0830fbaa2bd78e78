"""Latencies are measured in turns, and other processes' load is measured with them."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest
import torch
from torch import Tensor, nn

from rmrkd_cli.evaluation import latency
from rmrkd_cli.evaluation.latency import measure_latencies, time_in_turns
from rmrkd_cli.evaluation.machine import CoresInUse


class Segmentor(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)

    def extract_feat(self, image: Tensor) -> list[Tensor]:
        return [image]

    def decode_head(self, features: list[Tensor]) -> Tensor:
        return self.conv(features[0])


def test_each_function_runs_once_a_round_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_MAX_ROUNDS", 7)
    calls: list[str] = []
    times, load = time_in_turns([lambda: calls.append("a"), lambda: calls.append("b"), lambda: calls.append("c")], 1.0)
    assert "".join(calls) == "aabbcc" + "abccba" * 3 + "abc"
    assert [len(own) for own in times] == [7, 7, 7]
    assert load["cores"] >= 1
    assert load["cores_of_others"] >= 0


def test_networks_with_the_same_layers_get_the_same_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine does meanwhile, no reader can take one of two identical networks for the faster one."""
    monkeypatch.setattr(latency, "_MAX_ROUNDS", 8)
    first, second, other = measure_latencies(
        [Segmentor(4), Segmentor(4), Segmentor(5)], (8, 8), torch.device("cpu"), budget=1.0
    )
    assert first == second
    assert (first["runs"], first["pooled"]) == (16, 2)
    assert (other["runs"], other["pooled"]) == (8, 1)
    assert other["min_ms"] <= other["low_ms"] <= other["median_ms"] <= other["high_ms"]


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="the load is read from Linux's counters")
def test_the_load_by_another_process_is_measured_and_ones_own_is_not() -> None:
    def measure(seconds: float = 0.5) -> float:
        cores, end = CoresInUse(), time.monotonic() + seconds
        while time.monotonic() < end:  # this process is busy too
            pass
        return cores.measure()["cores_of_others"]

    other = multiprocessing.get_context("fork").Process(target=_spin, args=(20.0,), daemon=True)
    other.start()
    try:
        assert measure() > 0.2
    finally:
        other.kill()
        other.join()


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
