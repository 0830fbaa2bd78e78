"""Networks that losses train against the student, each moved by an optimizer of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_ENTRY = "own_optimizers"  # of a checkpoint; absent where there are none
_Layout = list[dict[str, tuple[int, ...]]]  # what an optimizer remembers of each parameter, and its shape


class LossOptimizers:
    """The optimizers of all losses that have `make_optimizer()`.

    They keep their learning rates. The gradients they follow are neither clipped nor counted with the student's.

    Attributes:
        parameters: All that they move.
    """

    def __init__(self, losses: Mapping[str, nn.Module]) -> None:
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            name: loss.make_optimizer()  # type: ignore[operator]
            for name, loss in losses.items()
            if hasattr(loss, "make_optimizer")
        }
        groups = [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]

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
        """Of all their gradients together; none without opponents."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) if gradients else None

    def state(self) -> dict[str, Any]:
        """The entry of a checkpoint; empty without opponents."""
        states = {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}
        return {_ENTRY: states} if states else {}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """What the optimizers remember, from a checkpoint; their settings are the preset's, not a file's.

        Raises:
            ValueError: When it is not what they would remember of these parameters.
        """
        states = saved.get(_ENTRY, {})
        if set(states) != set(self._optimizers):
            raise ValueError(f"it has own optimizers of the losses {sorted(states)}, not {sorted(self._optimizers)}")
        for name, optimizer in self._optimizers.items():
            settings = optimizer.state_dict()["param_groups"]
            expected = _layout_after_a_step(optimizer)
            optimizer.load_state_dict({"state": states[name]["state"], "param_groups": settings})
            found = _layout(optimizer)
            if any(found) and found != expected:
                wrong = next(pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1])
                raise ValueError(f"the loss `{name}` remembers {wrong[0]} of a parameter, its optimizer {wrong[1]}")


def _layout(optimizer: torch.optim.Optimizer) -> _Layout:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [
        {key: tuple(value.shape) for key, value in optimizer.state.get(parameter, {}).items()}
        for parameter in parameters
    ]


def _layout_after_a_step(optimizer: torch.optim.Optimizer) -> _Layout:
    """Found on a copy, so that it holds for any kind of optimizer."""
    rehearsal = copy.deepcopy(optimizer)
    for group in rehearsal.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    rehearsal.step()
    return _layout(rehearsal)
