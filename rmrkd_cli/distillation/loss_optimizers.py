"""Optimizers of networks that a loss trains beside the student, such as a discriminator."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_KEY = "own_optimizers"  # in a checkpoint; absent without such losses
_Layout = list[dict[str, tuple[int, ...]]]  # name -> shape of the state of each parameter


class LossOptimizers:
    """The optimizers of all losses that have `make_optimizer()`.

    Their learning rates stay constant. Their gradients are neither clipped nor part of the student's gradient norm.

    Attributes:
        parameters: All parameters that they update.
    """

    def __init__(self, losses: Mapping[str, nn.Module]) -> None:
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            name: loss.make_optimizer()  # type: ignore[operator]
            for name, loss in losses.items()
            if hasattr(loss, "make_optimizer")
        }
        groups = [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]

    def __iter__(self) -> Iterator[torch.optim.Optimizer]:
        return iter(self._optimizers.values())

    @property
    def can_skip_on_device(self) -> bool:
        """Whether all take torch's `found_inf`, with which a GPU skips an update without asking the host."""
        return all(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in self)

    def zero_grad(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def step(self, scaler: torch.amp.GradScaler) -> None:
        for optimizer in self._optimizers.values():
            scaler.step(optimizer)

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        for optimizer in self._optimizers.values():
            scaler.unscale_(optimizer)

    def gradient_norm(self) -> Tensor | None:
        """Return the norm of all their gradients together, or None without any."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) if gradients else None

    def state(self) -> dict[str, Any]:
        """Return the entry of a checkpoint; empty without such losses."""
        states = {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}
        return {_KEY: states} if states else {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the optimizers' state from a checkpoint. Settings such as learning rates come from the preset.

        Raises:
            ValueError: When the state does not belong to these parameters.
        """
        states = saved.get(_KEY, {})
        if set(states) != set(self._optimizers):
            raise ValueError(f"it has optimizers of the losses {sorted(states)}, not {sorted(self._optimizers)}")
        for name, optimizer in self._optimizers.items():
            settings = optimizer.state_dict()["param_groups"]
            expected = _layout_after_a_step(optimizer)
            optimizer.load_state_dict({"state": states[name]["state"], "param_groups": settings})
            restored = _layout(optimizer)
            if any(restored) and restored != expected:
                got, wanted = next(pair for pair in zip(restored, expected, strict=True) if pair[0] != pair[1])
                raise ValueError(f"the optimizer state of loss `{name}` has {got} for a parameter, expected {wanted}")


def _layout(optimizer: torch.optim.Optimizer) -> _Layout:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [
        {key: tuple(value.shape) for key, value in optimizer.state.get(parameter, {}).items()}
        for parameter in parameters
    ]


def _layout_after_a_step(optimizer: torch.optim.Optimizer) -> _Layout:
    """Return the layout after one step of a copy, which works for any kind of optimizer."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    return _layout(trial)
