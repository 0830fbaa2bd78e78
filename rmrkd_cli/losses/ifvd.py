"""IFVD: intra-class feature variation distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmrkd_cli.losses._align import align_layer
from rmrkd_cli.losses._functional import (
    LABEL_RESIZES,
    check_choice,
    check_pair,
    drop_absent,
    one_hot_masks,
    resize_labels,
    working_precision,
)
from rmrkd_cli.losses._similarity import prototype_cosines


class IFVDLoss(nn.Module):
    """The cosine between each position and the prototype of its class follows the teacher's.

    Source: Y. Wang, W. Zhou, T. Jiang, X. Bai, Y. Xu, "Intra-class Feature Variation Distillation for Semantic
    Segmentation", ECCV 2020; CIRKD `ifvd.py:14-35` at dab64db, and the copy released with RMRKD.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        num_classes: K.
        label_resize: "nearest" as in the method's own code, or "bilinear" as in the copy released with RMRKD.
        align: Bring the student to the teacher's channels first, as that copy does; the method itself compares
            each network in its own channels.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        label_resize: str = "nearest",
        align: bool = False,
    ) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        check_choice("label_resize", label_resize, LABEL_RESIZES)
        self.align = align_layer(student_channels, teacher_channels) if align else nn.Identity()
        self.num_classes = num_classes
        self.label_resize = label_resize

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The unweighted loss, a scalar: mean over B, H, W of squared differences of cosines.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: (B, 1, Hi, Wi) integers at image resolution. Positions of no class add 0 and count in the mean.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            aligned = self.align(working_precision(student, self.align))
            small = resize_labels(labels, student, self.label_resize)
            masks = drop_absent(one_hot_masks(small, self.num_classes, aligned.dtype))
            ours = self._cosine_to_own_class(aligned.flatten(2), masks)
            theirs = self._cosine_to_own_class(teacher.detach().to(aligned.dtype).flatten(2), masks)
            return (ours - theirs).square().mean()

    @staticmethod
    def _cosine_to_own_class(features: Tensor, masks: Tensor) -> Tensor:
        return (masks * prototype_cosines(features, masks)[1]).sum(1)
