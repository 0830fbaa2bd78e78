"""What measured latencies do not show: the machine was busy, or two networks cannot be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from rmrkd_cli.terminal.text import join_and

_MAX_PAIRS = 6  # in one sentence
_OVERLOADED = 1.1  # threads in use per core, from which they slow each other down


class Timed(NamedTuple):
    """A network and its latency, as `measure_latencies` returns it; `macs` is None where unknown."""

    label: str
    latency: Mapping[str, Any]
    macs: int | None = None


def latency_notes(timed: Sequence[Timed]) -> list[str]:
    """Return a sentence for each set of networks whose runs were pooled."""
    sets: dict[tuple[float, float, float], list[str]] = {}
    for one in timed:
        if one.latency.get("pooled", 1) > 1:
            sets.setdefault(_quartiles(one), []).append(one.label)
    return [
        f"latency: {join_and(labels)} have the same layers, so they take the same time; their runs are pooled"
        for labels in sets.values()
        if len(labels) > 1
    ]


def latency_warnings(timed: Sequence[Timed]) -> list[str]:
    """Return what makes the latencies unreliable, one sentence each."""
    warnings = []
    worst = max((one.latency for one in timed), key=lambda latency: latency.get("cores_of_others") or 0.0, default={})
    if is_overloaded(worst):
        others, cores = worst["cores_of_others"], worst["cores"]
        warnings.append(
            f"the machine was busy: other processes used {others:.1f} of {cores} cores while latency was measured, so "
            "the times are too long; measure again on an idle machine"
        )
    overlapping, equal = [], []
    for one, other in combinations(timed, 2):
        if _quartiles(one) == _quartiles(other):
            continue  # pooled
        (low, _, high), (other_low, _, other_high) = _quartiles(one), _quartiles(other)
        if low <= other_high and other_low <= high:
            overlapping.append(f"{one.label} and {other.label}")
        elif one.macs is not None and one.macs == other.macs:
            equal.append(f"{one.label} and {other.label}")
    if overlapping:
        warnings.append(f"latency does not tell {_listed(overlapping)} apart: their quartiles overlap")
    if equal:
        warnings.append(f"{_listed(equal)} have equal MACs: repeat the measurement before you trust their latency")
    return warnings


def is_overloaded(latency: Mapping[str, Any]) -> bool:
    """Return whether the threads of the measurement and of other processes needed more cores than there are."""
    others, cores = latency.get("cores_of_others"), latency.get("cores")
    if others is None or not cores:
        return False
    own = min(latency.get("threads") or 1, cores) if str(latency.get("device", "cpu")).startswith("cpu") else 1
    return bool(own + others > _OVERLOADED * cores)


def _quartiles(one: Timed) -> tuple[float, float, float]:
    low, median, high = (one.latency[key] for key in ("low_ms", "median_ms", "high_ms"))
    return low, median, high


def _listed(pairs: Sequence[str]) -> str:
    return "; ".join(pairs[:_MAX_PAIRS]) + (f"; and {len(pairs) - _MAX_PAIRS} more pairs" if pairs[_MAX_PAIRS:] else "")
