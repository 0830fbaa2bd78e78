from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from rmrkd_cli.data.loader import training_batches
from rmrkd_cli.data.sampler import StepSampler
from rmrkd_cli.data.transforms import TrainItem


def batches(**options: Any) -> list[list[tuple[int, int]]]:
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


@given(
    share=st.floats(0.01, 0.99), labelled=st.integers(1, 6), others=st.integers(1, 6), batch=st.integers(1, 5),
    world=st.integers(1, 3),
)  # fmt: skip
def test_a_share_of_labelled_samples_is_kept_in_every_prefix(
    share: float, labelled: int, others: int, batch: int, world: int
) -> None:
    options = {"size": labelled + others, "labelled": labelled, "share": share}
    steps = 12
    ranks = [
        batches(**options, batch_size=batch, world_size=world, rank=rank, last_step=steps) for rank in range(world)
    ]
    stream = [key for round_ in zip(*ranks, strict=True) for part in round_ for key in part]
    assert [position for position, _ in stream] == list(range(len(stream)))
    chosen = [index < labelled for _, index in stream]
    for count in range(1, len(stream) + 1):
        assert abs(sum(chosen[:count]) - share * count) < 1 + 1e-5 * count
    first = [index for _, index in stream if index < labelled]
    rest = [index for _, index in stream if index >= labelled]
    for group, size in ((first, labelled), (rest, others)):
        for start in range(0, len(group), size):
            epoch = group[start : start + size]
            assert len(set(epoch)) == len(epoch)


def test_every_batch_has_the_share_of_labelled_samples_and_resuming_changes_nothing() -> None:
    options = {"size": 100, "labelled": 10, "share": 0.25, "batch_size": 8, "seed": 4}
    whole = batches(**options, last_step=20)
    assert {sum(index < 10 for _, index in batch) for batch in whole} == {2}
    assert batches(**options, first_step=7, last_step=20) == whole[7:]
    first = [index for batch in whole for _, index in batch if index < 10]
    assert sorted(first[:10]) == sorted(first[10:20]) == list(range(10))
    assert first[:10] != first[10:20]
    others = [index for batch in whole for _, index in batch if index >= 10]
    assert sorted(others[:90]) == list(range(10, 100))


def test_without_a_share_the_stream_is_that_of_all_samples() -> None:
    plain = batches(size=9, batch_size=4, last_step=9, seed=2)
    assert batches(size=9, batch_size=4, last_step=9, seed=2, labelled=3) == plain
