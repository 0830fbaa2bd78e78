"""A distillation step as in the released code, rebuilt from its description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import plain
from rmrkd_cli.data.loader import Batch
from rmrkd_cli.distillation.distiller import Distiller
from rmrkd_cli.losses import DKDLoss, MGDLoss, RMRKDLoss
from rmrkd_cli.presets.schema import Schedule

_EMBEDDED = 512


class ReleasedStep:
    """A step with contiguous maps, unfolded batch norm in the teacher, loops over classes and dense MGD convolutions.

    Args:
        model: A distiller before `place`; its networks and layers are trained, its forward pass is not used.
    """

    def __init__(self, model: Distiller, schedule: Schedule, device: str) -> None:
        assert model.teacher is not None
        self.model, self.device = model.to(device), torch.device(device)
        self.teacher: Any = model.teacher.to(device).eval()
        self.unused = _unused_layers(model).to(device)
        self.parameters = [*model.parameters(), *self.unused.parameters()]
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
        self.keep_mask: Tensor | None = None  # instead of MGD's random one

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Train one step and return every loss, unweighted."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._losses(batch.images.to(self.device), batch.labels.to(self.device))
        self._total(losses).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        student: Any = self.model.student
        features = student.extract_feat(images)
        logits = student.decode_head(features)
        losses = {"ce": _cross_entropy(student.decode_head, logits, labels)}
        losses["aux_ce"] = _cross_entropy(student.auxiliary_head, student.auxiliary_head(features), labels)
        with torch.no_grad():
            theirs = self.teacher.extract_feat(images)
            their_logits = self.teacher.decode_head(theirs)
        for name, loss in self.model.losses.items():
            if isinstance(loss, DKDLoss):
                weights = loss.target_weight, loss.non_target_weight
                losses[name] = plain.dkd(logits, their_logits, labels, loss.num_classes, loss.tau, weights)
                continue
            stage = self.model.stages[name]
            assert isinstance(stage, int)  # the released losses act on one map
            losses[name] = self._feature_loss(loss, features[stage - 1], theirs[stage - 1], labels)
        return losses

    def _feature_loss(self, loss: nn.Module, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        if isinstance(loss, RMRKDLoss):
            return plain.rmrkd(loss.align(student), teacher, labels, loss.num_classes, loss.tau)
        assert isinstance(loss, MGDLoss)
        keep_mask = loss.draw_mask(student) if self.keep_mask is None else self.keep_mask
        return plain.mgd(student, teacher, keep_mask, loss.align, loss.generation)

    def _total(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.model.weights[name] * value for name, value in losses.items()]).sum()


def _cross_entropy(head: Any, logits: Tensor, labels: Tensor) -> Tensor:
    """Return mmsegmentation's loss of a head, with its weight, without the accuracy."""
    value: Tensor = head.losses(logits, labels)["loss_ce"]
    return value


def _unused_layers(model: Distiller) -> nn.ModuleList:
    """Return the layers that the released losses train but never call: two embeddings and a generator."""
    rmrkd = next(loss for loss in model.losses.values() if isinstance(loss, RMRKDLoss))
    embeddings = [
        nn.Sequential(nn.Linear(channels, _EMBEDDED), nn.ReLU(), nn.Linear(_EMBEDDED, _EMBEDDED))
        for channels in rmrkd.channels
    ]
    convolutions = [nn.Conv2d(rmrkd.num_classes, rmrkd.num_classes, 3, padding=1) for _ in range(2)]
    return nn.ModuleList([*embeddings, nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1])])
