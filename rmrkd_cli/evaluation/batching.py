"""Batches of images whose views have equal sizes: nothing is padded, so nothing about an image changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rmrkd_cli.data.transforms import EvalItem, View

_WAITING = 4  # batches' worth of images that wait for others of their size
_MOST_IMAGES, _MOST_PIXELS = 4, 1 << 21  # of a batch on a GPU unless it is said otherwise


class EqualSizes:
    """Collects images until as many as a batch holds have the same size.

    What comes out depends on the order and sizes of the images alone, and each image comes out once.

    Args:
        batch_size: Images a batch.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._waiting: dict[tuple[torch.Size, ...], list[EvalItem]] = {}  # ordered by the first image of each

    def take(self, item: EvalItem | None, *, last: bool) -> list[list[EvalItem]]:
        """The batches to compute now: one that the image completes, the oldest where too many wait, or none.

        Args:
            item: The next image, if there is one.
            last: No other comes, so nothing is to wait any longer.
        """
        done = []
        if item is not None:
            key = (torch.Size(item.views[0][1]["ori_shape"]), *(view.shape for view, _ in item.views))
            self._waiting.setdefault(key, []).append(item)
            if len(self._waiting[key]) == self.batch_size:
                done.append(self._waiting.pop(key))
            elif sum(map(len, self._waiting.values())) == _WAITING * self.batch_size:
                done.append(self._waiting.pop(next(iter(self._waiting))))
        if last:
            done += self._waiting.values()
            self._waiting = {}
        return done


def stacked(items: Sequence[EvalItem]) -> list[View]:
    """The views (B, 3, h, w) of images of one size."""
    if len(items) == 1:
        return items[0].views
    views = zip(*(item.views for item in items), strict=True)
    return [(torch.cat([image for image, _ in same]), same[0][1]) for same in views]


def default_batch_size(device_type: str, size: tuple[int, int], scales: Sequence[float] = (1.0,)) -> int:
    """Images a batch that are fastest, for images fitted into (width, height).

    On a CPU one: at 480x360 a batch gains nothing, at 128x128 two milliseconds an image, and memory it always takes.
    On a GPU small images leave most of it idle, so up to four, and no more pixels than one image of 2048x1024 has:
    memory that evaluation takes anyhow.
    """
    if device_type == "cpu":
        return 1
    pixels = max(1, int(size[0] * size[1] * max(scales) ** 2))
    return max(1, min(_MOST_IMAGES, _MOST_PIXELS // pixels))
