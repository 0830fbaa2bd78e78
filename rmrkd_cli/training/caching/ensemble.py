"""Run one teacher or several over whole images, at several scales and mirrored, and average what they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rmrkd_cli.data.map_geometry import Axis, Coordinates, resized, sample
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import Adapter, adapter_of

Size = tuple[int, int]
PAD = 32  # images are mirrored at the right and bottom to a multiple of it, the largest stride of usual backbones
_PROBE = 256  # pixels of the sides of the image that measures the stride
_LARGEST = float(torch.finfo(torch.float16).max)
_SMALLEST = 1e-7  # probability that is distinguished from 0


class Outputs(NamedTuple):
    """What teachers give for B images of equal size.

    Attributes:
        values: (B, K, h, w) float32: logits, or log-probabilities where several were averaged.
        fitted: (height, width) of the images that the map belongs to.
        covered: (height, width) in pixels that the map covers: `fitted`, with padding.
    """

    values: Tensor
    fitted: Size
    covered: Size


class TeacherEnsemble:
    """Teachers whose probabilities are averaged.

    A single teacher at a single scale gives its logits. The map has the resolution of the first teacher at the scale
    that is nearest to 1.

    Args:
        networks: On `device`, in eval mode.
        scales: Factors of the views that `__call__` gets, in this order.
        flip: Average with the mirrored images.
        probabilities: Give log-probabilities for a single view too.
        names: Of the networks, for messages.

    Attributes:
        reference: Number of the view whose resolution the map has.
        stride: Pixels between two positions of the map.
        align_corners: How the first teacher's logits are resized.

    Raises:
        RmrkdError: A teacher gives another number of classes.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        num_classes: int,
        device: torch.device,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        probabilities: bool = False,
        names: Sequence[str] = (),
    ) -> None:
        self.networks, self.device, self.flip = list(networks), device, flip
        self.num_classes = num_classes
        self.adapters = [adapter_of(network) for network in networks]
        self.probabilities = probabilities or flip or len(scales) * len(self.networks) > 1
        order = range(len(scales))
        self.reference = min(order, key=lambda number: (abs(scales[number] - 1), -scales[number]))
        self.align_corners = self.adapters[0].align_corners
        grids = [self._probe(number, num_classes, names) for number in range(len(self.networks))]
        self._fixed = grids[0] if self.adapters[0].input_size is not None else None
        self.stride = max(1, round(_PROBE / grids[0][0]))
        self._enlarged = max(1.0, grids[0][0] / _PROBE)  # a file may run images larger than they are

    def map_size(self, fitted: Size) -> Size:
        """Return the size of the map for images of a size."""
        if self._fixed is not None:
            return self._fixed
        height, width = (round(side * self._enlarged) for side in input_size(self.adapters[0], fitted))
        return -(-height // self.stride), -(-width // self.stride)

    @torch.inference_mode()
    def __call__(self, views: Sequence[Tensor]) -> Outputs:
        """Return the outputs for images that were resized by the scales: (B, 3, H, W) each, on the device."""
        first = views[self.reference]
        fitted = (first.shape[2], first.shape[3])
        whole, covered = self._run(0, first)
        if not self.probabilities:
            return Outputs(whole.float(), fitted, covered)
        axes = [Axis(count, pixels, self.align_corners) for count, pixels in zip(whole.shape[2:], covered, strict=True)]
        places = [axis.to_pixels(np.arange(axis.positions, dtype=np.float64)) for axis in axes]
        total = torch.zeros_like(whole, dtype=torch.float32)
        count = 0
        for number in range(len(self.networks)):
            for which, view in enumerate(views):
                for mirrored in (False, True) if self.flip else (False,):
                    own = (number, which, mirrored) == (0, self.reference, False)
                    total += whole.float().softmax(1) if own else self._probabilities(
                        number, view, fitted, places, mirrored
                    )  # fmt: skip
                    count += 1
        return Outputs((total / count).clamp(min=_SMALLEST).log(), fitted, covered)

    def _probabilities(
        self, number: int, images: Tensor, fitted: Size, places: Sequence[Coordinates], mirrored: bool
    ) -> Tensor:
        """Return the probabilities of one view at places in the images of size `fitted`."""
        logits, covered = self._run(number, images.flip(3) if mirrored else images)
        align, positions = self.adapters[number].align_corners, []
        for axis, pixels in enumerate(places):
            size = images.shape[2 + axis]
            inside = resized(pixels, fitted[axis], size)
            if mirrored and axis == 1:
                inside = size - 1 - inside
            positions.append(Axis(logits.shape[2 + axis], covered[axis], align).to_positions(inside))
        return sample(logits.float().softmax(1), *positions)

    def _run(self, number: int, images: Tensor) -> tuple[Tensor, Size]:
        """Return a network's logits of images, padded where this helps, and what they cover."""
        adapter = self.adapters[number]
        covered = input_size(adapter, (images.shape[2], images.shape[3]))
        logits = adapter.logits(self.networks[number], pad_mirrored(images, covered))
        return logits.clamp(-_LARGEST, _LARGEST), covered

    @torch.inference_mode()
    def _probe(self, number: int, num_classes: int, names: Sequence[str]) -> Size:
        """Return the size of a network's logits for a square image of `_PROBE` pixels."""
        logits, _ = self._run(number, torch.zeros(1, 3, _PROBE, _PROBE, device=self.device))
        if logits.shape[1] != num_classes:
            name = f" of `{names[number]}`" if names else ""
            raise RmrkdError(
                f"the teacher{name} gives logits of {logits.shape[1]} classes, the data set has {num_classes}",
                "give a teacher with these classes, or map its classes with `teacher.classes`",
            )
        return logits.shape[2], logits.shape[3]


def input_size(adapter: Adapter, fitted: Size) -> Size:
    """Return the size to which images are padded for a network: a multiple of `PAD` pixels.

    Then a position of the logits lies at the same pixel as in a crop that begins at a multiple of the stride. Networks
    whose logits are resized with `align_corners` get one pixel more. Networks that resize their images get no padding:
    they run at another size than the padded one, and padding lowers their mIoU.
    """
    if adapter.resizes:
        return fitted
    corners = adapter.align_corners
    height, width = (-(-(side - corners) // PAD) * PAD + corners for side in fitted)
    return height, width


def pad_mirrored(images: Tensor, wanted_size: Size) -> Tensor:
    """Return images (B, C, H, W) continued at the right and bottom by their mirror image to a size."""
    for axis, wanted in zip((2, 3), wanted_size, strict=True):
        size = images.shape[axis]
        if wanted > size:
            place = torch.arange(wanted, device=images.device) % (2 * size)
            images = images.index_select(axis, torch.minimum(place, 2 * size - 1 - place))
    return images


def upsample(outputs: Outputs, size: Size, align_corners: bool) -> Tensor:
    """Return the values (B, K, H, W) at every pixel of the image files, which have the size (H, W)."""
    places = []
    for axis in (0, 1):
        pixels = resized(np.arange(size[axis], dtype=np.float64), size[axis], outputs.fitted[axis])
        along = Axis(outputs.values.shape[2 + axis], outputs.covered[axis], align_corners)
        places.append(along.to_positions(pixels))
    return sample(outputs.values, *places)
