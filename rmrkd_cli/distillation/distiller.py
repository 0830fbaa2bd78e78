"""Run a student and a frozen teacher, and compute the losses between their maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.distillation.label_source import LABELLED, LabelSource, fill_labels, labelled_losses
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import MapName, adapter_of, find_adapter
from rmrkd_cli.networks.autocast import cast_for_autocast
from rmrkd_cli.networks.memory_format import fastest_format
from rmrkd_cli.networks.sync_batch_norm import replace_sync_batch_norm

MapNames = MapName | tuple[MapName, ...]  # one map, or several for one loss
_RENAMED = {"own_weights": "extra_weights", "own_optimizer": "make_optimizer"}  # attributes of custom losses


class Distiller(nn.Module):
    """Compute the losses of a student, alone or with a teacher.

    The teacher is not a submodule: it is in no state dict, optimizer or DDP bucket, and `train()` does not reach it.
    It always runs in eval mode and without gradients.

    In a training loop of your own, give `parameters()` to the optimizer: those of the student and of the losses.

    Args:
        student: A network that `load_network` returned, or an mmsegmentation segmentor.
        teacher: Another one, or None for plain training, and for losses that get stored logits of a teacher.
        losses: name → distillation loss module, `loss(student map, teacher map, labels)`; one that acts on several
            maps takes tuples of them. It returns a scalar. A loss that also trains another network returns a
            mapping: under "" the loss of the student, under other names losses of that network. It then has
            `extra_weights` (those names → factor) and `make_optimizer()` for that network.
        stages: name → map that the loss acts on, or a tuple of maps.
        weights: name → factor of the loss in the total.
        label_source: What images without label maps get as labels.
        stored_classes: Classes of the stored teacher logits that `forward` gets; None: the teacher is run.
        stored_align_corners: How those logits are resized to the labels where they are the labels.

    Attributes:
        teacher_gives_logits: False for a foundation model, whose maps are resized to the student's.

    Raises:
        RmrkdError: When a network is no segmentor, or the losses do not fit together.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        losses: Mapping[str, nn.Module] | None = None,
        stages: Mapping[str, MapNames] | None = None,
        weights: Mapping[str, float] | None = None,
        *,
        label_source: LabelSource = LABELLED,
        stored_classes: int | None = None,
        stored_align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(dict(losses or {}))
        self.stages = dict(stages or {})
        self.stored_classes, self.stored_align_corners = stored_classes, stored_align_corners
        self.weights = {"ce": 1.0, "aux_ce": 1.0, **dict(weights or {})}
        for name, loss in self.losses.items():
            extra: Mapping[str, float] = getattr(loss, "extra_weights", {})
            for old, new in _RENAMED.items():
                if hasattr(loss, old) and not hasattr(loss, new):
                    raise RmrkdError(f"loss `{name}` has `{old}`, which is now `{new}`", "rename it in the loss")
            parts = {f"{name}_{part}": weight for part, weight in extra.items()}
            if taken := [key for key in parts if key in self.losses]:
                raise RmrkdError(f"`{taken[0]}` is already the name of a part of loss `{name}`", "rename that loss")
            self.weights |= parts
        used = [map_name for maps in self.stages.values() for map_name in _as_tuple(maps)]
        self._needs_auxiliary = "aux" in used
        self.label_source = label_source
        self._teacher: tuple[nn.Module, ...] = ()
        if teacher is not None:
            teacher.requires_grad_(False)
            self._teacher = (teacher.eval(),)
        self._teacher_dtype: torch.dtype | None = None
        self._formats = [torch.contiguous_format] * (1 + len(self._teacher))
        if self.losses and teacher is None and stored_classes is None:
            raise RmrkdError(f"the losses {', '.join(self.losses)} need a teacher")
        for what, network in (("student", student), ("teacher", teacher)):
            if network is not None:
                _check_segmentor(what, network)
        self.teacher_gives_logits = teacher is None or not adapter_of(teacher).only_features

    @property
    def teacher(self) -> nn.Module | None:
        return self._teacher[0] if self._teacher else None

    def to_device(
        self, device: torch.device | str, for_inference: Callable[[nn.Module, str], nn.Module] | None = None
    ) -> Distiller:
        """Move everything to a device, each network in the memory format that is fastest there.

        On a GPU, SyncBN of the student and of losses becomes one that does not wait for the GPU.

        Args:
            device: The device.
            for_inference: From the teacher and the type of device to an equal network that runs faster.
        """
        kind = torch.device(device).type
        if for_inference is not None:
            self._teacher = tuple(for_inference(network, kind) for network in self._teacher)
        networks = (self.student, *self._teacher)
        self._formats = [fastest_format(network, kind) for network in networks]
        for network, layout in zip(networks, self._formats, strict=True):
            network.to(device).to(memory_format=layout)
        self.losses.to(device).to(memory_format=torch.channels_last)
        return self if kind == "cpu" else replace_sync_batch_norm(self)

    def cast_teacher(self, dtype: torch.dtype) -> None:
        """Cast the teacher's weights once, as autocast would at every step. It then runs under autocast only."""
        if self._teacher_dtype != dtype:
            self._teacher_dtype = dtype
            for teacher in self._teacher:
                cast_for_autocast(teacher, dtype)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        unlabelled: Tensor | None = None,
        teacher_logits: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return every loss, unweighted.

        Args:
            images: (B, 3, H, W) normalised.
            labels: (B, 1, H, W) int64, 255 ignored.
            unlabelled: (U, 2) int64 height and width that each of the last U images covers of its crop; they have no
                label maps. None: all images have.
            teacher_logits: (B, K, h, w), used in place of the teacher; None: the teacher is run.

        Returns:
            name → scalar: `ce` and `aux_ce` of the student's heads (with the heads' own factors) on the images that
            have labels, missing where no image of the training has, then the distillation losses.
        """
        return self.forward_with_features(images, labels, unlabelled=unlabelled, teacher_logits=teacher_logits)[0]

    def forward_with_features(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        unlabelled: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        label_source: LabelSource | None = None,
    ) -> tuple[dict[str, Tensor], dict[MapName, Tensor]]:
        """Return what `forward` returns, and the student's maps by name.

        Args:
            label_source: Used in place of that of the constructor.
        """
        source, adapter = label_source or self.label_source, adapter_of(self.student)
        images_of_student = images.contiguous(memory_format=self._formats[0])
        auxiliary = source.exist or self._needs_auxiliary
        student_maps = adapter.maps(self.student, images_of_student, auxiliary=auxiliary)
        has_teacher = bool(self.losses or self._teacher) or teacher_logits is not None
        teacher_maps = self._teacher_maps(images, teacher_logits) if has_teacher else {}
        missing = 0 if unlabelled is None else len(unlabelled)
        if unlabelled is not None and source.teacher:
            labels, missing = self._fill_labels(labels, unlabelled, teacher_maps["logits"], source.threshold), 0
        compute = partial(adapter.losses, self.student)
        losses = labelled_losses(compute, student_maps, labels, missing) if source.exist else {}
        if has_teacher:
            for name, loss in self.losses.items():
                pair = self._match_pair(student_maps, teacher_maps, self.stages[name])
                losses |= named_scalars(name, loss, loss(*pair, labels))
        return losses, student_maps

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum that training minimises."""
        return torch.stack([self.weights[name] * value.float() for name, value in losses.items()]).sum()

    def _fill_labels(self, labels: Tensor, unlabelled: Tensor, logits: Tensor, threshold: float) -> Tensor:
        options: dict[str, Any] = {"align_corners": self.stored_align_corners}
        for teacher in self._teacher:
            adapter = adapter_of(teacher)
            options = {"align_corners": adapter.align_corners, "binary": adapter.threshold}
        return fill_labels(labels, unlabelled, logits, threshold=threshold, **options)

    @torch.no_grad()
    def _teacher_maps(self, images: Tensor, logits: Tensor | None) -> dict[MapName, Tensor]:
        if logits is not None:
            return {"logits": logits.float()}
        if not self._teacher:
            raise RmrkdError("the losses need a teacher, or its logits for these images")
        teacher = self._teacher[0]
        images = images.contiguous(memory_format=self._formats[1])
        return adapter_of(teacher).maps(teacher, images, auxiliary=self._needs_auxiliary)

    def _match_pair(
        self, student: Mapping[MapName, Tensor], teacher: Mapping[MapName, Tensor], maps: MapNames
    ) -> tuple[Any, Any]:
        """Return the named map of student and teacher, or tuples of them, the teacher's at the student's size.

        Stages of a segmentation network are not resized: their strides are equal.
        """
        names = _as_tuple(maps)
        ours = tuple(student[name] for name in names)
        theirs = tuple(
            teacher[name] if isinstance(name, int) and self.teacher_gives_logits else _resize_like(teacher[name], like)
            for name, like in zip(names, ours, strict=True)
        )
        return (ours, theirs) if isinstance(maps, tuple) else (ours[0], theirs[0])


def named_scalars(name: str, loss: nn.Module, value: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a loss's scalars by the names under which they are logged.

    Args:
        value: What the loss returned.

    Raises:
        RmrkdError: When it is no scalar, or does not have the names that the loss declares.
    """
    parts = value if isinstance(value, Mapping) else {"": value}
    for part in parts.values():
        if not isinstance(part, Tensor) or part.dim() != 0:
            is_tensor = isinstance(part, Tensor)
            got = f"a tensor of shape {tuple(part.shape)}" if is_tensor else f"a {type(part).__name__}"
            raise RmrkdError(f"loss `{name}` returned {got}, it must return a scalar tensor")
    named = {f"{name}_{part}" if part else name: each for part, each in parts.items()}
    expected = {name, *(f"{name}_{part}" for part in getattr(loss, "extra_weights", {}))}
    if set(named) != expected:
        got = ", ".join(f"`{part}`" for part in parts) or "nothing"
        raise RmrkdError(f'loss `{name}` returned {got}, it must return "" and the names in its `extra_weights`')
    return named


def _as_tuple(maps: MapNames) -> tuple[MapName, ...]:
    return maps if isinstance(maps, tuple) else (maps,)


def _check_segmentor(what: str, network: nn.Module) -> None:
    missing = [name for name in ("extract_feat", "decode_head") if not hasattr(network, name)]
    if missing and find_adapter(network) is None:
        raise RmrkdError(
            f"the {what} is a `{type(network).__name__}` without `{'` and `'.join(missing)}`; Distiller takes "
            "mmsegmentation segmentors, and networks that `load_network` returned",
            "for any other network, call the losses on its feature maps and logits in your own training loop: "
            "loss(student_map, teacher_map, labels)",
        )


def _resize_like(maps: Tensor, like: Tensor) -> Tensor:
    """Return a map at the size of another: a DeepLabV3+ teacher's head has stride 4, most students' 8."""
    if maps.shape[2:] == like.shape[2:]:
        return maps
    return F.interpolate(maps.float(), size=like.shape[2:], mode="bilinear", align_corners=False)
