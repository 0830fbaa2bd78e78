"""IDD: inter-class distance distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmrkd_cli.losses._align import align_layer
from rmrkd_cli.losses._functional import (
    LABEL_RESIZES,
    check_choice,
    check_pair,
    one_hot_masks,
    resize_labels,
    working_precision,
)
from rmrkd_cli.losses._similarity import class_prototypes


class IDDLoss(nn.Module):
    """The Euclidean distances between class prototypes follow the teacher's.

    Source: Z. Zhang, C. Zhou, Z. Tu, "Distilling Inter-Class Distance for Semantic Segmentation", IJCAI 2022,
    in the form released with RMRKD (its "euclidean" mode, `rmrkd.py:64-85` at 1d0ed7a). There an absent class has
    the zero vector as its prototype, so a pair of a present and an absent class compares lengths.

    Args:
        student_channels: Channels of the student's map; aligned by a 1x1 convolution when they differ.
        teacher_channels: Channels of the teacher's map.
        num_classes: K.
        label_resize: "bilinear" as released, or "nearest".
        present_only: Count only pairs of classes that both occur in the image; as released: False.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        label_resize: str = "bilinear",
        present_only: bool = False,
    ) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        check_choice("label_resize", label_resize, LABEL_RESIZES)
        self.align = align_layer(student_channels, teacher_channels)
        self.num_classes = num_classes
        self.label_resize = label_resize
        self.present_only = present_only

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The unweighted loss, a scalar: half squared differences summed over pairs, mean over B.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: (B, 1, Hi, Wi) integers at image resolution.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            aligned = self.align(working_precision(student, self.align))
            masks = one_hot_masks(resize_labels(labels, student, self.label_resize), self.num_classes, aligned.dtype)
            ours = self._distances(class_prototypes(aligned.flatten(2), masks))
            target = teacher.detach().to(aligned.dtype).flatten(2)
            theirs = self._distances(class_prototypes(target, masks))
            squared = 0.5 * (theirs - ours).square()
            if self.present_only:
                present = masks.any(2).to(squared.dtype)
                squared = squared * present.unsqueeze(1) * present.unsqueeze(2)
            return squared.triu(1).sum() / student.shape[0]

    @staticmethod
    def _distances(prototypes: Tensor) -> Tensor:
        # 1e-6 on every component is the convention of torch.nn.PairwiseDistance, which the release uses;
        # the matrix-product form of cdist loses too many digits between near prototypes.
        return torch.cdist(prototypes + 1e-6, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
