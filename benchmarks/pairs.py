"""Two sides of a measure, checked against each other and timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.result import Disagreement, Setting

Answer = TypeVar("Answer")
Times = tuple[list[float], list[float]]


def checked_pairs(
    plain: Callable[[], Answer],
    ours: Callable[[], Answer],
    check: Callable[[Answer, Answer], str],
    setting: Setting,
    settle: Callable[[], None] = lambda: None,
) -> tuple[str, Times]:
    """Runs both sides once, which also warms them up, compares their answers, and times them in turns.

    Args:
        check: Raises `Disagreement`, or says in a sentence how the answers agree.
        settle: Called before each timing, and not timed.

    Returns:
        That sentence, and the seconds of both sides, a pair each.
    """
    setting.say("  checking that both give the same answer")
    sentence = check(plain(), ours())
    setting.say(f"  {sentence}")
    return sentence, timed_pairs(plain, ours, setting, settle)


def timed_pairs(
    plain: Callable[[], object],
    ours: Callable[[], object],
    setting: Setting,
    settle: Callable[[], None] = lambda: None,
) -> Times:
    """Seconds of both sides, taken in turns; both must be warm."""
    times: Times = ([], [])
    for number in range(1, setting.pairs + 1):
        for side, call in zip(times, (plain, ours), strict=True):
            settle()
            side.append(seconds_of_call(call, setting))
        setting.say(f"  pair {number}/{setting.pairs}: {times[0][-1]:.4g} s and {times[1][-1]:.4g} s")
    return times


def synchronize(device: str) -> None:
    """Waits for a GPU, which computes while Python goes on."""
    if device == "cuda":
        torch.cuda.synchronize()


def agree(tolerance: float) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], str]:
    """A check of named tensors: the Euclidean norm of their difference, relative to the plain side's."""

    def check(plain: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
        if plain.keys() != ours.keys():
            raise Disagreement(f"plain gives {', '.join(plain)}, rmrkd gives {', '.join(ours)}")
        errors = {name: _error(ours[name], plain[name]) for name in plain}
        wrong = {name: error for name, error in errors.items() if not error <= tolerance}
        if wrong:
            told = ", ".join(f"{name} by {error:.1e}" for name, error in wrong.items())
            raise Disagreement(f"relative difference of {told}; allowed is {tolerance:.0e}")
        told = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
        return f"relative difference of both answers: {told} (allowed {tolerance:.0e})"

    return check


def seconds_of_call(call: Callable[[], object], setting: Setting) -> float:
    """Repeated for as long as the setting asks; the mean counts."""
    runs, passed = 0, 0.0
    synchronize(setting.device)
    began = time.perf_counter()
    while runs == 0 or passed < setting.shortest:
        call()
        synchronize(setting.device)
        runs, passed = runs + 1, time.perf_counter() - began
    return passed / runs


def _error(got: Tensor, want: Tensor) -> float:
    got, want = got.detach(), want.detach()
    return float((got - want).norm() / want.norm().clamp_min(1e-30))
