"""CIRKD: cross-image relational distillation, its part with a memory of pixels and regions."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._functional import kl_with_gradient, resize_labels
from rmrkd_cli.losses._memory_bank import MemoryBank
from rmrkd_cli.losses._projector import make_projector
from rmrkd_cli.losses._relations import (
    ValueAndGradient,
    normalize_rows,
    normalize_rows_backward,
    row_blocks,
    to_rows,
    with_gradient,
)
from rmrkd_cli.presets.fields import NonNegative, Positive, PositiveCount

_HOST = "cpu"  # the device whose numbers can be read without waiting


class CIRKDMemoryLoss(DistillationLoss):
    """Match each position's cosines with stored pixels and regions of all classes, as distributions.

    A projector brings the student to the teacher's space, where the memory is. In training each forward pass first
    stores teacher features: of every image and class the unit vector of their mean, and of some pixels. The memory
    starts random, so the first steps distil against noise, and a pixel can be compared with itself. In evaluation mode
    nothing is stored.

    Source: C. Yang, H. Zhou, Z. An, X. Jiang, Y. Xu, Q. Zhang, "Cross-Image Relational Knowledge Distillation for
    Semantic Segmentation", CVPR 2022, arXiv 2204.06986; CIRKD `cirkd_memory.py` at dab64db. The memory is the same in
    all processes, whose batches have one size. The drawn pixels and slots depend only on the number of the forward
    pass.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map and of the memory.
        num_classes: K.
        tau: Temperature of the cosines.
        pixel_queue: Pixels stored a class; 20000 x 19 classes x 256 channels take 371 MiB, and as much in every
            checkpoint.
        region_queue: Regions stored a class.
        pixels_pushed: Most pixels that an image adds to a class.
        pixel_samples: Stored pixels a pass compares with: floor(this / K) + 1 of each class, in the same slots.
        region_samples: The same for regions.
        pixel_weight: Factor of the loss against pixels.
        region_weight: Factor of the loss against regions.
        enqueue: "class" stores random pixels of the class. "released" repeats an error of the release: it takes drawn
            numbers from 0 to the class's count of pixels as positions in the image, so that a class stores whatever is
            at the top of the image.
    """

    needs_labels = True
    search = {"tau": (0.03, 1.0)}

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        tau: Positive = 0.1,
        pixel_queue: PositiveCount = 20_000,
        region_queue: PositiveCount = 2_000,
        pixels_pushed: PositiveCount = 16,
        pixel_samples: PositiveCount = 4_096,
        region_samples: PositiveCount = 1_024,
        pixel_weight: NonNegative = 1.0,
        region_weight: NonNegative = 1.0,
        enqueue: Literal["class", "released"] = "class",
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(enqueue=enqueue)
        if pixels_pushed > pixel_queue:
            raise RmrkdError(
                f"pixels_pushed must be at most pixel_queue, got {pixels_pushed} and {pixel_queue}",
                "a larger pixel_queue, or a smaller pixels_pushed",
            )
        self.num_classes = num_classes
        self.tau = tau
        self.factors = (pixel_weight, region_weight)
        self.projector = make_projector(student_channels, teacher_channels)
        self.bank = MemoryBank(
            num_classes, teacher_channels, sizes=(pixel_queue, region_queue), pushed=pixels_pushed,
            samples=(pixel_samples // num_classes + 1, region_samples // num_classes + 1),
            released=enqueue == "released",
        )  # fmt: skip

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over positions with a class of the two divergences, with their factors.

        Labels are resized by nearest. Positions without a class are neither compared nor stored.
        """
        classes = resize_labels(labels, student, "nearest").flatten(1)
        projected = to_rows(self.projector(student))
        targets = normalize_rows(to_rows(teacher))[0]
        if self.training:
            self.bank.push(targets, classes)
        labelled = ((classes >= 0) & (classes < self.num_classes)).flatten()
        return with_gradient(partial(self._compare, labelled), projected.flatten(0, 1), targets.flatten(0, 1))

    def _compare(self, labelled: Tensor, student: Tensor, teacher: Tensor, needs_gradient: bool) -> ValueAndGradient:
        """Return the loss of positions (B * P, C), and its gradient for the student's where it is needed.

        On a CPU only labelled positions are compared. On a GPU their number would have to be read, so all are; a
        position without a class is compared with itself, which adds 0 to value and gradient.

        Args:
            labelled: (B * P,) whether a position has a class.
            teacher: Rows of length 1.
        """
        memories = list(zip(self.bank.sample(), self.factors, strict=True))
        gradient = torch.zeros_like(student) if needs_gradient else None
        total = student.new_zeros(())
        on_cpu = student.device.type == _HOST
        compared = labelled.nonzero().squeeze(1) if on_cpu else torch.arange(len(labelled), device=student.device)
        scale = 1 / max(1, len(compared)) if on_cpu else 1.0
        for start, stop in row_blocks(len(compared), sum(len(vectors) for vectors, _ in memories), student.device):
            anchors = compared[start:stop]
            (units, norms), targets = normalize_rows(student[anchors]), teacher[anchors]
            units = units if on_cpu else torch.where(labelled[anchors].unsqueeze(1), units, targets)
            slopes = torch.zeros_like(units)
            for vectors, factor in memories:
                logits, target_logits = (rows @ vectors.T / self.tau for rows in (units, targets))
                divergence, slope = kl_with_gradient(logits, target_logits, dim=1)
                total += factor * scale * divergence
                if needs_gradient:
                    slopes.addmm_(slope, vectors, alpha=factor * scale / self.tau)
            if gradient is not None:
                gradient[anchors] = normalize_rows_backward(slopes, units, norms)
        if not on_cpu:
            count = labelled.sum().clamp_min(1)
            return total / count, None if gradient is None else gradient.div_(count)
        return total, gradient
