"""Inference on whole images and by a sliding window, as mmsegmentation does both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rmrkd_cli.data.transforms import View
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import segment


class Window(NamedTuple):
    """A window that slides over an image: its size and its stride, both (height, width)."""

    crop: tuple[int, int]
    stride: tuple[int, int]


def segment_image(
    network: nn.Module, views: Sequence[View], device: torch.device, window: Window | None = None
) -> Tensor:
    """Return the class indices (H, W) of one image at its original size; see `segment_images`."""
    return segment_images(network, views, device, window)[0]


@torch.inference_mode()
def segment_images(
    network: nn.Module, views: Sequence[View], device: torch.device, window: Window | None = None
) -> Tensor:
    """Return the class indices (B, H, W) of B images of equal size, averaged over their views.

    Softmax is left out for a single view: it does not change the largest class. A single view at the size of the image
    is slid over in bands, so that the logits of a large image need not fit into memory.

    Args:
        network: A segmentor on `device`, in eval mode; `inference_network` makes a faster one.
        views: From `EvalViews`: each view is a batch (B, 3, h, w) with the metadata of mmsegmentation.
        window: Slides over each view; None: the network gets the whole view.

    Returns:
        int64 on `device`, at the original size of the images.
    """
    if window is not None and len(views) == 1 and _keeps_size(*views[0]):
        images = views[0][0].to(device, non_blocking=True)
        return torch.cat([_classes(network, band, 1) for band in slide_bands(network, images, window)], dim=1)
    total: Tensor | None = None
    for images, meta in views:
        scores = _logits(network, images.to(device, non_blocking=True), meta, window)
        if len(views) > 1:
            scores = scores.sigmoid() if scores.shape[1] == 1 else scores.softmax(1)
        if meta["flip"]:
            scores = scores.flip(3)
        total = scores if total is None else total.add_(scores)
    assert total is not None
    return _classes(network, total, len(views))


def _keeps_size(images: Tensor, meta: Mapping[str, Any]) -> bool:
    return tuple(images.shape[2:]) == tuple(meta["ori_shape"][:2]) and not meta["flip"]


def _classes(network: nn.Module, scores: Tensor, views: int) -> Tensor:
    """Return the class indices of logits of one view, or of summed probabilities of several."""
    if scores.shape[1] > 1:
        return scores.argmax(1)
    # a binary head with a single channel
    probability = scores[:, 0].sigmoid() if views == 1 else scores[:, 0]
    return (probability > views * (adapter_of(network).threshold or 0.0)).long()


def _logits(network: nn.Module, images: Tensor, meta: Mapping[str, Any], window: Window | None) -> Tensor:
    """Return the logits (B, K, H, W) at the original size of the images."""
    logits = slide_inference(network, images, window or Window((images.shape[2], images.shape[3]), (1, 1)))
    size = tuple(meta["ori_shape"][:2])
    if tuple(logits.shape[2:]) == size:
        return logits
    align = adapter_of(network).align_corners
    return nn.functional.interpolate(logits, size, mode="bilinear", align_corners=align)


def slide_inference(network: nn.Module, images: Tensor, window: Window) -> Tensor:
    """Return the logits (B, K, H, W): each is the mean over all windows that cover the pixel; see `slide_bands`.

    The sums equal those of mmsegmentation's `slide_inference`: the last window of a row or column moves back inside
    the image, and a window is never larger than the image. Unlike there, a window does not allocate a map of the
    whole image.
    """
    height, width = images.shape[2:]
    if height <= window.crop[0] and width <= window.crop[1]:
        logits: Tensor = segment(network, images)
        return logits
    total: Tensor | None = None
    top = 0
    for band in slide_bands(network, images, window):
        if total is None:
            total = band.new_empty(*band.shape[:2], height, width)
        total[:, :, top : top + band.shape[2]] = band
        top += band.shape[2]
    assert total is not None
    return total


def slide_bands(network: nn.Module, images: Tensor, window: Window) -> Iterator[Tensor]:
    """Yield the logits of `slide_inference` in bands (B, K, rows, W), from top to bottom.

    A band is complete when no later window covers it, so memory does not grow with the height of the image.
    """
    height, width = images.shape[2:]
    if height <= window.crop[0] and width <= window.crop[1]:
        yield segment(network, images)
        return
    rows = window_spans(height, window.crop[0], window.stride[0])
    total: Tensor | None = None  # of the rows from `top` on that are not complete
    counts = images.new_zeros(1, 1, 0, width)
    for (top, bottom), (next_top, _) in itertools.pairwise([*rows, (height, height)]):
        for left, right in window_spans(width, window.crop[1], window.stride[1]):
            logits = segment(network, images[:, :, top:bottom, left:right])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], 0, width)
            if total.shape[2] < bottom - top:
                missing = (0, 0, 0, bottom - top - total.shape[2])
                total, counts = nn.functional.pad(total, missing), nn.functional.pad(counts, missing)
            total[:, :, :, left:right] += logits
            counts[:, :, :, left:right] += 1
        assert total is not None
        done = next_top - top
        yield total[:, :, :done] / counts[:, :, :done]
        total, counts = total[:, :, done:].clone(), counts[:, :, done:].clone()


def window_spans(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Return (start, end) of each window along one side of the image."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(number * stride + crop, length) for number in range(count)]
    return [(max(end - crop, 0), end) for end in ends]
