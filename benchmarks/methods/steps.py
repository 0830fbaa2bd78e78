"""Seconds of a training step under every method, beside the baseline's, in turns in one process."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.methods.runs import Conditions
from benchmarks.networks import random_batch
from benchmarks.pairs import measure_seconds
from benchmarks.result import Result, Row, Setting
from benchmarks.store import Store
from benchmarks.training import BASELINE
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.distillation.factory import build_distiller
from rmrkd_cli.networks.inference import inference_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.schema import OWN_METHOD
from rmrkd_cli.training.loss_weights import auto_weighted_losses
from rmrkd_cli.training.optimizer_step import TrainStep

Step = Callable[[], object]
_WARM = 3
_STILL = ("schedule.lr=1e-9", "schedule.min_lr=0")  # the weights of losses are not training's, and nothing may diverge


def key(name: str) -> str:
    """Under which a method's step is stored."""
    return f"step {name}"


def tuned(name: str) -> str:
    """Return the name of a method's step with chosen settings, which may have another cost."""
    return f"{name}, tuned"


def measure(
    conditions: Conditions,
    setting: Setting,
    store: Store,
    taken: str,
    chosen: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Time the steps that the store does not have yet, with the baseline's in every round.

    Args:
        chosen: Settings by method, to time steps with these; None to time the baseline's and all methods' own.
    """
    wanted: dict[str, tuple[str, Sequence[str]]] = {BASELINE: (BASELINE, ())}
    if chosen is None:
        wanted |= {name: (name, ()) for name in conditions.methods}
    else:
        wanted |= {tuned(name): (name, settings) for name, settings in chosen.items()}
    missing = [name for name, step in wanted.items() if not _is_stored(store, name, *step)]
    if not missing:
        return
    names = list(dict.fromkeys((BASELINE, *missing)))
    setting.log(f"seconds a step: {', '.join(names)}")
    times = rounds([_step(*wanted[name], conditions, setting) for name in names], setting)
    for name, own in zip(names, times, strict=True):
        if name in missing:
            row = Row("time", "s", times[0], own, bound=True)
            store.put(Result(key(name), _describe(*wanted[name]), "nothing to compare", [row], taken=taken))


def _describe(method: str, settings: Sequence[str]) -> str:
    return " ".join((f"a step of {method}", *settings))


def _is_stored(store: Store, name: str, method: str, settings: Sequence[str]) -> bool:
    found = store.results.get(key(name))
    return found is not None and found.what == _describe(method, settings)


def rounds(steps: Sequence[Step], setting: Setting) -> list[list[float]]:
    """Seconds of each step in every round; all of them take their turn before the next round."""
    times: list[list[float]] = [[] for _ in steps]
    for step in steps:
        for _ in range(1 if setting.quick else _WARM):
            step()
    for number in range(1, setting.pairs + 1):
        for own, step in zip(times, steps, strict=True):
            own.append(measure_seconds(step, setting))
        setting.log(f"  round {number}/{setting.pairs}")
    return times


def seconds(name: str, store: Store) -> float | None:
    """A step's, as its ratio to the baseline's in the same rounds; none until it was measured.

    The baseline's own seconds are those of its first measurement, so that methods added later fit in.
    """
    found, base = (store.results.get(key(each)) for each in (name, BASELINE))
    if found is None or base is None:
        return None
    return statistics.median(found.rows[0].ratios) * statistics.median(base.rows[0].ours)


def iterations(name: str, store: Store, time: float) -> int | None:
    """How many steps fit into so many seconds."""
    step = seconds(name, store)
    return None if step is None else max(1, round(time / step))


def _step(name: str, settings: Sequence[str], conditions: Conditions, setting: Setting) -> Step:
    """As training sets it up, with random weights; weights of losses that are left to the rule are 1."""
    role, method = (BASELINE, None) if name == BASELINE else ("distill", None if name == OWN_METHOD else name)
    preset = load_preset(conditions.preset, method=method, overrides=[*conditions.settings, *settings, *_STILL])
    classes, device = dataset_info(preset).num_classes, torch.device(setting.device)
    built = build_distiller(preset, role, classes, device=device.type, log=lambda _: None, with_weights=False)
    model = built.distiller.to_device(device, inference_network)
    if role == "distill":
        model.weights |= dict.fromkeys(auto_weighted_losses(preset), 1.0)
    model.train()
    step = TrainStep(model, model, preset.schedule_for(role), device)
    batch = random_batch(preset)
    batch.labels.remainder_(classes)
    return lambda: step([batch], 0)
