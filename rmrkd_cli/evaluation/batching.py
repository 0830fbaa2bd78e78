"""Batches of images of equal size, so that evaluation never pads an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rmrkd_cli.data.transforms import EvalItem, View

_MAX_WAITING_BATCHES = 4
_MAX_IMAGES, _MAX_PIXELS = 4, 1 << 21  # of a default batch on a GPU


class SizeBatcher:
    """Group images into batches of equal size.

    The batches depend only on the order and the sizes of the images. Each image is in one batch.

    Args:
        batch_size: Images per batch.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._waiting: dict[tuple[torch.Size, ...], list[EvalItem]] = {}  # ordered by the first image of each size

    def add(self, item: EvalItem | None, *, last: bool) -> list[list[EvalItem]]:
        """Add an image and return the batches that are ready.

        A batch is ready when it is full. If too many images wait, the oldest batch is ready as well.

        Args:
            item: The next image; None if there is none.
            last: No image follows, so all waiting batches are ready.
        """
        ready = []
        if item is not None:
            key = (torch.Size(item.views[0][1]["ori_shape"]), *(view.shape for view, _ in item.views))
            self._waiting.setdefault(key, []).append(item)
            if len(self._waiting[key]) == self.batch_size:
                ready.append(self._waiting.pop(key))
            elif sum(map(len, self._waiting.values())) == _MAX_WAITING_BATCHES * self.batch_size:
                ready.append(self._waiting.pop(next(iter(self._waiting))))
        if last:
            ready += self._waiting.values()
            self._waiting = {}
        return ready


def stack_views(items: Sequence[EvalItem], device: torch.device | None = None) -> list[View]:
    """Return the views (B, 3, h, w) of B images of equal size, on a device; None: where they are.

    They are stacked on the device, because a stack of pinned images is not pinned, and its copy would wait.
    """
    if len(items) == 1:
        return items[0].views
    views = zip(*(item.views for item in items), strict=True)
    return [(torch.cat([image.to(device, non_blocking=True) for image, _ in same]), same[0][1]) for same in views]


def default_batch_size(device_type: str, size: tuple[int, int], scales: Sequence[float] = (1.0,)) -> int:
    """Return the fastest batch size for images fitted into (width, height).

    On a CPU it is 1: a larger batch takes more memory, and saves nothing at 480x360 and 2 ms per image at 128x128.
    On a GPU it is at most 4, and a batch has no more pixels than one image of 2048x1024.
    """
    if device_type == "cpu":
        return 1
    pixels = max(1, int(size[0] * size[1] * max(scales) ** 2))
    return max(1, min(_MAX_IMAGES, _MAX_PIXELS // pixels))
