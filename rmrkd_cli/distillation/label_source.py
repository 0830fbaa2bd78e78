"""Labels of images without label maps: the teacher's prediction, or none, and cross-entropy on the others alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rmrkd_cli.networks.adapter import MapName

_IGNORED = 255


@dataclass(frozen=True)
class LabelSource:
    """Where the labels of the training images come from.

    Attributes:
        files: Some images have label maps.
        teacher: The teacher's prediction is the label map of the others.
        threshold: Its pixels have no label where the largest probability is smaller.
    """

    files: bool = True
    teacher: bool = False
    threshold: float = 0.0

    @property
    def exist(self) -> bool:
        """Whether any image has labels, so that there is a cross-entropy."""
        return self.files or self.teacher


LABELLED = LabelSource()


@torch.no_grad()
def fill_labels(
    labels: Tensor,
    unlabelled: Tensor,
    logits: Tensor,
    *,
    threshold: float = 0.0,
    align_corners: bool = False,
    binary: float | None = None,
) -> Tensor:
    """Return labels in which the last U images have the teacher's prediction, and 255 on padding.

    Args:
        labels: (B, 1, H, W) int64.
        unlabelled: (U, 2) height and width that each of these images covers from the top left.
        logits: (B, K, h, w) of the teacher, resized to the labels.
        threshold: A pixel is 255 where the largest probability is smaller.
        align_corners: How the logits are resized.
        binary: For one channel, the probability above which a pixel has class 1.
    """
    count = len(unlabelled)
    resized = F.interpolate(logits[-count:].float(), labels.shape[2:], mode="bilinear", align_corners=align_corners)
    predicted = resized.argmax(1, keepdim=True) if binary is None else (resized.sigmoid() > binary).long()
    rows, columns = (torch.arange(side, device=labels.device) for side in labels.shape[2:])
    height, width = unlabelled.view(count, 2, 1, 1, 1).unbind(1)
    kept = (rows.view(1, 1, -1, 1) < height) & (columns.view(1, 1, 1, -1) < width)
    if threshold:
        both = resized if binary is None else torch.cat([torch.zeros_like(resized), resized], 1)
        kept &= both.softmax(1).amax(1, keepdim=True) >= threshold
    return torch.cat([labels[:-count], torch.where(kept, predicted, _IGNORED)])


def labelled_losses(
    compute: Callable[[Mapping[MapName, Tensor], Tensor], dict[str, Tensor]],
    maps: Mapping[MapName, Tensor],
    labels: Tensor,
    unlabelled: int,
) -> dict[str, Tensor]:
    """Return cross-entropy on the images that have labels, or 0 with a zero gradient if none has.

    Args:
        compute: From maps and labels to the losses by name; on labels of 255 it gives 0.
        unlabelled: How many images, the last of the batch, have no labels.
    """
    count = len(labels) - unlabelled
    if not unlabelled or not count:
        return compute(maps, labels)
    return compute({name: values[:count] for name, values in maps.items()}, labels[:count])
