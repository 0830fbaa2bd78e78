from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from rmrkd_cli.data.loader import training_batches
from rmrkd_cli.data.sampler import StepSampler
from rmrkd_cli.data.transforms import TrainItem


def batches(**options: int) -> list[list[tuple[int, int]]]:
    return list(StepSampler(options.pop("size", 10), seed=options.pop("seed", 0), **options))


@given(
    size=st.integers(1, 30), batch=st.integers(1, 4), world=st.integers(1, 4), accumulate=st.integers(1, 3),
    steps=st.integers(1, 6), seed=st.integers(0, 5),
)  # fmt: skip
def test_ranks_and_forward_passes_share_one_stream(
    size: int, batch: int, world: int, accumulate: int, steps: int, seed: int
) -> None:
    shares = [
        batches(
            size=size, seed=seed, batch_size=batch, world_size=world, rank=rank, accumulate=accumulate, last_step=steps
        )
        for rank in range(world)
    ]
    together = [key for round_ in zip(*shares, strict=True) for share in round_ for key in share]
    alone = [key for b in batches(size=size, seed=seed, batch_size=1, last_step=len(together)) for key in b]
    assert together == alone


@given(size=st.integers(1, 30), batch=st.integers(1, 5), seed=st.integers(0, 5))
def test_every_epoch_yields_every_sample_once(size: int, batch: int, seed: int) -> None:
    keys = [key for b in batches(size=size, seed=seed, batch_size=batch, last_step=3 * size) for key in b]
    for epoch in range(len(keys) // size):
        assert sorted(index for _, index in keys[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(resumed_at=st.integers(0, 12))
def test_resuming_skips_exactly_the_earlier_steps(resumed_at: int) -> None:
    whole = batches(batch_size=3, accumulate=2, last_step=12)
    rest = batches(batch_size=3, accumulate=2, first_step=resumed_at, last_step=12)
    assert whole[2 * resumed_at :] == rest


def test_another_seed_gives_another_order() -> None:
    assert batches(batch_size=5, last_step=2) != batches(batch_size=5, last_step=2, seed=1)


class _Blank(Dataset[TrainItem]):
    def __getitem__(self, key: tuple[int, int]) -> TrainItem:
        return TrainItem(torch.zeros(3, 1, 1), torch.zeros(1, 1, 1), key[1], ())


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("first_step", [0, 3])
def test_an_endless_run_sees_the_same_samples(first_step: int, workers: int) -> None:
    """With the loader, whose processes read ahead."""
    seen = []
    for last_step in (first_step + 5, None):
        sampler = StepSampler(7, batch_size=2, accumulate=2, seed=0, first_step=first_step, last_step=last_step)
        stream = training_batches(_Blank(), sampler, workers, pin=False)  # type: ignore[arg-type]
        seen.append([[batch.indices for batch in passes] for passes in islice(stream, 5)])
    assert seen[0] == seen[1]
