from __future__ import annotations

from typing import Any

from rmrkd_cli.comparison.equality import equality_of


def run(iterations: int = 100, seconds: float = 60.0, **facts: Any) -> dict[str, Any]:
    return {"iterations": iterations, "seconds": seconds, "workers": 1, "batch_size": 8, "accumulate": 1, **facts}


def test_equal_iterations_at_unequal_time() -> None:
    equal, unequal = equality_of([("baseline", [run()]), ("distill", [run(seconds=150.0)])])
    assert equal == [
        "equal iterations: 100 of 8 images; training time is not: baseline 1 min, distill 2 min 30 s "
        "(up to 2.5 times baseline's)"
    ]
    assert not unequal


def test_equal_time_at_unequal_iterations() -> None:
    budget = {"time_budget": 60.0}
    sides = [("baseline", [run(100, 60.0, **budget)]), ("distill", [run(40, 61.0, **budget)])]
    assert equality_of(sides)[0] == [
        "equal training time, as budgeted: 1 min; iterations are not: baseline 100 of 8 images, distill 40 of 8 images"
    ]
    del sides[0][1][0]["time_budget"]
    assert equality_of(sides)[0][0].startswith("equal training time: 1 min")


def test_both_and_neither() -> None:
    assert equality_of([("a", [run()]), ("b", [run(seconds=61.0)])])[0] == [
        "equal iterations: 100 of 8 images, and equal training time"
    ]
    equal, unequal = equality_of([("a", [run()]), ("b", [run(50, 90.0)])])
    assert not equal
    assert "neither iterations (a 100 of 8 images, b 50 of 8 images) nor training time" in unequal[0]


def test_other_batches_are_not_equal_iterations() -> None:
    equal, unequal = equality_of([("a", [run()]), ("b", [run(seconds=90.0, batch_size=4)])])
    assert not equal
    assert unequal
    same = equality_of([("a", [run()]), ("b", [run(seconds=90.0, batch_size=4, workers=2)])])[0]
    assert same[0].startswith("equal iterations: 100 of 8")


def test_every_seed_counts() -> None:
    runs = [("a", [run(), run(100)]), ("b", [run(seconds=90.0), run(99, seconds=90.0)])]
    assert "b 99 to 100 of 8 images" in equality_of(runs)[1][0]


def test_what_is_not_known_is_said() -> None:
    equal, unequal = equality_of([("a", [run()]), ("b", [{}])])
    assert not equal
    assert unequal == ["how b was trained is not known: whether it was equal neither"]
    assert equality_of([("a", [run()])]) == ([], [])
