"""The order of training samples: a function of seed, step and rank alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

_MILLION = 10**6  # shares are counted in millionths, so that sums of them are exact


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches of (position, index), starting at any step.

    The position p counts the samples of the whole run over all ranks. Its index is entry p mod n of the random
    permutation of epoch p // n. The order does not depend on the number of loader processes, nor on where a run was
    resumed. W ranks with batch size B together see what one rank with batch size W * B sees.

    With `share` s, the labelled samples, which come first in the data set, and the others are two streams with epochs
    of their own. Position p takes the next labelled one where floor((p + 1) s) > floor(p s).

    Args:
        size: Number of samples n of the data set.
        batch_size: Images per rank and forward pass.
        world_size, rank: Of the training processes.
        accumulate: Forward passes per optimizer step.
        first_step, last_step: Range of optimizer steps, without the last one; None for an endless range.
        labelled: How many samples have labels; used with `share`.
        share: Share of labelled samples among the positions, between 0 and 1; None: as many as in the data set.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int,
        world_size: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        first_step: int = 0,
        last_step: int | None,
        labelled: int = 0,
        share: float | None = None,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self.accumulate = accumulate
        self.steps = range(first_step, sys.maxsize if last_step is None else last_step)
        self.labelled = labelled
        self.millionths = None if share is None else min(max(round(share * _MILLION), 1), _MILLION - 1)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # stream → its epoch, and the order of that

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in (step * self.accumulate + part for step in self.steps for part in range(self.accumulate)):
            start = (number * self.world_size + self.rank) * self.batch_size
            yield [(position, self._index(position)) for position in range(start, start + self.batch_size)]

    def _index(self, position: int) -> int:
        if self.millionths is None:
            return self._draw(0, position, self.size)
        before, after = (place * self.millionths // _MILLION for place in (position, position + 1))  # labelled ones
        if after > before:
            return self._draw(1, before, self.labelled)
        return self.labelled + self._draw(2, position - before, self.size - self.labelled)

    def _draw(self, stream: int, position: int, size: int) -> int:
        """Return the entry of a stream at a position: of all samples (0), the labelled (1) or the unlabelled (2)."""
        epoch, order = self._orders.get(stream, (-1, np.empty(0, np.int64)))
        if position // size != epoch:
            epoch = position // size
            seed = [self.seed, epoch, stream] if stream else [self.seed, epoch]
            order = np.random.default_rng(seed).permutation(size)
            self._orders[stream] = epoch, order
        return int(order[position % size])
