"""The reference of the keys of `schedule`, in the form of `schema.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import create_model
from pydantic.fields import FieldInfo

from rmrkd_cli.presets.fields import (
    AUTO,
    MAX_PIXELS,
    AmpMode,
    Beta,
    Duration,
    Fraction,
    Iterations,
    LoaderProcesses,
    NonNegative,
    ParameterKey,
    Pixels,
    Positive,
    PositiveCount,
    is_number,
    numbers,
)
from rmrkd_cli.presets.validation import StrictModel


class ParameterFactors(StrictModel):
    """Factors for some of the parameters, as in `paramwise_cfg` of mmsegmentation."""

    example = "`{lr_mult: 10}`"

    lr_mult: NonNegative = 1.0  # times `schedule.lr`
    decay_mult: NonNegative = 1.0  # times `schedule.weight_decay`


class Optimizer(StrictModel):
    """What updates the weights. `lr` and `weight_decay` are keys of `schedule`."""

    example = "`{type: AdamW}`"

    type: Literal["SGD", "AdamW"] = "SGD"
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # of AdamW: decay of the means of gradients and of their squares
    # Part of a parameter's name in the network, such as `norm`, or `losses.NAME` -> factors; the longest key counts.
    custom_keys: dict[ParameterKey, ParameterFactors] = {}


class Warmup(StrictModel):
    """A learning rate that rises linearly at the start, as `warmup='linear'` of mmsegmentation."""

    example = "`{iters: 1500}`"

    iters: Iterations  # iterations after which the learning rate is that of the schedule
    ratio: Fraction = 1e-6  # of the schedule's learning rate, at the first iteration


class _ScheduleChecks(StrictModel):
    """What holds for the keys of a whole schedule and for some of them."""

    @classmethod
    def cross_field_problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        optimizer = raw.get("optimizer")
        if isinstance(optimizer, Mapping) and optimizer.get("type") == "AdamW" and raw.get("lr") is None:
            yield "AdamW needs `lr`, such as 6.0e-5: the default of 0.01 is for SGD"


class Schedule(_ScheduleChecks):
    """Optimizer and a polynomial learning rate; the defaults are mmsegmentation's 40k schedule."""

    iters: Iterations = 40000  # optimizer steps
    # Seconds of training, also as `2h30m`; None: `iters` ends it. With it, intervals are fractions of `iters`.
    time_budget: Duration | None = None
    batch_size: PositiveCount = 2  # images a process and forward pass
    accumulate: PositiveCount = 1  # forward passes an optimizer step
    crop: tuple[Pixels, Pixels] = (512, 512)  # height and width in pixels
    optimizer: Optimizer = Optimizer()
    lr: Positive = 0.01  # learning rate at the start; AdamW has no default
    momentum: Beta = 0.9  # of SGD
    weight_decay: NonNegative = 5e-4
    power: Positive = 0.9  # learning rate: (lr - min_lr) * (1 - iteration / iters) ** power + min_lr
    min_lr: NonNegative = 1e-4  # learning rate at the end
    warmup: Warmup | None = None  # slow start; None: the first iteration has the full learning rate
    clip_grad: Positive | None = None  # largest norm of the gradient; None: no clipping
    eval_interval: Iterations = 4000  # iterations between validations
    checkpoint_interval: Iterations = 4000  # iterations between checkpoints
    log_interval: Iterations = 50  # iterations between log lines; at most a tenth of the run
    # Data loader processes a training process; `auto`: from the machine's cores (data/loader_processes.py).
    workers: LoaderProcesses = AUTO
    amp: AmpMode = "off"  # mixed precision: off, bf16 or fp16
    tf32: bool = True  # GPUs: multiply float32 numbers of convolutions and matrix products with 10 bits, as TF32
    keep: PositiveCount = 2  # newest `iter_N.pth` files to keep
    skip_nonfinite: bool = False  # skip steps whose loss or gradient is infinite or NaN, instead of stopping
    skip_corrupt: bool = False  # replace an unreadable training image by the next one, instead of stopping

    @classmethod
    def cross_field_problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        yield from super().cross_field_problems(raw)
        crop, batch = numbers(raw.get("crop", cls.model_fields["crop"].default), 2), raw.get("batch_size", 1)
        if crop and is_number(batch) and crop[0] * crop[1] * batch > MAX_PIXELS:
            yield f"a batch of {batch} crops of {crop[0]}x{crop[1]} has more than {MAX_PIXELS} pixels"


def _optional(field: FieldInfo) -> Any:
    """Return the type of a key, with its bounds, or None."""
    bounded: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return bounded | None


PartialSchedule = create_model(  # type: ignore[call-overload]
    "PartialSchedule",
    __base__=_ScheduleChecks,
    __doc__="Any keys of `Schedule`; the others keep the preset's values.",
    **{name: (_optional(field), None) for name, field in Schedule.model_fields.items()},
)
