"""One optimizer step: forward, backward, update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.distillation.loss_optimizers import LossOptimizers
from rmrkd_cli.presets.schema import Schedule
from rmrkd_cli.training.kernels import search_kernels
from rmrkd_cli.training.optimizer import ScheduledOptimizer, describe_optimizer

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainStep:
    """A step of SGD or AdamW on a distiller.

    Losses that train another network, such as a discriminator, bring its optimizer.

    Args:
        model: The distiller.
        wrapped: The distiller in DistributedDataParallel, or itself.
        asynchronous: Let the device decide whether an update is applied (`update_unless`), so that the host need not
            wait for the step. None: on a GPU, if all optimizers can.

    Attributes:
        parameters: The parameters that the schedule's optimizer updates.
        asynchronous: Whether to call `update_unless`, not `update_weights` and `rollback`.
        loss_optimizers: The optimizers of the losses.
        discriminator_grad_norm: Gradient norm of the losses' own networks in the last step; None without such
            networks, and under fp16.
    """

    def __init__(
        self,
        model: Distiller,
        wrapped: nn.Module,
        schedule: Schedule,
        device: torch.device,
        asynchronous: bool | None = None,
    ) -> None:
        self.model, self.wrapped, self.schedule, self.device = model, wrapped, schedule, device
        self.loss_optimizers = LossOptimizers(model.losses)  # type: ignore[arg-type]
        excluded = set(self.loss_optimizers.parameters)
        named = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter not in excluded
        }
        self.parameters = list(named.values())
        self._parts = {parameter: _part_of(name) for name, parameter in named.items()}
        if asynchronous is None:
            asynchronous = device.type == "cuda" and self.loss_optimizers.can_skip_on_device
        self.asynchronous = asynchronous
        names = {name.removeprefix("student."): parameter for name, parameter in named.items()}
        self.scheduled = ScheduledOptimizer(schedule, names, fused=asynchronous)
        self.optimizer = self.scheduled.torch_optimizer
        self.scaler = torch.amp.GradScaler(device.type, enabled=schedule.amp == "fp16")
        self._buffer_copies: list[tuple[Tensor, Tensor]] = []  # (buffer, its value before the step)
        self._norms: tuple[Tensor, ...] = ()  # of each parameter that has a gradient
        self.discriminator_grad_norm: Tensor | None = None

    @property
    def lr(self) -> float:
        """Learning rate of the last step, of parameters without factors."""
        return self.scheduled.lr

    def describe_optimizer(self) -> str:
        """Return the optimizer, its learning rate and its factors in one line."""
        return describe_optimizer(self.schedule, self.scheduled.matches)

    def __call__(self, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """Take one step over the batches; return each loss, unweighted, averaged over them."""
        losses = self.backward(batches, step)
        self.clip_gradients()
        self.update_weights()
        return losses

    def backward(self, batches: Sequence[Batch], step: float) -> dict[str, Tensor]:
        """Compute the gradients of a step; return each loss, unweighted, averaged over the batches.

        Args:
            batches: One for each forward pass.
            step: Position in the schedule, in iterations.
        """
        if self.schedule.skip_nonfinite:
            self._buffer_copies = [(buffer, buffer.clone()) for buffer in _step_buffers(self.model, self.device)]
        self.scheduled.set_learning_rates(step)
        self.zero_grad()
        means: dict[str, Tensor] = {}
        for number, batch in enumerate(batches, 1):
            with self._sync_gradients(number == len(batches)), search_kernels(self.device.type):
                losses = self._forward(batch)
                total = self.model.total(losses)
                if self.asynchronous and self.scaler.is_enabled():
                    total = total * torch.where(total.isfinite(), 1.0, math.nan)  # the scaler sees gradients only
                self.scaler.scale(total / len(batches)).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + value.detach() / len(batches)
        return means

    def clip_gradients(self) -> Tensor | None:
        """Clip the gradients to the schedule's `clip_grad`, and return their norm before clipping.

        Call it once a step. Gradients of the losses' own networks are never clipped; their norm is
        `discriminator_grad_norm`.

        Returns:
            The norm; None under fp16, where the gradient scaler skips steps that overflow.
        """
        limit = self.schedule.clip_grad
        if self.scaler.is_enabled():
            if limit is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.parameters, limit)
            return None
        # nn.utils.get_total_norm first sorts gradients by device and dtype. Here all are of one kind.
        self.discriminator_grad_norm = self.loss_optimizers.gradient_norm()
        self._norms = torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(self._norms))
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        return norm

    def part_gradient_norms(self) -> dict[str, float]:
        """Return the gradient norm, before clipping, of each part: backbone, heads, losses, discriminators.

        Empty under fp16.
        """
        if not self._norms:
            return {}
        squares: dict[str, float] = {}
        parts = [self._parts[parameter] for parameter in self.parameters if parameter.grad is not None]
        for part, norm in zip(parts, torch.stack(self._norms).tolist(), strict=True):
            squares[part] = squares.get(part, 0.0) + norm**2
        norms = {part: math.sqrt(square) for part, square in squares.items()}
        if self.discriminator_grad_norm is not None:
            norms["discriminators"] = float(self.discriminator_grad_norm)
        return norms

    def update_weights(self) -> bool:
        """Update the weights; return False if gradients overflowed under fp16 and the scaler skipped the update."""
        if self.asynchronous:
            self.scheduled.add_missing_momentum()
        before = self.scaler.get_scale() if self.scaler.is_enabled() else 0.0
        self.scaler.step(self.optimizer)
        self.loss_optimizers.step(self.scaler)
        self.scaler.update()
        return not self.scaler.is_enabled() or self.scaler.get_scale() >= before

    def update_unless(self, nonfinite: Tensor) -> list[Tensor]:
        """Enqueue the update and return without waiting for it. If `nonfinite` is 1 the device changes nothing.

        Batch-norm statistics then return to their values before the step, if the schedule skips such steps; see
        `_step_buffers`. Under fp16 the gradient scaler also skips the update if gradients overflowed.

        Args:
            nonfinite: A scalar on the device, 0 or 1, the same on all workers.

        Returns:
            Under fp16 the loss scale before and after the update, which is smaller after an overflow; else nothing.
        """
        self.scheduled.add_missing_momentum()
        scales: list[Tensor] = []
        if self.scaler.is_enabled():
            scale = cast("Tensor", self.scaler._get_scale_async())
            scales.append(scale.clone())
            self.scaler.step(self.optimizer)
            self.loss_optimizers.step(self.scaler)
            self.scaler.update()
            scales.append(cast("Tensor", self.scaler._get_scale_async()))
        else:
            for optimizer in (self.optimizer, *self.loss_optimizers):
                optimizer.found_inf = nonfinite  # torch's own way to skip on the device
                optimizer.step()
                del optimizer.found_inf
        for buffer, before in self._buffer_copies:
            buffer.copy_(torch.where(nonfinite > 0, before, buffer))
        return scales

    def rollback(self) -> None:
        """Discard the gradients of this step, and restore batch-norm statistics to their values before it."""
        for buffer, before in self._buffer_copies:
            buffer.copy_(before)
        if self.scaler.is_enabled():
            if self.schedule.clip_grad is None:
                self.scaler.unscale_(self.optimizer)  # else clip_gradients did it
            self.loss_optimizers.unscale(self.scaler)
            self.scaler.update()  # lowers its scale after an overflow; takes no step
        self.zero_grad()

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_optimizers.zero_grad()

    def state(self) -> dict[str, Any]:
        """Return the checkpoint entries of the optimizers and the gradient scaler."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **self.loss_optimizers.state(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the state of the optimizers and the gradient scaler from a checkpoint's entries.

        Hyperparameters stay those of the schedule and the losses.

        Raises:
            ValueError: When the state belongs to other parameters.
        """
        self.scheduled.restore(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.loss_optimizers.restore(saved)

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True).long()  # uint8 until here, to copy less
        more = {}
        if batch.unlabelled is not None:
            more["unlabelled"] = batch.unlabelled.to(self.device, non_blocking=True)
        if batch.teacher_logits is not None:
            more["teacher_logits"] = batch.teacher_logits.to(self.device, non_blocking=True)
        dtype = _DTYPES.get(self.schedule.amp)
        if dtype is not None:
            self.model.cast_teacher(dtype)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            losses: dict[str, Tensor] = self.wrapped(images, labels, **more)
        return losses

    def _sync_gradients(self, is_last: bool) -> Any:
        """Let DDP average gradients in the last forward pass of a step only."""
        if is_last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()


def _step_buffers(model: nn.Module, device: torch.device) -> list[Tensor]:
    """Return the buffers that a skipped step leaves unchanged.

    Left out are those in a module's `keep_when_skipped`, and those that are not on the device of the step: the host
    would wait for the step to know whether to restore them.
    """
    buffers = {
        id(buffer): buffer
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in getattr(module, "keep_when_skipped", ()) and buffer.device.type == device.type
    }
    return list(buffers.values())


def _part_of(name: str) -> str:
    """Return the part of a parameter: `backbone`, `decode_head`, `auxiliary_head` of the student, or `losses`."""
    first, _, rest = name.partition(".")
    return rest.split(".")[0] if first == "student" else first
