"""CIRKD: cross-image relational distillation, its part with a memory of pixels and regions."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses._functional import check_choice, check_pair, divergence, resize_labels, working_precision
from rmrkd_cli.losses._memory_bank import MemoryBank
from rmrkd_cli.losses._relations import Compared, blocks, rows_of, through_lengths, unit_rows, with_gradient

ENQUEUE = ("class", "released")


class CIRKDMemoryLoss(nn.Module):
    """Each position's cosines with remembered pixels and regions of all classes, a distribution each, as the teacher's.

    A projector brings the student to the teacher's space, where the memory is. In training each forward pass first
    remembers the teacher's features: of every image and class the unit vector of their mean, and of some pixels. The
    memory starts random, so the first steps distil against noise, and a pixel can meet itself. In evaluation mode
    nothing is remembered.

    Source: C. Yang, H. Zhou, Z. An, X. Jiang, Y. Xu, Q. Zhang, "Cross-Image Relational Knowledge Distillation for
    Semantic Segmentation", CVPR 2022, arXiv 2204.06986; CIRKD `cirkd_memory.py` at dab64db. The memory is the same in
    all processes. Which pixels and slots are drawn depends on the number of the pass, and on nothing else.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map and of the memory.
        num_classes: K.
        tau: Temperature of the cosines.
        pixel_queue: Pixels that are remembered of a class; 20000 x 19 classes x 256 channels take 371 MiB, and as much
            in every checkpoint.
        region_queue: Regions that are remembered of a class.
        pixels_pushed: Pixels at most that an image adds to a class.
        pixel_samples: Remembered pixels a pass meets, floor(this / K) + 1 of each class, in the same slots.
        region_samples: The same of regions.
        pixel_weight: Factor of the loss against pixels.
        region_weight: Factor of the loss against regions.
        enqueue: "class" remembers random pixels of the class. "released" repeats a mistake of the release: the drawn
            numbers, from 0 to the class's count of pixels, are taken as positions in the image, so that a class
            remembers whatever is at its top.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        tau: float = 0.1,
        pixel_queue: int = 20_000,
        region_queue: int = 2_000,
        pixels_pushed: int = 16,
        pixel_samples: int = 4_096,
        region_samples: int = 1_024,
        pixel_weight: float = 1.0,
        region_weight: float = 1.0,
        enqueue: str = "class",
    ) -> None:
        super().__init__()
        self.channels = (student_channels, teacher_channels)
        check_choice("enqueue", enqueue, ENQUEUE)
        if pixels_pushed > pixel_queue:
            raise RmrkdError(
                f"pixels_pushed must be at most pixel_queue, got {pixels_pushed} and {pixel_queue}",
                "a larger pixel_queue, or a smaller pixels_pushed",
            )
        self.num_classes = num_classes
        self.tau = tau
        self.factors = (pixel_weight, region_weight)
        self.projector = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            _batch_norm(teacher_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        self.bank = MemoryBank(
            num_classes, teacher_channels, sizes=(pixel_queue, region_queue), pushed=pixels_pushed,
            samples=(pixel_samples // num_classes + 1, region_samples // num_classes + 1),
            released=enqueue == "released",
        )  # fmt: skip

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The unweighted loss, a scalar: mean over positions with a class of the two divergences, with their factors.

        Args:
            student: (B, Cs, H, W) features.
            teacher: (B, Ct, H, W) features; receives no gradient.
            labels: (B, 1, Hi, Wi) integers at image resolution; resized by nearest. Positions of no class are neither
                compared nor remembered.
        """
        check_pair(student, teacher, "features", self.channels)
        with torch.autocast(student.device.type, enabled=False):
            classes = resize_labels(labels, student, "nearest").flatten(1)
            ours = rows_of(self.projector(working_precision(student, self.projector)))
            theirs = unit_rows(rows_of(teacher.detach().to(ours.dtype)))[0]
            if self.training:
                self.bank.push(theirs, classes)
            held = ((classes >= 0) & (classes < self.num_classes)).flatten().nonzero().squeeze(1)
            return with_gradient(partial(self._compare, held), ours.flatten(0, 1), theirs.flatten(0, 1))

    def _compare(self, held: Tensor, student: Tensor, teacher: Tensor, wanted: bool) -> Compared:
        """Of positions (B * P, C), the teacher's of length 1: the loss, and its gradient where it is wanted.

        Args:
            held: (n,) those that have a class.
        """
        kinds = list(zip(self.bank.sample(), self.factors, strict=True))
        gradient = torch.zeros_like(student) if wanted else None
        total = student.new_zeros(())
        scale = 1 / max(1, len(held))
        for start, stop in blocks(len(held), sum(len(vectors) for vectors, _ in kinds), student.device):
            anchors = held[start:stop]
            (ours, lengths), theirs = unit_rows(student[anchors]), teacher[anchors]
            slopes = torch.zeros_like(ours)
            for vectors, factor in kinds:
                logits, targets = (units @ vectors.T / self.tau for units in (ours, theirs))
                part, slope = divergence(logits, targets, dim=1)
                total += factor * scale * part
                if wanted:
                    slopes.addmm_(slope, vectors, alpha=factor * scale / self.tau)
            if gradient is not None:
                gradient[anchors] = through_lengths(slopes, ours, lengths)
        return total, gradient


def _batch_norm(channels: int) -> nn.Module:
    """Over all GPUs where several work together."""
    if dist.is_available() and dist.is_initialized() and "nccl" in dist.get_backend():
        return nn.SyncBatchNorm(channels)
    return nn.BatchNorm2d(channels)
