"""From the views of an image to its classes: mmsegmentation's inference, whole or by a sliding window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rmrkd_cli.data.transforms import View


class Window(NamedTuple):
    """A window that slides over an image: its size and its steps, (height, width) each."""

    crop: tuple[int, int]
    stride: tuple[int, int]


def class_map(network: nn.Module, views: Sequence[View], device: torch.device, window: Window | None = None) -> Tensor:
    """Class indices (H, W) of one image at its own size; see `class_maps`."""
    return class_maps(network, views, device, window)[0]


@torch.inference_mode()
def class_maps(network: nn.Module, views: Sequence[View], device: torch.device, window: Window | None = None) -> Tensor:
    """Class indices (B, H, W) of images of one size, at that size: averaged over their views, as mmsegmentation does.

    One view alone needs no softmax, which leaves the order of the logits as it is.

    Args:
        network: A segmentor on the device, in eval mode; `inference_network` makes a faster one.
        views: Of `EvalViews`: the same view of every image (B, 3, h, w), with mmsegmentation's description of it.
        window: Slides over each view; none: the network sees it whole.

    Returns:
        int64, on the device.
    """
    total: Tensor | None = None
    for images, meta in views:
        scores = _logits(network, images.to(device, non_blocking=True), meta, window)
        if scores.shape[1] == 1:  # a head of one channel, for two classes
            scores = scores.sigmoid()
        elif len(views) > 1:
            scores = scores.softmax(1)
        if meta["flip"]:
            scores = scores.flip(3)
        total = scores if total is None else total.add_(scores)
    assert total is not None
    if total.shape[1] == 1:
        return (total[:, 0] > len(views) * network.decode_head.threshold).long()  # type: ignore[operator, union-attr]
    return total.argmax(1)


def _logits(network: nn.Module, images: Tensor, meta: Mapping[str, Any], window: Window | None) -> Tensor:
    """(B, K, H, W) at the size of the image that the view was made from."""
    logits = slide(network, images, window or Window((images.shape[2], images.shape[3]), (1, 1)))
    size = tuple(meta["ori_shape"][:2])
    if tuple(logits.shape[2:]) == size:
        return logits
    align = bool(network.align_corners)
    return nn.functional.interpolate(logits, size, mode="bilinear", align_corners=align)


def slide(network: nn.Module, images: Tensor, window: Window) -> Tensor:
    """Logits (B, K, H, W), each the mean of all windows over it.

    The last window of a row or column is moved back inside, and a window is no larger than the images, as in
    mmsegmentation's `slide_inference`: its sums are the same, without a map of the whole image for each window.
    """
    height, width = images.shape[2:]
    if height <= window.crop[0] and width <= window.crop[1]:
        logits: Tensor = network.encode_decode(images, None)  # type: ignore[operator]
        return logits
    total: Tensor | None = None
    seen = images.new_zeros(1, 1, height, width)
    for top, bottom in spans(height, window.crop[0], window.stride[0]):
        for left, right in spans(width, window.crop[1], window.stride[1]):
            logits = network.encode_decode(images[:, :, top:bottom, left:right], None)  # type: ignore[operator]
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[:, :, top:bottom, left:right] += logits
            seen[:, :, top:bottom, left:right] += 1
    assert total is not None
    return total.div_(seen)


def spans(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Where windows begin and end along one side."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(number * stride + crop, length) for number in range(count)]
    return [(max(end - crop, 0), end) for end in ends]
