"""The order of training samples: a function of seed, step and rank alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches of (position, index), starting at any step.

    The position p counts the samples of the whole run over all ranks. Its index is entry p mod n of the random
    permutation of epoch p // n. The order does not depend on the number of loader processes, nor on where a run was
    resumed. W ranks with batch size B together see what one rank with batch size W * B sees.

    Args:
        size: Number of samples n of the data set.
        batch_size: Images per rank and forward pass.
        world_size, rank: Of the training processes.
        accumulate: Forward passes per optimizer step.
        first_step, last_step: Range of optimizer steps, without the last one; None for an endless range.
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
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.world_size = world_size
        self.rank = rank
        self.accumulate = accumulate
        self.steps = range(first_step, sys.maxsize if last_step is None else last_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, np.int64)
        for number in (step * self.accumulate + part for step in self.steps for part in range(self.accumulate)):
            start = (number * self.world_size + self.rank) * self.batch_size
            batch = []
            for position in range(start, start + self.batch_size):
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = self._permutation(epoch)
                batch.append((position, int(order[position % self.size])))
            yield batch

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)
