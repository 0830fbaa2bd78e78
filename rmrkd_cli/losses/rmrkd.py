"""RMRKD: region-aware mutual relational knowledge distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmrkd_cli.losses._align import align_layer
from rmrkd_cli.losses._functional import (
    LABEL_RESIZES,
    check_choice,
    check_pair,
    drop_absent,
    kl_divergence,
    one_hot_masks,
    resize_labels,
    working_precision,
)
from rmrkd_cli.losses._similarity import class_prototypes, cosines, prototype_cosines

SOFTMAX_OVER = ("rows", "positions")


class RMRKDLoss(nn.Module):
    """Cross similarity of class regions between student and teacher.

    For each class, the prototypes (mean features) of student and teacher are compared by cosine with every
    position of both feature maps, once inside the class's region and once outside it. The four similarity
    maps become distributions by a softmax, and the student's follow the teacher's by KL divergence.

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
        ignore_index: Label that belongs to no class. As released, its positions still lie outside every
            region and so take part in the second kind of map.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        tau: float = 0.1,
        label_resize: str = "bilinear",
        softmax_over: str = "rows",
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        check_choice("label_resize", label_resize, LABEL_RESIZES)
        check_choice("softmax_over", softmax_over, SOFTMAX_OVER)
        self.align = align_layer(student_channels, teacher_channels)
        self.num_classes = num_classes
        self.tau = tau
        self.label_resize = label_resize
        self.softmax_over = softmax_over
        self.ignore_index = ignore_index

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The unweighted loss, a scalar: summed over classes and columns, divided by B and by 4.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: (B, 1, Hi, Wi) integers at image resolution.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            aligned = self.align(working_precision(student, self.align))
            return self._loss(aligned, teacher.detach().to(aligned.dtype), labels)

    def _loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        batch, _, height, width = student.shape
        # 255 beyond all classes: blended with a class's label, an ignored -1 would give a class that is not there
        small = resize_labels(labels.masked_fill(labels == self.ignore_index, 255), student, self.label_resize)
        inside = drop_absent(one_hot_masks(small.masked_fill(small == 255, -1), self.num_classes, student.dtype))
        student_map, teacher_map = student.flatten(2), teacher.flatten(2)
        theirs = class_prototypes(teacher_map, inside)
        ours, guess = prototype_cosines(student_map, inside, theirs)
        target = cosines(torch.cat([ours, theirs], dim=1), teacher_map)
        inside = inside.repeat(1, 2, 1)  # student's prototypes, then the teacher's
        total = student.new_zeros(())
        for region in (inside, 1.0 - inside):
            total = total + self._divergence(region * guess, region * target, height, width)
        return total * self.tau**2 / (4 * batch)

    def _divergence(self, student: Tensor, teacher: Tensor, height: int, width: int) -> Tensor:
        if self.softmax_over == "rows":
            shape = (student.shape[0], student.shape[1], height, width)
            student, teacher = student.view(shape), teacher.view(shape)
        return kl_divergence(student, teacher, self.tau, dim=2)
