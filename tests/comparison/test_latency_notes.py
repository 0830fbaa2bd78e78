"""What a comparison says about latencies that do not tell networks apart."""

from __future__ import annotations

from typing import Any

import pytest

from rmrkd_cli.comparison.latency_notes import Timed, is_overloaded, latency_notes, latency_warnings


def latency(low: float, median: float, high: float, **facts: Any) -> dict[str, Any]:
    quartiles = {"low_ms": low, "median_ms": median, "high_ms": high, "min_ms": low, "runs": 20, "pooled": 1}
    return {**quartiles, "device": "cpu, 2 cores", "threads": 2, "cores": 2, "cores_of_others": 0.0, **facts}


def test_networks_with_the_same_layers_are_named_once() -> None:
    same = latency(255, 354, 458, pooled=2)
    timed = [Timed("baseline", same, 5), Timed("distill", dict(same), 5), Timed("teacher", latency(900, 950, 990), 9)]
    assert latency_notes(timed) == [
        "latency: baseline and distill have the same layers, so they take the same time; their runs are pooled"
    ]
    assert latency_warnings(timed) == []


def test_overlapping_quartiles_are_warned_of() -> None:
    """The measurement that a reader took for a distilled network 1.7 times as fast."""
    timed = [Timed("baseline", latency(298, 599, 2046), 5), Timed("distill", latency(255, 354, 458), 4)]
    (warning,) = latency_warnings(timed)
    assert warning == "latency does not tell baseline and distill apart: their quartiles overlap"


def test_equal_macs_are_warned_of_where_quartiles_are_apart() -> None:
    timed = [Timed("baseline", latency(300, 310, 320), 5), Timed("distill", latency(200, 210, 220), 5)]
    (warning,) = latency_warnings(timed)
    assert "baseline and distill have equal MACs" in warning
    unequal = [Timed("baseline", latency(300, 310, 320), 5), Timed("distill", latency(200, 210, 220), 4)]
    assert latency_warnings(unequal) == []


@pytest.mark.parametrize(
    ("others", "threads", "cores", "device", "busy"),
    [
        (1.6, 2, 2, "cpu, 2 cores", True), (0.1, 2, 2, "cpu, 2 cores", False), (3.0, 16, 32, "cpu, 32 cores", False),
        (20.0, 16, 32, "cpu, 32 cores", True), (3.0, 16, 16, "NVIDIA H100", False),
        (16.0, 16, 16, "NVIDIA H100", False),
        (None, 2, 2, "cpu, 2 cores", False),
    ],
)  # fmt: skip
def test_a_machine_is_busy_where_processes_need_more_cores_than_there_are(
    others: float | None, threads: int, cores: int, device: str, busy: bool
) -> None:
    measured = latency(1, 2, 3, cores_of_others=others, threads=threads, cores=cores, device=device)
    assert is_overloaded(measured) is busy
    warnings = latency_warnings([Timed("baseline", measured)])
    assert [f"other processes used {others} of {cores} cores" in warning for warning in warnings] == [True] * busy


def test_an_old_result_without_the_load_gives_no_warning() -> None:
    old = {"low_ms": 1.0, "median_ms": 2.0, "high_ms": 3.0}
    assert latency_warnings([Timed("a", old), Timed("b", {"low_ms": 4.0, "median_ms": 5.0, "high_ms": 6.0})]) == []
