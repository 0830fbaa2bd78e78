"""IDD: inter-class distance distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import make_align, one_hot_masks, resize_labels
from rmrkd_cli.losses._similarity import class_prototypes
from rmrkd_cli.presets.fields import LabelResize


class IDDLoss(DistillationLoss):
    """Match the Euclidean distances between class prototypes (mean features).

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

    default_stage = 4
    needs_labels = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        label_resize: LabelResize = "bilinear",
        present_only: bool = False,
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(label_resize=label_resize)
        self.align = make_align(student_channels, teacher_channels)
        self.num_classes = num_classes
        self.label_resize = label_resize
        self.present_only = present_only

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return half squared differences of distances, summed over pairs of classes, mean over B."""
        masks = one_hot_masks(resize_labels(labels, student, self.label_resize), self.num_classes, student.dtype)
        student_distances, teacher_distances = (
            self._distances(class_prototypes(maps.flatten(2), masks)) for maps in (self.align(student), teacher)
        )
        squared = 0.5 * (teacher_distances - student_distances).square()
        if self.present_only:
            present = masks.any(2).to(squared.dtype)
            squared = squared * present.unsqueeze(1) * present.unsqueeze(2)
        return squared.triu(1).sum() / student.shape[0]

    @staticmethod
    def _distances(prototypes: Tensor) -> Tensor:
        # 1e-6 on every component is the convention of torch.nn.PairwiseDistance, which the release uses;
        # the matrix-product form of cdist loses too many digits between near prototypes.
        return torch.cdist(prototypes + 1e-6, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
