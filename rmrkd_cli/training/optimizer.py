"""The optimizer of a schedule: SGD or AdamW, with factors for some of the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.presets.schedule_schema import ParameterFactors, Schedule
from rmrkd_cli.training.learning_rate import learning_rate

_ADAMW_STATE = {"step", "exp_avg", "exp_avg_sq"}


class ScheduledOptimizer:
    """An optimizer whose learning rates follow a schedule.

    Parameters with equal factors form a group, in the order of the first of each. The longest key of
    `schedule.optimizer.custom_keys` that a parameter's name contains gives its factors, as in mmcv's
    `DefaultOptimizerConstructor`.

    Args:
        schedule: The schedule.
        named: Name → parameter.
        fused: Use torch's fused form, which can skip an update on the device.

    Attributes:
        torch_optimizer: torch's SGD or AdamW.
        lr: Learning rate of parameters without factors.
    """

    def __init__(self, schedule: Schedule, named: Mapping[str, nn.Parameter], *, fused: bool) -> None:
        self.schedule, self.lr = schedule, schedule.lr
        self.matches: dict[str, int] = dict.fromkeys(schedule.optimizer.custom_keys, 0)
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in named.items():
            factors = self._factors(name)
            groups.setdefault((factors.lr_mult, factors.decay_mult), []).append(parameter)
        self._lr_factors = [lr_mult for lr_mult, _ in groups]
        self.torch_optimizer = _make(schedule, [{"params": group} for group in groups.values()], fused or None)
        for group, (_, decay_mult) in zip(self.torch_optimizer.param_groups, groups, strict=True):
            group["weight_decay"] *= decay_mult

    def _factors(self, name: str) -> ParameterFactors:
        keys = self.schedule.optimizer.custom_keys
        for key in sorted(sorted(keys), key=len, reverse=True):
            if key in name:
                self.matches[key] += 1
                return keys[key]
        return ParameterFactors()

    def set_learning_rates(self, step: float) -> None:
        """Set the learning rates of a step."""
        self.lr = learning_rate(self.schedule, step)
        for group, factor in zip(self.torch_optimizer.param_groups, self._lr_factors, strict=True):
            group["lr"] = learning_rate(self.schedule, step, factor)

    def add_missing_momentum(self) -> None:
        """Set missing momentum to 0: torch's fused SGD leaves it undefined when it skips its first step."""
        for group in self.torch_optimizer.param_groups:
            for parameter in group["params"] if group.get("momentum") else ():
                state = self.torch_optimizer.state[parameter]
                if parameter.grad is not None and state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the state from a state dict. Hyperparameters stay those of the schedule.

        Raises:
            ValueError: When the state belongs to other parameters, or to another optimizer.
        """
        optimizer = self.torch_optimizer
        groups = optimizer.state_dict()["param_groups"]
        if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
            raise ValueError("the optimizer's parameters differ")
        for state in saved["state"].values():
            self._check_keys(state)
        optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        for parameter, state in optimizer.state.items():
            shapes = {key: tuple(value.shape) for key, value in state.items() if value is not None}
            if shapes.pop("step", ()) != () or any(shape != tuple(parameter.shape) for shape in shapes.values()):
                raise ValueError(f"state of shape {shapes} for a parameter of shape {tuple(parameter.shape)}")
            for key, value in state.items():  # fused kernels need the strides of the parameter
                if isinstance(value, Tensor) and key != "step" and value.stride() != parameter.stride():
                    state[key] = torch.empty_like(parameter).copy_(value)

    def _check_keys(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError if this is no state of the optimizer for a parameter."""
        kind = self.schedule.optimizer.type
        if set(state) not in ([_ADAMW_STATE] if kind == "AdamW" else [{"momentum_buffer"}, set()]):
            raise ValueError(f"it has {', '.join(map(str, state)) or 'nothing'} for a parameter, which {kind} has not")


def _make(schedule: Schedule, groups: list[dict[str, Any]], fused: bool | None) -> torch.optim.Optimizer:
    lr, decay = schedule.lr, schedule.weight_decay
    if schedule.optimizer.type == "AdamW":
        return torch.optim.AdamW(groups, lr=lr, betas=schedule.optimizer.betas, weight_decay=decay, fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=schedule.momentum, weight_decay=decay, fused=fused)


def describe_optimizer(schedule: Schedule, matches: Mapping[str, int]) -> str:
    """Return the optimizer, its learning rate and its factors in one line.

    Args:
        schedule: The schedule.
        matches: Key of `custom_keys` → number of parameters whose factors it gives.
    """
    parts = [f"{schedule.optimizer.type}, learning rate {schedule.lr:g}, weight decay {schedule.weight_decay:g}"]
    if schedule.warmup is not None:
        parts[0] += f", warm-up of {schedule.warmup.iters} iterations from {schedule.warmup.ratio:g} times that rate"
        if schedule.warmup.iters > schedule.iters:
            parts[0] += f" (longer than the {schedule.iters} of the run)"
    for key, factors in schedule.optimizer.custom_keys.items():
        changes = {"learning rate": factors.lr_mult, "weight decay": factors.decay_mult}
        text = ", ".join(f"{what} x{factor:g}" for what, factor in changes.items() if factor != 1.0)
        parts.append(f"`{key}` ({matches[key]} parameters): {text or 'unchanged'}")
    return "; ".join(parts)
