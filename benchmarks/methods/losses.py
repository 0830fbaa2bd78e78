"""Each loss against the plain form of its formula, in which autograd keeps everything: time, and memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.memory import SIDES, memory_rows
from benchmarks.pairs import Times, compare_tensors, time_pairs
from benchmarks.result import Disagreement, Result, Row, Setting
from benchmarks.store import Store
from rmrkd_cli.distillation.factory import build_losses, map_names_of
from rmrkd_cli.networks.feature_maps import FeatureShapes
from rmrkd_cli.presets.fields import LOGITS, MAPS
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.loss_schema import LossSpec

CLASSES, CHANNELS, SIDE = 19, 512, 64
TOLERANCE = 1e-3  # of float32; the tests compare both in float64
ACROSS_KINKS = {"mgd": 5e-3}  # a share f of its ReLU's units is rounded across the kink: gradients move by sqrt(f)
_TESTS = ("tests.losses.naive", "tests.losses.naive_regions", "tests.losses.naive_relations")
Naive = Callable[..., Tensor]
Answer = dict[str, Tensor]
Maps = tuple[Tensor, ...]

_PLAIN: dict[str, Naive] = {
    "rmrkd": lambda loss, s, t, y: plain.rmrkd(s, t, y, loss.num_classes, loss.tau),
    "idd": lambda loss, s, t, y: plain.idd(s, t, y, loss.num_classes),
    "mgd": lambda loss, s, t, y: plain.mgd(s, t, loss.draw_mask(s), loss.align, loss.generation),
    "dkd": lambda loss, s, t, y: plain.dkd(
        s, t, y, loss.num_classes, loss.tau, (loss.target_weight, loss.non_target_weight)
    ),
}


def naive_of(kind: str) -> Naive | None:
    """The plain form of a type of loss, `naive(loss, student, teacher, labels)`, where there is one."""
    modules = (importlib.import_module(name) for name in _TESTS)
    return next((found for module in modules if (found := getattr(module, f"naive_{kind}", None))), _PLAIN.get(kind))


def key(kind: str) -> str:
    """Under which a loss's cost is stored."""
    return f"loss {kind}"


def measure(kinds: list[str], setting: Setting, store: Store, taken: str) -> Iterator[str]:
    """Takes what the store does not hold yet; gives each loss whose two sides disagree."""
    for kind in kinds:
        if key(kind) in store.results or naive_of(kind) is None:
            continue
        setting.log(f"loss {kind} against the plain form of its formula")
        try:
            result = against_plain(kind, setting)
        except Disagreement as error:
            setting.log(f"  FAILED: {error}")
            yield key(kind)
        else:
            result.taken = taken
            store.put(result)


def against_plain(kind: str, setting: Setting) -> Result:
    checked, times = _checked_and_timed(kind, setting)  # its maps are gone before the memory is measured
    rows = [Row("time", "s", *times), *memory_rows(__name__, kind, setting, goal=None)]
    return Result(key(kind), f"{kind}, forward and backward", checked, rows)


def _checked_and_timed(kind: str, setting: Setting) -> tuple[str, Times]:
    looped, ours = (_Side(kind, side, setting) for side in SIDES)
    for side in (looped, ours):
        side.loss.eval()  # a memory, which each fills with what it draws for itself, is filled by neither
    checked = compare_tensors(ACROSS_KINKS.get(kind, TOLERANCE))(looped(), ours())
    setting.log(f"  {checked}")
    for side in (looped, ours):
        side.loss.train()
        side()
    return checked, time_pairs(looped, ours, setting)


def workload(kind: str, side: str, setting: Setting) -> Callable[[], Answer]:
    """One side, for its memory."""
    return _Side(kind, side, setting)


def spec_of(kind: str) -> LossSpec:
    """With every default."""
    return load_preset("demo", overrides=[f"losses={{one: {{type: {kind}}}}}"]).losses["one"]


class _Side:
    """One forward and backward pass, of a loss or of the plain form of its formula.

    Both sides have the same weights, maps, and random numbers.
    """

    def __init__(self, kind: str, side: str, setting: Setting) -> None:
        side_length, channels = (8, 16) if setting.quick else (SIDE, CHANNELS)
        spec = spec_of(kind)
        preset = load_preset("demo", overrides=[f"schedule.crop={[8 * side_length] * 2}"])
        preset = preset.model_copy(update={"losses": {kind: spec}})
        shapes = FeatureShapes(
            {place: CLASSES if place in LOGITS else channels for place in MAPS}, dict.fromkeys(MAPS, 8)
        )
        torch.manual_seed(7)
        self.loss: nn.Module = build_losses(preset, shapes, shapes, CLASSES)[kind].to(setting.device)
        where = map_names_of(spec)
        widths = [shapes.channels[place] for place in (where if isinstance(where, tuple) else (where,))]
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(3))
        ours, theirs = (
            tuple(draw(2, width, side_length, side_length).to(setting.device) for width in widths) for _ in range(2)
        )
        self.leaves: Maps = tuple(maps.requires_grad_() for maps in ours)
        self.maps = (self.leaves, theirs) if isinstance(where, tuple) else (self.leaves[0], theirs[0])
        self.labels = _labels(side_length).to(setting.device)
        naive = naive_of(kind)
        self._compute: Any = partial(naive, self.loss) if side == "plain" and naive is not None else self.loss

    def __call__(self) -> Answer:
        torch.manual_seed(7)
        value: Tensor = self._compute(*self.maps, self.labels)
        leaves = {f"map {number}": leaf for number, leaf in enumerate(self.leaves)}
        leaves |= {name: value for name, value in self.loss.named_parameters() if value.requires_grad}
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        by_name = {name: each for name, each in zip(leaves, gradients, strict=True) if each is not None}
        return {"value": value.detach(), **by_name}


def _labels(side: int) -> Tensor:
    """(2, 1, side, side): blocks of classes at the size of the maps, so that nothing is resized, with an ignored row.

    Some plain forms take labels of that size alone.
    """
    blocks = torch.randint(0, CLASSES, (2, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    labels = blocks.repeat_interleave(side // 8, 2).repeat_interleave(side // 8, 3)
    labels[:, :, 0] = 255
    return labels
