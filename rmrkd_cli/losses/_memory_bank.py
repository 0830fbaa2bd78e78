"""A memory of unit vectors of every class, filled by all processes and equal in each of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rmrkd_cli.losses._functional import one_hot_masks
from rmrkd_cli.losses._relations import normalize_rows

_SEED = 2_204_066  # fixed, so that slots and pixels depend only on the number of the pass
_DRAWS = 1 << 32


class MemoryQueue(nn.Module):
    """A ring buffer of unit vectors for every class, random at first.

    Attributes:
        not_broadcast: Buffers that are equal in every process already, so DDP need not send them.
        vectors: (K, size, C).
        next_slot: (K,), the slot of each class's next vector.
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
        """Store the vectors of one class and image after the other.

        A group that reaches or passes the end goes into the last slots, and the class starts again at slot 0.

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
        starts, self.next_slot[:] = _group_slots(self.next_slot.cpu(), sizes.view(-1, count), size)
        within = torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group]
        slots = classes * size + starts.flatten()[group] + within
        order = slots.argsort(stable=True)  # a slot may be written twice when a class wraps around: the last one stays
        ordered = slots[order]
        last = order[torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])]
        kept, target = (each.to(vectors.device) for each in (last, slots[last]))
        self.vectors.view(-1, channels).index_copy_(0, target, vectors[kept].to(self.vectors.dtype))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return vectors from the same random slots of every class: (K * count, C), or all where there are fewer."""
        size = self.vectors.shape[1]
        slots = torch.randperm(size, generator=generator)[:count]
        return self.vectors[:, slots.to(self.vectors.device)].flatten(0, 1)


def _group_slots(first: Tensor, sizes: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the first slot of each image and class (images, K), and each class's next slot after all (K,)."""
    starts = []
    for pushed in sizes:
        full = first + pushed >= length
        starts.append(torch.where(full, length - pushed, first))
        first = torch.where(full, 0, first + pushed)
    return torch.stack(starts), first


class MemoryBank(nn.Module):
    """A queue of pixels and one of regions, and the choice of what is stored and sampled.

    Args:
        num_classes: K.
        channels: C of the vectors.
        sizes: Vectors a class of the queue of pixels and of the queue of regions.
        samples: Vectors a class that a pass compares with, of each queue.
        pushed: Most pixels that an image adds to a class.
        released: Choose pixels as the released code does; see `CIRKDMemoryLoss`.

    Attributes:
        passes: Forward passes so far; they seed the choice of pixels and slots.
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
        """Store chosen pixels and the regions of the maps of all processes.

        Args:
            units: (B, P, C) features of length 1.
            labels: (B, P) integers; those outside 0..K-1 add nothing.
        """
        self.passes += 1
        rank = dist.get_rank() if _is_distributed() else 0
        pixels = self._choose_pixels(labels, self._generator(1 + rank))
        pixel_vectors = units[pixels[0], pixels[2]]
        masks = one_hot_masks(labels, self.num_classes, units.dtype)
        regions = masks.any(2).nonzero(as_tuple=True)
        region_vectors = normalize_rows((masks @ units)[regions])[0]  # a sum has the direction of its mean
        owners = torch.stack([torch.cat(pair) for pair in zip(pixels[:2], regions, strict=True)], 1)
        counts = [len(pixel_vectors), len(region_vectors)]
        parts = _gather_parts(owners, torch.cat([pixel_vectors, region_vectors]), counts, len(labels))
        for queue, (image_and_class, vectors) in zip((self.pixels, self.regions), parts, strict=True):
            images, classes = image_and_class.cpu().unbind(1)
            queue.push(images, classes, vectors)

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return the pixels and regions of this pass, the same in all processes."""
        generator = self._generator(0)
        pixels, regions = (
            queue.sample(count, generator)
            for queue, count in zip((self.pixels, self.regions), self.samples, strict=True)
        )
        return pixels, regions

    def _generator(self, stream: int) -> torch.Generator:
        """Return a generator seeded by the number of the pass alone, so that a resumed run draws the same."""
        return torch.Generator().manual_seed((_SEED + 1_000_003 * int(self.passes) + 7_919 * stream) % _DRAWS)

    def _choose_pixels(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, class and position of some random pixels of every class, sorted by image and class."""
        labelled = (labels >= 0) & (labels < self.num_classes)
        classes = torch.where(labelled, labels, self.num_classes)
        lots = torch.randint(_DRAWS, labels.shape, generator=generator).to(labels.device)
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


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gather_parts(owners: Tensor, vectors: Tensor, counts: list[int], images: int) -> list[tuple[Tensor, Tensor]]:
    """Return pixels and regions of all processes, in the order of ranks.

    Args:
        owners: (N, 2) image and class of each vector, pixels before regions.
        vectors: (N, C).
        counts: Pixels and regions.
        images: Number of images of this process; the result numbers them across processes.

    Returns:
        Owners and vectors of the pixels, and of the regions.
    """
    if not _is_distributed() or dist.get_world_size() == 1:
        return list(zip(torch.split(owners, counts), torch.split(vectors, counts), strict=True))
    all_counts = [row.tolist() for row in _all_gather(torch.tensor([*counts, images], device=vectors.device))]
    rows = torch.cat([owners.to(vectors.dtype), vectors], 1)  # small integers are exact as floats
    longest = max(pixels + regions for pixels, regions, _ in all_counts)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), rows.shape[1])])
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    images_before = 0
    for (pixels, regions, own_images), received in zip(all_counts, _all_gather(padded), strict=True):
        received[:, 0] += images_before
        images_before += own_images
        for part, chunk in zip(parts, torch.split(received[: pixels + regions], [pixels, regions]), strict=True):
            part.append(chunk)
    return [(joined[:, :2].long(), joined[:, 2:]) for joined in map(torch.cat, parts)]


def _all_gather(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts
