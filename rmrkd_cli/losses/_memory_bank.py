"""Memories of unit vectors, of every class or of channels, filled by all processes and equal in each of them."""

from __future__ import annotations

from collections.abc import Callable

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

    def push(self, sizes: Tensor, vectors: Tensor) -> None:
        """Store the vectors of one class and image after the other.

        A group that reaches or passes the end goes into the last slots, and the class starts again at slot 0. Shapes do
        not depend on values, so that the host need not wait for a GPU.

        Args:
            sizes: (images, K) how many vectors each group has; at most `size` and N.
            vectors: (images, K, N, C) of length 1; those behind a group's size are ignored.
        """
        count, length, channels = self.vectors.shape
        nth = torch.arange(vectors.shape[2], device=vectors.device)
        starts, self.next_slot[:] = _group_slots(self.next_slot, sizes, length)
        first = starts + length * torch.arange(count, device=vectors.device)
        stored = (nth < sizes.unsqueeze(2)).flatten()
        slots = torch.where(stored, (first.unsqueeze(2) + nth).flatten(), count * length)  # the last is behind the end
        # A slot may be written twice when a class wraps around: the last vector stays. Those that are not stored write
        # to slot 0 what it holds afterwards.
        order = slots.argsort(stable=True)
        ordered, target = slots[order], torch.where(stored, slots, 0)
        last = torch.searchsorted(ordered, target, right=True) - 1
        writes = (last >= 0) & (ordered[last] == target)
        memory, new = self.vectors.view(-1, channels), vectors.flatten(0, 2).to(self.vectors.dtype)
        memory.index_copy_(0, target, torch.where(writes.unsqueeze(1), new[order[last]], memory[target]))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return vectors from the same random slots of every class: (K * count, C), or all where there are fewer."""
        size = self.vectors.shape[1]
        slots = torch.randperm(size, generator=generator)[:count]
        return self.vectors[:, _copy_to(slots, self.vectors.device)].flatten(0, 1)


def _copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _group_slots(first: Tensor, sizes: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the first slot of each image and class (images, K), and each class's next slot after all (K,)."""
    starts = []
    for pushed in sizes:
        full = first + pushed >= length
        starts.append(torch.where(full, length - pushed, first))
        first = torch.where(full, 0, first + pushed)
    return torch.stack(starts), first


class _CountingMemory(nn.Module):
    """Counts forward passes, whose number alone seeds what is stored and sampled: a resumed run draws the same.

    Attributes:
        passes: Forward passes so far, also those of skipped steps, on the CPU.
        keep_when_skipped: Buffers that a skipped step does not restore, on a GPU and a CPU alike.
    """

    not_broadcast = ("passes",)
    keep_when_skipped = ("passes",)
    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _CountingMemory:
        """Move or convert the module as torch does, but leave `passes` on the CPU, where the host reads it."""
        passes = self.passes
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.passes = passes
        return self

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed((_SEED + 1_000_003 * int(self.passes) + 7_919 * stream) % _DRAWS)


class ChannelBank(_CountingMemory):
    """A queue of channels of the teacher, each a vector of positions, and the choice of what is stored and sampled.

    Args:
        positions: P of the vectors.
        size: Vectors of the queue.
        samples: Vectors that a pass compares with.
        pushed: Most vectors that a pass stores, of all processes together.
    """

    def __init__(self, positions: int, *, size: int, samples: int, pushed: int) -> None:
        super().__init__()
        self.channels = MemoryQueue(1, size, positions)
        self.samples, self.pushed = samples, pushed

    @torch.no_grad()
    def push(self, units: Tensor) -> None:
        """Store random channels (B, C, P) of length 1 of all processes, which have equal batch sizes."""
        self.passes += 1
        rows = _all_gather(units).flatten(0, 1)
        drawn = torch.randperm(len(rows), generator=self._generator(0))[: self.pushed]
        vectors = rows[_copy_to(drawn, rows.device)]
        count = torch.full((1, 1), len(vectors), device=rows.device)
        self.channels.push(count, vectors.view(1, 1, *vectors.shape))

    def sample(self) -> Tensor:
        """Return the channels of this pass (samples, P), the same in all processes."""
        return self.channels.sample(self.samples, self._generator(1))


class MemoryBank(_CountingMemory):
    """A queue of pixels and one of regions, and the choice of what is stored and sampled.

    Args:
        num_classes: K.
        channels: C of the vectors.
        sizes: Vectors a class of the queue of pixels and of the queue of regions.
        samples: Vectors a class that a pass compares with, of each queue.
        pushed: Most pixels that an image adds to a class.
        released: Choose pixels as the released code does; see `CIRKDMemoryLoss`.
    """

    def __init__(
        self, num_classes: int, channels: int, *, sizes: tuple[int, int], samples: tuple[int, int], pushed: int,
        released: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pixels, self.regions = (MemoryQueue(num_classes, size, channels) for size in sizes)
        self.num_classes, self.samples, self.pushed, self.released = num_classes, samples, pushed, released

    @torch.no_grad()
    def push(self, units: Tensor, labels: Tensor) -> None:
        """Store chosen pixels and the regions of the maps of all processes, which have equal batch sizes.

        Args:
            units: (B, P, C) features of length 1.
            labels: (B, P) integers; those outside 0..K-1 add nothing.
        """
        self.passes += 1
        rank = dist.get_rank() if _is_distributed() else 0
        masks = one_hot_masks(labels, self.num_classes, units.dtype)
        sizes, positions = self._choose_pixels(labels, self._generator(1 + rank))
        pixels = units.gather(1, positions.flatten(1).unsqueeze(2).expand(-1, -1, units.shape[2]))
        regions = normalize_rows(masks @ units)[0]  # a sum has the direction of its mean
        vectors = torch.cat([pixels.view(*positions.shape, -1), regions.unsqueeze(2)], dim=2)
        sizes = torch.stack([sizes, masks.any(2).long()], dim=2)
        all_sizes, all_vectors = (_all_gather(each) for each in (sizes, vectors))
        self.pixels.push(all_sizes[:, :, 0], all_vectors[:, :, :-1])
        self.regions.push(all_sizes[:, :, 1], all_vectors[:, :, -1:])

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return the pixels and regions of this pass, the same in all processes."""
        generator = self._generator(0)
        pixels, regions = (
            queue.sample(count, generator)
            for queue, count in zip((self.pixels, self.regions), self.samples, strict=True)
        )
        return pixels, regions

    def _choose_pixels(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose some random pixels of every class and image.

        Returns:
            Their number (B, K), and their positions (B, K, pushed); those behind the number are any.
        """
        labelled = (labels >= 0) & (labels < self.num_classes)
        classes = torch.where(labelled, labels, self.num_classes)
        lots = _copy_to(torch.randint(_DRAWS, labels.shape, generator=generator), labels.device)
        order = (classes * _DRAWS + lots).argsort(1)
        ordered = classes.gather(1, order)
        each = torch.arange(self.num_classes + 1, device=labels.device).repeat(len(labels), 1)
        first = torch.searchsorted(ordered, each)
        nth = torch.arange(self.pushed, device=labels.device)
        chosen = (first[:, :-1, None] + nth).clamp_max_(labels.shape[1] - 1)
        positions = order.gather(1, chosen.flatten(1))
        if self.released:
            within = torch.arange(labels.shape[1], device=labels.device) - first.gather(1, ordered)
            of_class = torch.empty_like(order).scatter_(1, classes.argsort(dim=1, stable=True), within)
            positions = of_class.gather(1, positions)
        return first.diff(dim=1).clamp_max_(self.pushed), positions.view(chosen.shape)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _all_gather(tensor: Tensor) -> Tensor:
    """Return the images (B, ...) of all processes in the order of ranks: (all images, ...)."""
    if not _is_distributed() or dist.get_world_size() == 1:
        return tensor
    sent = tensor.contiguous()  # what is received has the same layout
    parts = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, sent)
    return torch.cat(parts)
