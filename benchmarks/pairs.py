"""Check that two functions give the same result, and time them alternately."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.result import Disagreement, Setting

Answer = TypeVar("Answer")
Times = tuple[list[float], list[float]]


def check_and_time(
    plain: Callable[[], Answer],
    ours: Callable[[], Answer],
    check: Callable[[Answer, Answer], str],
    setting: Setting,
    settle: Callable[[], None] = lambda: None,
) -> tuple[str, Times]:
    """Run both sides once as a warm-up, compare their results, and time them alternately.

    Args:
        check: Returns a sentence about the comparison, or raises `Disagreement`.
        settle: Called before each timed run.

    Returns:
        The sentence of `check`, and the seconds of both sides.
    """
    setting.log("  checking that both give the same result")
    sentence = check(plain(), ours())
    setting.log(f"  {sentence}")
    return sentence, time_pairs(plain, ours, setting, settle)


def time_pairs(
    plain: Callable[[], object],
    ours: Callable[[], object],
    setting: Setting,
    settle: Callable[[], None] = lambda: None,
) -> Times:
    """Return the seconds of both sides, timed alternately; both must be warm."""
    times: Times = ([], [])
    for number in range(1, setting.pairs + 1):
        for side, call in zip(times, (plain, ours), strict=True):
            settle()
            side.append(measure_seconds(call, setting))
        setting.log(f"  pair {number}/{setting.pairs}: {times[0][-1]:.4g} s and {times[1][-1]:.4g} s")
    return times


def synchronize(device: str) -> None:
    """Wait until a GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def compare_tensors(tolerance: float) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], str]:
    """Return a check of named tensors: the norm of their difference, relative to the norm of the plain side."""

    def check(plain: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
        if plain.keys() != ours.keys():
            raise Disagreement(f"plain returns {', '.join(plain)}, rmrkd returns {', '.join(ours)}")
        errors = {name: _error(ours[name], plain[name]) for name in plain}
        mismatches = {name: error for name, error in errors.items() if not error <= tolerance}
        if mismatches:
            listed = ", ".join(f"{name} {error:.1e}" for name, error in mismatches.items())
            raise Disagreement(f"relative difference too large: {listed} (allowed {tolerance:.0e})")
        listed = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
        return f"relative difference of the results: {listed} (allowed {tolerance:.0e})"

    return check


def measure_seconds(call: Callable[[], object], setting: Setting) -> float:
    """Return the seconds of a call; a short call is repeated, and the mean is used."""
    runs, passed = 0, 0.0
    synchronize(setting.device)
    began = time.perf_counter()
    while runs == 0 or passed < setting.min_seconds:
        call()
        synchronize(setting.device)
        runs, passed = runs + 1, time.perf_counter() - began
    return passed / runs


def _error(got: Tensor, want: Tensor) -> float:
    got, want = got.detach(), want.detach()
    return float((got - want).norm() / want.norm().clamp_min(1e-30))
