"""A memory of unit vectors of every class, filled by all processes and the same on each of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rmrkd_cli.losses._functional import one_hot_masks
from rmrkd_cli.losses._relations import unit_rows

_SEED = 2_204_066  # of what is drawn: slots and pixels are those of the pass, in every run
_DRAWS = 1 << 32


class MemoryQueue(nn.Module):
    """As many unit vectors of every class, the oldest overwritten by the newest; random ones at first.

    Attributes:
        not_broadcast: Buffers that are the same in every process as they are: DDP need not send them.
        vectors: (K, size, C).
        next_slot: (K,), where each class's next vector goes.
    """

    not_broadcast = ("vectors", "next_slot")
    vectors: Tensor
    next_slot: Tensor

    def __init__(self, num_classes: int, size: int, channels: int) -> None:
        super().__init__()
        vectors = torch.randn(num_classes, size, channels)
        vectors.div_(torch.linalg.vector_norm(vectors, dim=2, keepdim=True))
        self.register_buffer("vectors", vectors)
        self.register_buffer("next_slot", torch.zeros(num_classes, dtype=torch.long))

    def push(self, images: Tensor, classes: Tensor, vectors: Tensor) -> None:
        """Takes in the vectors of one class and image after the other.

        What reaches or passes the end goes into the last slots, and the class begins again at its first.

        Args:
            images: (N,) on the CPU, ascending from 0.
            classes: (N,) on the CPU, ascending within an image.
            vectors: (N, C) of length 1; at most `size` of a class and image.
        """
        if not len(images):
            return
        count, size, channels = self.vectors.shape
        group = images * count + classes
        sizes = torch.bincount(group, minlength=(int(images[-1]) + 1) * count)
        starts, self.next_slot[:] = _starts(self.next_slot.cpu(), sizes.view(-1, count), size)
        within = torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group]
        slots = classes * size + starts.flatten()[group] + within
        order = slots.argsort(stable=True)  # where a class began again a slot may be written twice: the last one counts
        ordered = slots[order]
        last = order[torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])]
        kept, target = (each.to(vectors.device) for each in (last, slots[last]))
        self.vectors.view(-1, channels).index_copy_(0, target, vectors[kept].to(self.vectors.dtype))

    def sample(self, count: int, draw: torch.Generator) -> Tensor:
        """Vectors in the same random slots of every class: (K * count, C), or all where there are fewer."""
        size = self.vectors.shape[1]
        slots = torch.randperm(size, generator=draw)[:count]
        return self.vectors[:, slots.to(self.vectors.device)].flatten(0, 1)


def _starts(first: Tensor, sizes: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Where the vectors of each image and class begin (images, K), and the slots after all of them (K,)."""
    starts = []
    for pushed in sizes:
        full = first + pushed >= length
        starts.append(torch.where(full, length - pushed, first))
        first = torch.where(full, 0, first + pushed)
    return torch.stack(starts), first


class MemoryBank(nn.Module):
    """A queue of pixels and one of regions, and what decides which of them are met.

    Args:
        num_classes: K.
        channels: C of the vectors.
        sizes: Vectors a class of the queue of pixels and of the one of regions.
        samples: Vectors a class that a pass meets of each.
        pushed: Pixels at most that an image adds to a class.
        released: The released way of choosing pixels; see `CIRKDMemoryLoss`.

    Attributes:
        passes: Forward passes so far, which decide about pixels and slots.
    """

    not_broadcast = ("passes",)
    passes: Tensor

    def __init__(
        self, num_classes: int, channels: int, *, sizes: tuple[int, int], samples: tuple[int, int], pushed: int,
        released: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pixels, self.regions = (MemoryQueue(num_classes, size, channels) for size in sizes)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.num_classes, self.samples, self.pushed, self.released = num_classes, samples, pushed, released

    @torch.no_grad()
    def push(self, units: Tensor, labels: Tensor) -> None:
        """Takes in what is chosen of the maps of all processes.

        Args:
            units: (B, P, C) features of length 1.
            labels: (B, P) integers; those outside of 0..K-1 add nothing.
        """
        self.passes += 1
        rank = dist.get_rank() if _in_group() else 0
        pixels = self._choose(labels, self._draw(1 + rank))
        of_pixels = units[pixels[0], pixels[2]]
        masks = one_hot_masks(labels, self.num_classes, units.dtype)
        regions = masks.any(2).nonzero(as_tuple=True)
        of_regions = unit_rows((masks @ units)[regions])[0]  # a sum has the direction of its mean
        places = torch.stack([torch.cat(pair) for pair in zip(pixels[:2], regions, strict=True)], 1)
        parts = _everywhere(places, torch.cat([of_pixels, of_regions]), [len(of_pixels), len(of_regions)], len(labels))
        for queue, (where, vectors) in zip((self.pixels, self.regions), parts, strict=True):
            images, classes = where.cpu().unbind(1)
            queue.push(images, classes, vectors)

    def sample(self) -> tuple[Tensor, Tensor]:
        """What this pass meets of pixels and of regions: the same in all processes."""
        draw = self._draw(0)
        pixels, regions = (
            queue.sample(count, draw) for queue, count in zip((self.pixels, self.regions), self.samples, strict=True)
        )
        return pixels, regions

    def _draw(self, stream: int) -> torch.Generator:
        """Of this pass alone, whatever else is drawn, so that a run that is resumed goes on alike."""
        return torch.Generator().manual_seed((_SEED + 1_000_003 * int(self.passes) + 7_919 * stream) % _DRAWS)

    def _choose(self, labels: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Image, class and position of some pixels of every class, by image and class."""
        held = (labels >= 0) & (labels < self.num_classes)
        classes = torch.where(held, labels, self.num_classes)
        lots = torch.randint(_DRAWS, labels.shape, generator=draw).to(labels.device)
        order = (classes * _DRAWS + lots).argsort(1)
        ordered = classes.gather(1, order)
        first = torch.searchsorted(ordered, torch.arange(self.num_classes + 1).to(labels).repeat(len(labels), 1))
        within = torch.arange(labels.shape[1]).to(labels) - first.gather(1, ordered)
        images, at = ((within < self.pushed) & (ordered < self.num_classes)).nonzero(as_tuple=True)
        positions = order[images, at]
        if self.released:
            nth = torch.empty_like(order).scatter_(1, classes.argsort(dim=1, stable=True), within)  # of its own class
            positions = nth[images, positions]
        return images, ordered[images, at], positions


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _everywhere(places: Tensor, vectors: Tensor, counts: list[int], images: int) -> list[tuple[Tensor, Tensor]]:
    """The two kinds of rows of all processes, in the order of ranks.

    Args:
        places: (N, 2) images and classes, rows of the first kind before those of the second.
        vectors: (N, C).
        counts: Rows of each kind.
        images: Of this process; numbered on through all.

    Returns:
        Places and vectors of each kind.
    """
    if not _in_group() or dist.get_world_size() == 1:
        return list(zip(torch.split(places, counts), torch.split(vectors, counts), strict=True))
    told = [row.tolist() for row in _gathered(torch.tensor([*counts, images], device=vectors.device))]
    rows = torch.cat([places.to(vectors.dtype), vectors], 1)  # small numbers, exact as floats
    most = max(pixels + regions for pixels, regions, _ in told)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), rows.shape[1])])
    kinds: tuple[list[Tensor], list[Tensor]] = ([], [])
    before = 0
    for (pixels, regions, own), part in zip(told, _gathered(padded), strict=True):
        part[:, 0] += before
        before += own
        for kind, chunk in zip(kinds, torch.split(part[: pixels + regions], [pixels, regions]), strict=True):
            kind.append(chunk)
    return [(joined[:, :2].long(), joined[:, 2:]) for joined in map(torch.cat, kinds)]


def _gathered(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts
