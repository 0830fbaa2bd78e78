"""A frozen teacher, a student, and the losses between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.feature_maps import Place, auxiliary_heads, decode
from rmrkd_cli.networks.memory_format import fastest_format

Where = Place | tuple[Place, ...]  # one map, or several that a loss takes together


class Distiller(nn.Module):
    """Trains a student alone, or under a teacher.

    The teacher is kept out of the module tree: it is in no state dict, no optimizer and no DDP bucket, and
    `train()` cannot reach it. It runs in eval mode and without gradients, always.

    Args:
        student: An mmsegmentation segmentor.
        teacher: Another one, or none for plain training.
        losses: name → distillation loss module, `loss(student map, teacher map, labels)`; one that acts on several
            maps takes tuples of them. It returns a scalar, or, where it trains a network of its own too, a mapping:
            under "" what moves the student, under other names what moves that network alone. Then it has
            `extra_weights` (those names → factor) and `make_optimizer()`, which moves that network.
        stages: name → where the loss acts.
        weights: name → factor of the loss in the total.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        losses: Mapping[str, nn.Module] | None = None,
        stages: Mapping[str, Where] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(dict(losses or {}))
        self.stages = dict(stages or {})
        self.weights = {"ce": 1.0, "aux_ce": 1.0, **dict(weights or {})}
        for name, loss in self.losses.items():
            own: Mapping[str, float] = getattr(loss, "extra_weights", {})
            named = {f"{name}_{part}": weight for part, weight in own.items()}
            if taken := [key for key in named if key in self.losses]:
                raise RmrkdError(f"`{taken[0]}` is the name of a part of the loss `{name}`", "name the other otherwise")
            self.weights |= named
        used = [place for where in self.stages.values() for place in _places(where)]
        self._needs_auxiliary = "aux" in used
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
        return self.forward_with_features(images, labels)[0]

    def forward_with_features(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], dict[Place, Tensor]]:
        """As `forward`, and the student's maps by their place."""
        features = self.student.extract_feat(images.contiguous(memory_format=self._formats[0]))  # type: ignore[operator]
        ours = decode(self.student, features)
        named = {"ce": _head_loss(self.student.decode_head, ours["logits"], labels)}
        heads = auxiliary_heads(self.student)
        if heads:
            every = [head(features) for head in heads]
            ours["aux"] = every[-1]
            values = [_head_loss(head, logits, labels) for head, logits in zip(heads, every, strict=True)]
            named["aux_ce"] = torch.stack(values).sum()
        if self._teacher:
            theirs = self._teacher_maps(images)
            for name, loss in self.losses.items():
                named |= self._named(name, loss(*self._match_pair(ours, theirs, self.stages[name]), labels))
        return named, ours

    def total(self, named: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        return torch.stack([self.weights[name] * value.float() for name, value in named.items()]).sum()

    @torch.no_grad()
    def _teacher_maps(self, images: Tensor) -> dict[Place, Tensor]:
        teacher = self._teacher[0]
        features = teacher.extract_feat(images.contiguous(memory_format=self._formats[1]))  # type: ignore[operator]
        maps = decode(teacher, features)
        if self._needs_auxiliary:
            maps["aux"] = auxiliary_heads(teacher)[-1](features)
        return maps

    def _named(self, name: str, value: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A loss's scalars, by the names they are logged under."""
        parts = value if isinstance(value, Mapping) else {"": value}
        for part in parts.values():
            if not isinstance(part, Tensor) or part.dim() != 0:
                is_tensor = isinstance(part, Tensor)
                shown = f"a tensor of shape {tuple(part.shape)}" if is_tensor else f"a {type(part).__name__}"
                raise RmrkdError(f"loss `{name}` gave {shown}, it must give a scalar tensor")
        named = {f"{name}_{part}" if part else name: each for part, each in parts.items()}
        expected = {name, *(f"{name}_{part}" for part in getattr(self.losses[name], "extra_weights", {}))}
        if set(named) != expected:
            given = ", ".join(f"`{part}`" for part in parts)
            raise RmrkdError(
                f'loss `{name}` gave {given or "nothing"}, it must give "" and what its `extra_weights` name'
            )
        return named

    @staticmethod
    def _match_pair(ours: Mapping[Place, Tensor], theirs: Mapping[Place, Tensor], where: Where) -> tuple[Any, Any]:
        """The student's map and the teacher's, or tuples of them."""
        pairs = [(ours[place], _resize_like(theirs[place], ours[place], place)) for place in _places(where)]
        student, teacher = zip(*pairs, strict=True)
        return (student, teacher) if isinstance(where, tuple) else (student[0], teacher[0])


def _places(where: Where) -> tuple[Place, ...]:
    return where if isinstance(where, tuple) else (where,)


def _head_loss(head: Any, logits: Tensor, labels: Tensor) -> Tensor:
    named = head.losses(logits.float(), labels)
    return torch.stack([value for name, value in named.items() if "loss" in name]).sum()


def _resize_like(maps: Tensor, like: Tensor, place: Place) -> Tensor:
    """A DeepLabV3+ teacher's head works at stride 4, most students' at stride 8; backbones must agree themselves."""
    if isinstance(place, int) or maps.shape[2:] == like.shape[2:]:
        return maps
    return F.interpolate(maps.float(), size=like.shape[2:], mode="bilinear", align_corners=False)
