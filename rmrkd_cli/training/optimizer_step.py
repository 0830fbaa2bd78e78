"""One optimizer step: forward, backward, update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.loss_optimizers import LossOptimizers
from rmrkd_cli.presets.schema import Schedule

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def poly_lr(schedule: Schedule, step: float) -> float:
    """The learning rate of a step (from 0, to at most `iters`): mmcv's poly policy with a floor."""
    left: float = (1.0 - step / schedule.iters) ** schedule.power
    return (schedule.lr - schedule.min_lr) * left + schedule.min_lr


class TrainStep:
    """SGD on a distiller; networks that losses train against the student are moved by their own optimizers.

    Args:
        model: The distiller itself.
        wrapped: The same, or inside DDP.

    Attributes:
        parameters: What SGD moves.
        opponent_norm: Of the opponents' gradients together in the last step; none without them, or under fp16.
    """

    def __init__(self, model: Distiller, wrapped: nn.Module, schedule: Schedule, device: torch.device) -> None:
        self.model, self.wrapped, self.schedule, self.device = model, wrapped, schedule, device
        self.opponents = LossOptimizers(model.losses)  # type: ignore[arg-type]
        others = set(self.opponents.parameters)
        named = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter not in others
        }
        self.parameters = list(named.values())
        self._parts = {parameter: _part(name) for name, parameter in named.items()}
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=schedule.amp == "fp16")
        self._buffers: list[tuple[Tensor, Tensor]] = []  # and what they were before the step
        self._norms: tuple[Tensor, ...] = ()  # of the gradient of each parameter that has one
        self.discriminator_grad_norm: Tensor | None = None

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def __call__(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """Takes one step over the given forward passes; returns each loss, unweighted, averaged over them."""
        named = self.backward(batches, step)
        self.gradient_norm()
        self.update()
        return named

    def backward(self, batches: list[Batch], step: float) -> dict[str, Tensor]:
        """The gradients of a step, and each loss, unweighted, averaged over the forward passes.

        Args:
            step: Where it stands in the schedule, in iterations.
        """
        if self.schedule.skip_nonfinite:
            self._buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        for group in self.optimizer.param_groups:
            group["lr"] = poly_lr(self.schedule, step)
        self.zero_grad()
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, 1):
            with self._sync_only_last(number == len(batches)):
                named = self._forward(batch)
                self.scaler.scale(self.model.total(named) / len(batches)).backward()  # type: ignore[no-untyped-call]
            for name, value in named.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(batches)
        return sums

    def gradient_norm(self) -> Tensor | None:
        """The norm of all gradients together, which are clipped to the schedule's bound; call it once a step.

        Opponents' gradients have a norm of their own, `opponent_norm`, and are never clipped.
        None where gradients are scaled (fp16): the scaler leaves out steps that overflow, and lowers its scale.
        """
        bound = self.schedule.clip_grad
        if self.scaler.is_enabled():
            if bound is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.parameters, bound)
            return None
        # as nn.utils.get_total_norm, which sorts by device and type first: all are of one, and a small step is short
        self.discriminator_grad_norm = self.opponents.gradient_norm()
        self._norms = torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(self._norms))
        if bound is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, bound, norm)
        return norm

    def norms_of_parts(self) -> dict[str, float]:
        """Norms of this step's gradient for each part of the student, the losses and their opponents; none in fp16.

        They are put together from what `gradient_norm` computed, before any clipping.
        """
        if not self._norms:
            return {}
        squares: dict[str, float] = {}
        names = [self._parts[parameter] for parameter in self.parameters if parameter.grad is not None]
        for name, norm in zip(names, torch.stack(self._norms).tolist(), strict=True):
            squares[name] = squares.get(name, 0.0) + norm**2
        opponents = {} if self.discriminator_grad_norm is None else {"opponents": float(self.discriminator_grad_norm)}
        return {name: math.sqrt(square) for name, square in squares.items()} | opponents

    def update(self) -> bool:
        """Moves the weights along the gradients; False where the scaler (fp16) found that these overflowed."""
        before = self.scaler.get_scale() if self.scaler.is_enabled() else 0.0
        self.scaler.step(self.optimizer)
        self.opponents.step(self.scaler)
        self.scaler.update()
        return not self.scaler.is_enabled() or self.scaler.get_scale() >= before

    def forget(self) -> None:
        """Leaves out this step's update: what its forward passes told batch norm is taken back too."""
        for buffer, before in self._buffers:
            buffer.copy_(before)
        if self.scaler.is_enabled():
            if self.schedule.clip_grad is None:
                self.scaler.unscale_(self.optimizer)  # else done already, when gradients were clipped
            self.opponents.unscale(self.scaler)
            self.scaler.update()  # lowers its scale where they overflowed; takes no step
        self.zero_grad()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.opponents.zero_grad()

    def state(self) -> dict[str, Any]:
        own = self.opponents.state()
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), **own}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Momentum, the scaler's state, and what opponents' optimizers remember.

        The settings of the optimizers are the schedule's and the losses', not a file's.
        """
        settings = self.optimizer.state_dict()["param_groups"]
        if [group["params"] for group in saved["optimizer"]["param_groups"]] != [group["params"] for group in settings]:
            raise ValueError("it is of other parameters")
        self.optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": settings})
        self.scaler.load_state_dict(saved["scaler"])
        self.opponents.restore(saved)

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True).long()  # a byte each until here
        mixed = _DTYPES.get(self.schedule.amp)
        with torch.autocast(self.device.type, dtype=mixed, enabled=mixed is not None):
            named: dict[str, Tensor] = self.wrapped(images, labels)
        return named

    def _sync_only_last(self, last: bool) -> Any:
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()


def _part(name: str) -> str:
    """`backbone`, `decode_head`, `auxiliary_head` of the student, or `losses`, from a parameter's name."""
    first, _, rest = name.partition(".")
    return rest.split(".")[0] if first == "student" else first
