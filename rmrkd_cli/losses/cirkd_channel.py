"""CIRKDv2: its relations between channels, of the mini-batch and of a memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.losses._base import DistillationLoss
from rmrkd_cli.losses._memory_bank import ChannelBank
from rmrkd_cli.losses._projector import make_projector
from rmrkd_cli.losses._relations import (
    ValueAndGradient,
    image_relations,
    memory_relations,
    normalize_rows,
    normalize_rows_backward,
    with_gradient,
)
from rmrkd_cli.presets.fields import NonNegative, Positive, PositiveCount

_POOL = 4  # positions a side that are averaged into one


class CIRKDChannelLoss(DistillationLoss):
    """Match each channel, and its cosines with the channels of the batch and with stored ones, as distributions.

    A channel is the vector of its values at all positions of a map, after averaging four by four of them. A projector
    brings the student's averaged map to the teacher's channels. In training each forward pass first stores some of the
    teacher's channels. The memory starts random, so the first steps distil against noise, and a channel can be compared
    with itself. In evaluation mode nothing is stored.

    Source: C. Yang et al., CIRKDv2, as released: winycg/CIRKD `losses/cirkd_channel.py` at dab64db. The weights are
    those of its scripts. Maps whose sides are no multiple of 4 fail there; here the last windows are smaller. The
    memory is the same in all processes, whose batches have one size; the release draws other slots in each. What is
    drawn depends only on the number of the forward pass.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        map_size: Height and width of the maps, which fix the length of stored vectors.
        tau: Temperature of the cosines.
        batch_channel_weight: Factor of the relations in the batch: for every ordered pair of images, an image with
            itself too, the mean over channels of the divergence.
        memory_channel_weight: Factor of the relations to the memory, a mean over channels and images.
        channel_mse_weight: Factor of the mean squared difference of channels of length 1.
        channel_queue: Stored channels; 10000 of 64x128 maps take 20 MiB.
        channel_samples: Stored channels a pass compares with.
        channels_pushed: Most channels that a pass stores, of all processes together.
    """

    search = {"tau": (0.03, 1.0)}

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        map_size: tuple[int, int],
        tau: Positive = 0.1,
        batch_channel_weight: NonNegative = 1.0,
        memory_channel_weight: NonNegative = 0.1,
        channel_mse_weight: NonNegative = 100.0,
        channel_queue: PositiveCount = 10_000,
        channel_samples: PositiveCount = 2_048,
        channels_pushed: PositiveCount = 256,
    ) -> None:
        super().__init__(student_channels, teacher_channels)
        if channels_pushed > channel_queue:
            raise RmrkdError(
                f"channels_pushed must be at most channel_queue, got {channels_pushed} and {channel_queue}",
                "a larger channel_queue, or a smaller channels_pushed",
            )
        self.map_size, self.tau = tuple(map_size), tau
        self.factors = (batch_channel_weight, memory_channel_weight, channel_mse_weight)
        self.projector = make_projector(student_channels, teacher_channels)
        rows, columns = (-(-side // _POOL) for side in map_size)
        self.bank = ChannelBank(rows * columns, size=channel_queue, samples=channel_samples, pushed=channels_pushed)

    def compute(self, student: Tensor, teacher: Tensor, labels: Any) -> Tensor:
        """Return the sum of the three parts, with their factors.

        Raises:
            RmrkdError: When the maps have another height or width than `map_size`.
        """
        self._check_size(student)
        student, teacher = (F.avg_pool2d(maps, _POOL, ceil_mode=True) for maps in (student, teacher))
        projected = self.projector(student).flatten(2)
        targets = normalize_rows(teacher.flatten(2))[0]
        if self.training:
            self.bank.push(targets)
        return with_gradient(partial(self._compare, len(student)), projected.flatten(0, 1), targets.flatten(0, 1))

    def _check_size(self, maps: Tensor) -> None:
        if tuple(maps.shape[2:]) != self.map_size:
            (height, width), (rows, columns) = maps.shape[2:], self.map_size
            raise RmrkdError(
                f"{type(self).__name__} stores channels of maps of {rows}x{columns} positions, got {height}x{width}",
                "`map_size` must be height and width of the student's map; rmrkd train measures them on a crop of "
                "`schedule.crop`, and a run with another crop starts over with --fresh",
            )

    def _compare(self, images: int, student: Tensor, teacher: Tensor, needs_gradient: bool) -> ValueAndGradient:
        """Return the loss of channels (B * C, P), and its gradient for the student's where it is needed.

        Args:
            images: B.
            teacher: Rows of length 1.
        """
        (units, norms), (batch, memory, mse) = normalize_rows(student), self.factors
        gradient = torch.zeros_like(units) if needs_gradient else None
        difference = units - teacher
        value = (
            image_relations(units, teacher, images, self.tau, gradient, batch)
            + memory_relations(units, teacher, self.bank.sample(), self.tau, gradient, memory)
            + mse * difference.square().mean()
        )
        if gradient is None:
            return value, None
        gradient.add_(difference, alpha=2 * mse / units.numel())
        return value, normalize_rows_backward(gradient, units, norms)
