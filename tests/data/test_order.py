from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rmrkd_cli.data.order import StepSampler


def batches(**options: int) -> list[list[tuple[int, int]]]:
    return list(StepSampler(options.pop("size", 10), seed=options.pop("seed", 0), **options))


@given(
    size=st.integers(1, 30), batch=st.integers(1, 4), world=st.integers(1, 4), accumulate=st.integers(1, 3),
    steps=st.integers(1, 6), seed=st.integers(0, 5),
)  # fmt: skip
def test_workers_and_passes_together_see_one_stream(
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
def test_every_pass_shows_every_sample_once(size: int, batch: int, seed: int) -> None:
    keys = [key for b in batches(size=size, seed=seed, batch_size=batch, last_step=3 * size) for key in b]
    for epoch in range(len(keys) // size):
        assert sorted(index for _, index in keys[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(resumed_at=st.integers(0, 12))
def test_resuming_skips_what_was_seen_and_nothing_else(resumed_at: int) -> None:
    whole = batches(batch_size=3, accumulate=2, last_step=12)
    rest = batches(batch_size=3, accumulate=2, first_step=resumed_at, last_step=12)
    assert whole[2 * resumed_at :] == rest


def test_another_seed_is_another_order() -> None:
    assert batches(batch_size=5, last_step=2) != batches(batch_size=5, last_step=2, seed=1)
