"""Predict the label map of one image with a network, whole or by a sliding window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rmrkd_cli.data.image_io import Picture
from rmrkd_cli.data.transforms import EvalViews, View
from rmrkd_cli.evaluation.inference_modes import Window, segment_image
from rmrkd_cli.evaluation.label_png import LabelMap
from rmrkd_cli.networks.adapter import adapter_of

_MAX_LOGITS = 1 << 31  # float32 values


@dataclass(frozen=True)
class Segmenter:
    """A network on its device, with the views it gets of each image, and the window that slides over each."""

    network: nn.Module
    device: torch.device
    views: EvalViews
    window: Window | None = None

    def segment(self, views: list[View]) -> LabelMap:
        """Return the label map (H, W) of an image, at the original size, from its views."""
        labels: LabelMap = segment_image(self.network, views, self.device, self.window).to("cpu", torch.uint8).numpy()
        return labels

    def size_problem(self, image: Picture, views: list[View]) -> str:
        """Return why an image is too large, or an empty string: its logits at full size must fit into memory.

        A window that slides over a single view at full size needs the logits of its own rows only.
        """
        num_classes = adapter_of(self.network).num_classes
        height, width = image.shape[:2]
        in_bands = self.window is not None and len(views) == 1 and views[0][0].shape[2:] == image.shape[:2]
        rows = min(height, 2 * self.window.crop[0]) if in_bands and self.window is not None else height
        if rows * width * num_classes <= _MAX_LOGITS:
            return ""
        fix = "" if in_bands else f"; --mode slide --scale {width}x{height} needs less memory"
        return (
            f"the logits of {width}x{height} pixels would take {4e-9 * height * width * num_classes:.0f} GB; at most "
            f"{_MAX_LOGITS // num_classes} pixels are supported{fix}"
        )
