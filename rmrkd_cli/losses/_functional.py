"""Functions that several losses use. The boundary IoU uses one of them.

Shapes: B images, C channels, K classes, P = H * W positions.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rmrkd_cli.errors import RmrkdError


def check_pair(student: Tensor, teacher: Tensor, map_name: str, channels: tuple[int, int]) -> None:
    """Raise RmrkdError unless both maps are (B, C, H, W) with equal B, H, W and the expected channels."""
    same_rank = student.dim() == teacher.dim() == 4
    if not same_rank or student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise RmrkdError(
            f"student {map_name} {tuple(student.shape)} and teacher {map_name} {tuple(teacher.shape)} must have the "
            "same batch size, height and width",
            "choose stages of the same stride and the same crop for both networks, or resize one map: "
            'F.interpolate(teacher, student.shape[2:], mode="bilinear", align_corners=False)',
        )
    got = (student.shape[1], teacher.shape[1])
    if got != channels:
        raise RmrkdError(f"{map_name} have {got[0]} (student) and {got[1]} (teacher) channels, expected {channels}")


def check_labels(labels: Tensor, batch: int) -> None:
    """Raise RmrkdError unless labels are integers of shape (B, 1, H, W)."""
    if labels.dim() != 4 or labels.shape[:2] != (batch, 1):
        is_plain = labels.dim() == 3 and len(labels) == batch
        raise RmrkdError(
            f"labels must have shape ({batch}, 1, H, W), got {tuple(labels.shape)}",
            "labels[:, None] gives (B, H, W) the missing dimension"
            if is_plain
            else "one map of class indices an image",
        )
    if labels.is_floating_point() or labels.is_complex():
        raise RmrkdError(f"labels must be integers, got {labels.dtype}", "labels.long()")


def working_precision(maps: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Return maps in the dtype of a layer's parameters; without parameters in float32, or float64 as they are.

    Sums over thousands of positions are never taken in half precision.
    """
    for parameter in layer.parameters() if layer is not None else ():
        return maps.to(parameter.dtype)
    return maps if maps.dtype == torch.float64 else maps.float()


def make_align(student_channels: int, teacher_channels: int) -> nn.Module:
    """Return a 1x1 convolution with bias to the teacher's channels, or `nn.Identity` where channels are equal."""
    if student_channels == teacher_channels:
        return nn.Identity()
    return nn.Conv2d(student_channels, teacher_channels, kernel_size=1)


def resize_labels(labels: Tensor, like: Tensor, mode: str) -> Tensor:
    """Return labels at the size of a feature map.

    "bilinear" interpolates label values as numbers and truncates, as the released RMRKD code does (`rmrkd.py:52` at
    1d0ed7a). At the border of two regions it creates labels of other classes. "nearest" takes the label of one pixel.

    Args:
        labels: (B, 1, Hi, Wi) integers at image resolution.
        like: (B, C, H, W) map.
        mode: "bilinear" or "nearest".

    Returns:
        (B, H, W) int64.
    """
    check_labels(labels, len(like))
    options = {"align_corners": False} if mode == "bilinear" else {}
    resized = F.interpolate(labels.float(), size=like.shape[2:], mode=mode, **options)
    return resized.squeeze(1).long()


def one_hot_masks(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return masks (B, K, P) of 0 and 1 for labels (B, H, W); labels outside 0..K-1 are in no mask."""
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1)
    return (labels.flatten(1).unsqueeze(1) == classes).to(dtype)


def drop_absent_classes(masks: Tensor) -> Tensor:
    """Return masks (B, N, P) of (B, K, P), N the most classes that one image has: its own first, in their order.

    On a GPU all K stay.
    """
    if masks.device.type != "cpu":  # the number would be read from the GPU; its time there is small
        return masks
    present = masks.any(2)
    most = int(present.sum(1).max())
    first = present.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    return masks.gather(1, first.unsqueeze(2).expand(-1, -1, masks.shape[2]))


def window_max(values: Tensor, size: int, dim: int) -> Tensor:
    """Return the maximum over each window of `size` values along a dimension, which loses size - 1 of its length.

    The maximum over 2n values is that of two neighbouring windows of n, so the steps grow with log2(size) only.
    """
    reach = 1
    while reach < size:
        step = min(reach, size - reach)
        length = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        reach += step
    return values


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Return the attention of rows (B, heads, P, C); scale None: 1 / sqrt(C).

    The fused kernels keep no matrix of pairs (P, P). The plain form keeps it. It is used for rows whose channels are
    not adjacent in memory, on a GPU under `--deterministic`, and on a CPU for values of other channels than queries.
    """
    # a GPU's fused kernel has a backward pass that is not deterministic, and under `--deterministic` it only warns;
    # a CPU's gives each image and head to one thread
    exact = query.device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
    with sdpa_kernel(SDPBackend.MATH) if exact else nullcontext():
        return F.scaled_dot_product_attention(query, key, value, scale=scale)


def kl_divergence(student: Tensor, teacher: Tensor, tau: float, dim: int) -> Tensor:
    """Return the sum of KL(softmax(teacher / tau) || softmax(student / tau)) over everything, softmax along `dim`.

    The teacher receives no gradient.
    """
    total: Tensor = _KLDivergence.apply(student, teacher, tau, dim)
    return total


def kl_with_gradient(student: Tensor, teacher: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the sum of KL(softmax(teacher) || softmax(student)), and its gradient for the student.

    Call it under `torch.no_grad()`.
    """
    log_student = F.log_softmax(student, dim=dim)
    log_teacher = F.log_softmax(teacher, dim=dim)
    expected = log_teacher.exp()
    total = (expected * log_teacher.sub_(log_student)).sum()
    return total, log_student.exp_().sub_(expected)


class _KLDivergence(torch.autograd.Function):
    """Saves one map for the backward pass: the gradient is (softmax(s / tau) - softmax(t / tau)) / tau."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, tau: float, dim: int) -> Tensor:
        total, gradient = kl_with_gradient(student / tau, teacher / tau, dim)
        ctx.save_for_backward(gradient.div_(tau))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient * ctx.saved_tensors[0], None, None, None
