"""A frozen teacher, a student, and the losses between them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.memory_format import fastest_format

Stage = int | str  # 1..4 for the backbone's stages, or "logits"


class Distiller(nn.Module):
    """Trains a student alone, or under a teacher.

    The teacher is kept out of the module tree: it is in no state dict, no optimizer and no DDP bucket, and
    `train()` cannot reach it. It runs in eval mode and without gradients, always.

    Args:
        student: An mmsegmentation segmentor.
        teacher: Another one, or none for plain training.
        losses: name → distillation loss module, `loss(student map, teacher map, labels)`.
        stages: name → where the loss acts.
        weights: name → factor of the loss in the total.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        losses: Mapping[str, nn.Module] | None = None,
        stages: Mapping[str, Stage] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(dict(losses or {}))
        self.stages = dict(stages or {})
        self.weights = {"ce": 1.0, "aux_ce": 1.0, **dict(weights or {})}
        self._teacher: tuple[nn.Module, ...] = ()
        if teacher is not None:
            teacher.requires_grad_(False)
            self._teacher = (teacher.eval(),)
        self._formats = [torch.contiguous_format] * (1 + len(self._teacher))
        if self.losses and teacher is None:
            raise RmrkdError(f"the losses {', '.join(self.losses)} need a teacher")

    @property
    def teacher(self) -> nn.Module | None:
        return self._teacher[0] if self._teacher else None

    def teacher_digest(self) -> str:
        """SHA-256 of all the teacher's weights and statistics, which never change; empty without a teacher."""
        digest = hashlib.sha256()
        for network in self._teacher:
            for tensor in (*network.parameters(), *network.buffers()):
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest() if self._teacher else ""

    def place(
        self, device: torch.device | str, for_inference: Callable[[nn.Module, str], nn.Module] | None = None
    ) -> Distiller:
        """Moves everything to a device, each network in the memory format that is fastest there.

        Args:
            for_inference: Makes of the teacher, and a kind of device, a network that computes the same faster.
        """
        kind = torch.device(device).type
        if for_inference is not None:
            self._teacher = tuple(for_inference(network, kind) for network in self._teacher)
        networks = (self.student, *self._teacher)
        self._formats = [fastest_format(network, kind) for network in networks]
        for network, layout in zip(networks, self._formats, strict=True):
            network.to(device).to(memory_format=layout)
        self.losses.to(device).to(memory_format=torch.channels_last)
        return self

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every loss, unweighted.

        Args:
            images: (B, 3, H, W) normalised.
            labels: (B, 1, H, W) int64, 255 ignored.

        Returns:
            name → scalar: `ce` and `aux_ce` of the student's heads (with the heads' own factors), then the
            distillation losses.
        """
        features = self.student.extract_feat(images.contiguous(memory_format=self._formats[0]))  # type: ignore[operator]
        logits = self.student.decode_head(features)  # type: ignore[operator]
        named = {"ce": _head_loss(self.student.decode_head, logits, labels)}
        if getattr(self.student, "with_auxiliary_head", False):
            named["aux_ce"] = self._auxiliary(features, labels)
        if self._teacher:
            ours = _by_stage(features, logits)
            theirs = self._teacher_maps(images)
            theirs["logits"] = _resize_like(theirs["logits"], logits)
            for name, loss in self.losses.items():
                stage = self.stages[name]
                named[name] = loss(ours[stage], theirs[stage], labels)
        return named

    def total(self, named: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        return torch.stack([self.weights[name] * value.float() for name, value in named.items()]).sum()

    def _auxiliary(self, features: list[Tensor], labels: Tensor) -> Tensor:
        heads = self.student.auxiliary_head
        every = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
        return torch.stack([_head_loss(head, head(features), labels) for head in every]).sum()  # type: ignore[operator]

    @torch.no_grad()
    def _teacher_maps(self, images: Tensor) -> dict[Stage, Tensor]:
        teacher = self._teacher[0]
        features = teacher.extract_feat(images.contiguous(memory_format=self._formats[1]))  # type: ignore[operator]
        return _by_stage(features, teacher.decode_head(features))  # type: ignore[operator]


def _by_stage(features: list[Tensor], logits: Tensor) -> dict[Stage, Tensor]:
    maps: dict[Stage, Tensor] = dict(enumerate(features, 1))
    maps["logits"] = logits
    return maps


def _head_loss(head: Any, logits: Tensor, labels: Tensor) -> Tensor:
    named = head.losses(logits.float(), labels)
    return torch.stack([value for name, value in named.items() if "loss" in name]).sum()


def _resize_like(logits: Tensor, like: Tensor) -> Tensor:
    """A DeepLabV3+ teacher's logits are at stride 4, most students' at stride 8."""
    if logits.shape[2:] == like.shape[2:]:
        return logits
    return F.interpolate(logits.float(), size=like.shape[2:], mode="bilinear", align_corners=False)
