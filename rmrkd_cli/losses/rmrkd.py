"""RMRKD: region-aware mutual relational knowledge distillation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import (
    drop_absent_classes,
    kl_divergence,
    make_align,
    one_hot_masks,
    resize_labels,
)
from rmrkd_cli.losses._similarity import class_prototypes, cosines, prototype_cosines
from rmrkd_cli.presets.fields import LabelResize, Positive


class RMRKDLoss(DistillationLoss):
    """Match the cross similarity of class regions between student and teacher.

    For each class, the prototypes (mean features) of student and teacher are compared by cosine with every
    position of both feature maps, once inside the class's region and once outside it. The four similarity
    maps become distributions by a softmax, and KL divergence pulls the student's to the teacher's.

    Source: H. Zheng, X. Lin, H. Liang, B. Zhou, Y. Liang, "Region-aware mutual relational knowledge distillation
    for semantic segmentation", Pattern Recognition 161, 111319, 2025; released code Debrove/RMRKD at 1d0ed7a,
    `mmseg/distillation/losses/rmrkd.py`. The defaults give the released numbers, without its loop over classes:
    a region mask is 0 or 1, so cos(v, mask * f) = mask * cos(v, f), and all classes are one matrix product.

    Args:
        student_channels: Channels of the student's map; aligned by a 1x1 convolution when they differ.
        teacher_channels: Channels of the teacher's map.
        num_classes: K.
        tau: Temperature of the softmax.
        label_resize: "bilinear" as released (blends label values at borders), or "nearest".
        softmax_over: "rows" as released (a softmax over the image rows of each column), or "positions"
            (one softmax over the whole map); their values are not comparable.
        ignore_index: Label without a class. As released, its positions still count as outside every region.
    """

    default_stage = 4
    needs_labels = True
    search = {"tau": (0.03, 1.0)}

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        tau: Positive = 0.1,
        label_resize: LabelResize = "bilinear",
        softmax_over: Literal["rows", "positions"] = "rows",
        ignore_index: int = 255,
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(label_resize=label_resize, softmax_over=softmax_over)
        self.align = make_align(student_channels, teacher_channels)
        self.num_classes = num_classes
        self.tau = tau
        self.label_resize = label_resize
        self.softmax_over = softmax_over
        self.ignore_index = ignore_index

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the divergences summed over classes and columns, times tau^2, divided by B and by 4."""
        student = self.align(student)
        batch, _, height, width = student.shape
        # 255 is beyond all classes. An ignored -1, blended with a class's label, would give a class that is not there.
        small = resize_labels(labels.masked_fill(labels == self.ignore_index, 255), student, self.label_resize)
        inside = drop_absent_classes(
            one_hot_masks(small.masked_fill(small == 255, -1), self.num_classes, student.dtype)
        )
        student_map, teacher_map = student.flatten(2), teacher.flatten(2)
        teacher_prototypes = class_prototypes(teacher_map, inside)
        student_prototypes, similarity = prototype_cosines(student_map, inside, teacher_prototypes)
        target = cosines(torch.cat([student_prototypes, teacher_prototypes], dim=1), teacher_map)
        inside = inside.repeat(1, 2, 1)  # for the student's prototypes, then for the teacher's
        total = student.new_zeros(())
        for region in (inside, 1.0 - inside):
            total = total + self._divergence(region * similarity, region * target, height, width)
        return total * self.tau**2 / (4 * batch)

    def _divergence(self, student: Tensor, teacher: Tensor, height: int, width: int) -> Tensor:
        if self.softmax_over == "rows":
            shape = (student.shape[0], student.shape[1], height, width)
            student, teacher = student.view(shape), teacher.view(shape)
        return kl_divergence(student, teacher, self.tau, dim=2)
