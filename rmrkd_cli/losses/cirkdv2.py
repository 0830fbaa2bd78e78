"""CIRKDv2: cross-image relations between pixels and between channels, of features with context."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._projector import ContextBlock
from rmrkd_cli.losses.cirkd import CIRKDLoss
from rmrkd_cli.losses.cirkd_channel import CIRKDChannelLoss
from rmrkd_cli.losses.cirkd_memory import CIRKDMemoryLoss
from rmrkd_cli.losses.fitnet import FitNetLoss
from rmrkd_cli.presets.fields import NonNegative, Positive, PositiveCount

_LARGE, _POOL = 256, 4  # maps of this height and width are averaged 4x4 before pixels of the batch are compared
_PIXELS_PUSHED, _CHANNELS_PUSHED = 16, 256  # what the parts store at most, unless a queue is smaller


class CIRKDv2Loss(DistillationLoss):
    """Give the student's features context by one attention block, and pass them to four losses.

    These are FitNet, CIRKD's relations in the mini-batch (`cirkd`) and with a memory of pixels and regions
    (`cirkd_memory`), and the relations between channels (`cirkd_channel`). The block is in no exported student.

    Source: C. Yang et al., CIRKDv2, as released: winycg/CIRKD `train_cirkdv2.py`, `losses/gcn.py` and
    `losses/cirkd_channel.py` at dab64db, factors of `scripts/train_cirkdv2/cityscapes`. Relations in the mini-batch are
    those of one process. KD of the logits is not part of this class.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        num_classes: K.
        map_size: Height and width of the maps.
        tau: Temperature of all cosines.
        fitnet_weight: Factor of FitNet; the scripts for VOC, and some others, have 10. With 0 the release has no
            attention block; here it stays.
        batch_pixel_weight: Factor of the relations between the pixels of the batch.
        memory_pixel_weight: Factor of the relations to stored pixels.
        memory_region_weight: Factor of the relations to stored regions.
        batch_channel_weight: Factor of the relations between the channels of the batch.
        memory_channel_weight: Factor of the relations to stored channels.
        channel_mse_weight: Factor of the squared differences of channels.
        pixel_queue: Pixels stored a class; the script of SegFormer has 2000.
        region_queue: Regions stored a class.
        channel_queue: Channels stored.
        enqueue: Which pixels are stored, as in `CIRKDMemoryLoss`.
    """

    needs_labels = True
    search = {"tau": (0.03, 1.0)}

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int,
        map_size: tuple[int, int],
        tau: Positive = 0.1,
        fitnet_weight: NonNegative = 1.0,
        batch_pixel_weight: NonNegative = 1.0,
        memory_pixel_weight: NonNegative = 0.1,
        memory_region_weight: NonNegative = 0.1,
        batch_channel_weight: NonNegative = 1.0,
        memory_channel_weight: NonNegative = 0.1,
        channel_mse_weight: NonNegative = 100.0,
        pixel_queue: PositiveCount = 20_000,
        region_queue: PositiveCount = 2_000,
        channel_queue: PositiveCount = 10_000,
        enqueue: Literal["class", "released"] = "class",
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        self.check_choices(enqueue=enqueue)
        widths = student_channels, teacher_channels
        self.context = ContextBlock(student_channels)
        self.fitnet = FitNetLoss(*widths)
        self.batch_pixels = CIRKDLoss(*widths, tau)
        self.memory = CIRKDMemoryLoss(
            *widths, num_classes, tau, pixel_queue, region_queue, min(_PIXELS_PUSHED, pixel_queue), enqueue=enqueue,
            pixel_weight=memory_pixel_weight, region_weight=memory_region_weight,
        )  # fmt: skip
        self.channel_relations = CIRKDChannelLoss(
            *widths, map_size, tau, batch_channel_weight, memory_channel_weight, channel_mse_weight, channel_queue,
            channels_pushed=min(_CHANNELS_PUSHED, channel_queue),
        )  # fmt: skip
        self.fitnet_weight, self.batch_pixel_weight = fitnet_weight, batch_pixel_weight

    def compute(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of all parts, with their factors."""
        student = self.context(student)
        total: Tensor = (
            self.fitnet_weight * self.fitnet(student, teacher)
            + self.batch_pixel_weight * self.batch_pixels(_pool_large(student), _pool_large(teacher))
            + self.memory(student, teacher, labels)
            + self.channel_relations(student, teacher)
        )
        return total


def _pool_large(maps: Tensor) -> Tensor:
    """Return large maps at a quarter of their height and width, others as they are."""
    return F.avg_pool2d(maps, _POOL, ceil_mode=True) if min(maps.shape[2:]) >= _LARGE else maps
