"""The 1x1 convolution that brings student features to the teacher's channels."""

from __future__ import annotations

from torch import nn


def align_layer(student_channels: int, teacher_channels: int) -> nn.Module:
    """A 1x1 convolution with bias, or `nn.Identity` where the channels already agree."""
    if student_channels == teacher_channels:
        return nn.Identity()
    return nn.Conv2d(student_channels, teacher_channels, kernel_size=1)
