"""Mathematics the losses share. Shapes: B images, C channels, K classes, P = H * W positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError

LABEL_RESIZES = ("bilinear", "nearest")


def resize_labels(labels: Tensor, like: Tensor, mode: str) -> Tensor:
    """Labels at the size of a feature map.

    "bilinear" is what the released RMRKD code does (`rmrkd.py:52` at 1d0ed7a): interpolate the label values
    as numbers and truncate. At the border of two regions it makes labels of classes that are not there.
    "nearest" takes the label of one pixel.

    Args:
        labels: (B, 1, Hi, Wi) integers at image resolution.
        like: (B, C, H, W) map whose size they take.
        mode: One of `LABEL_RESIZES`.

    Returns:
        (B, H, W) int64.
    """
    if labels.dim() != 4 or labels.shape[:2] != (like.shape[0], 1):
        raise RmrkdError(f"labels must have shape ({like.shape[0]}, 1, H, W), got {tuple(labels.shape)}")
    options = {"align_corners": False} if mode == "bilinear" else {}
    resized = F.interpolate(labels.float(), size=like.shape[2:], mode=mode, **options)
    return resized.squeeze(1).long()


def one_hot_masks(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """(B, H, W) labels to (B, K, P) masks of 0 and 1; labels outside 0..K-1 are in no mask."""
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1)
    return (labels.flatten(1).unsqueeze(1) == classes).to(dtype)


def drop_absent(masks: Tensor) -> Tensor:
    """(B, K, P) to (B, N, P), N the most classes that occur in one image: its own first, in their order."""
    present = masks.any(2)
    most = int(present.sum(1).max())
    first = present.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    return masks.gather(1, first.unsqueeze(2).expand(-1, -1, masks.shape[2]))


def working_precision(maps: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Maps in the precision of a layer that learns; without one, half precisions as float32 and float64 as it is.

    Half precisions are not summed over thousands of positions.
    """
    for parameter in layer.parameters() if layer is not None else ():
        return maps.to(parameter.dtype)
    return maps if maps.dtype == torch.float64 else maps.float()


def kl_divergence(student: Tensor, teacher: Tensor, tau: float, dim: int) -> Tensor:
    """Sum over everything of KL(softmax(teacher / tau) || softmax(student / tau)), softmax along `dim`.

    The teacher receives no gradient.
    """
    total: Tensor = _KLDivergence.apply(student, teacher, tau, dim)
    return total


def divergence(student: Tensor, teacher: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Sum over everything of KL(softmax(teacher) || softmax(student)), and its gradient with respect to the student.

    Called where no gradient is recorded.
    """
    log_student = F.log_softmax(student, dim=dim)
    log_teacher = F.log_softmax(teacher, dim=dim)
    expected = log_teacher.exp()
    total = (expected * log_teacher.sub_(log_student)).sum()
    return total, log_student.exp_().sub_(expected)


class _KLDivergence(torch.autograd.Function):
    """Keeps one map for the backward pass: the gradient is (softmax(s / tau) - softmax(t / tau)) / tau."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, tau: float, dim: int) -> Tensor:
        total, gradient = divergence(student / tau, teacher / tau, dim)
        ctx.save_for_backward(gradient.div_(tau))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient * ctx.saved_tensors[0], None, None, None


def check_pair(student: Tensor, teacher: Tensor, what: str, channels: tuple[int, int]) -> None:
    """Raises RmrkdError unless both maps are (B, C, H, W) with the same B, H and W, and the channels expected."""
    same = student.dim() == teacher.dim() == 4
    if not same or student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise RmrkdError(
            f"student {what} {tuple(student.shape)} and teacher {what} {tuple(teacher.shape)} must agree in batch, "
            "height and width",
            "choose stages of the same stride, or the same crop for both networks",
        )
    met = (student.shape[1], teacher.shape[1])
    if met != channels:
        raise RmrkdError(f"{what} have {met[0]} (student) and {met[1]} (teacher) channels, expected {channels}")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises RmrkdError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise RmrkdError(f"{name} must be one of {', '.join(allowed)}, got `{value}`")
