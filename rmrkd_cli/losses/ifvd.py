"""IFVD: intra-class feature variation distillation."""

from __future__ import annotations

from torch import Tensor, nn

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import drop_absent_classes, make_align, one_hot_masks, resize_labels
from rmrkd_cli.losses._similarity import prototype_cosines
from rmrkd_cli.presets.fields import LabelResize


class IFVDLoss(DistillationLoss):
    """Match the cosine between each position and the prototype (mean feature) of its class.

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

    needs_labels = True

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        label_resize: LabelResize = "nearest",
        align: bool = False,
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(label_resize=label_resize)
        self.align = make_align(student_channels, teacher_channels) if align else nn.Identity()
        self.num_classes = num_classes
        self.label_resize = label_resize

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over B, H, W of squared differences of cosines.

        A position without a class adds 0 and counts in the mean.
        """
        small = resize_labels(labels, student, self.label_resize)
        masks = drop_absent_classes(one_hot_masks(small, self.num_classes, student.dtype))
        student_cosines = self._cosine_to_own_class(self.align(student).flatten(2), masks)
        teacher_cosines = self._cosine_to_own_class(teacher.flatten(2), masks)
        return (student_cosines - teacher_cosines).square().mean()

    @staticmethod
    def _cosine_to_own_class(features: Tensor, masks: Tensor) -> Tensor:
        return (masks * prototype_cosines(features, masks)[1]).sum(1)
