from __future__ import annotations

from typing import Any

from rmrkd_cli.comparison.training_equality import describe_training


def run(iterations: int = 100, seconds: float = 60.0, **facts: Any) -> dict[str, Any]:
    return {"iterations": iterations, "seconds": seconds, "workers": 1, "batch_size": 8, "accumulate": 1, **facts}


def test_equal_iterations_at_unequal_time() -> None:
    equal, unequal = describe_training([("baseline", [run()]), ("distill", [run(seconds=150.0)])])
    assert equal == [
        "equal iterations: 100 of 8 images; unequal training time: baseline 1 min, distill 2 min 30 s "
        "(up to 2.5 times baseline's)"
    ]
    assert not unequal


def test_equal_time_at_unequal_iterations() -> None:
    budget = {"time_budget": 60.0}
    sides = [("baseline", [run(100, 60.0, **budget)]), ("distill", [run(40, 61.0, **budget)])]
    assert describe_training(sides)[0] == [
        "equal training time, as budgeted: 1 min; unequal iterations: baseline 100 of 8 images, distill 40 of 8 images"
    ]
    del sides[0][1][0]["time_budget"]
    assert describe_training(sides)[0][0].startswith("equal training time: 1 min")


def test_both_and_neither() -> None:
    assert describe_training([("a", [run()]), ("b", [run(seconds=61.0)])])[0] == [
        "equal iterations: 100 of 8 images, and equal training time"
    ]
    equal, unequal = describe_training([("a", [run()]), ("b", [run(50, 90.0)])])
    assert not equal
    assert "neither iterations (a 100 of 8 images, b 50 of 8 images) nor training time" in unequal[0]


def test_other_batches_are_not_equal_iterations() -> None:
    equal, unequal = describe_training([("a", [run()]), ("b", [run(seconds=90.0, batch_size=4)])])
    assert not equal
    assert unequal
    same = describe_training([("a", [run()]), ("b", [run(seconds=90.0, batch_size=4, workers=2)])])[0]
    assert same[0].startswith("equal iterations: 100 of 8")


def test_every_seed_counts() -> None:
    runs = [("a", [run(), run(100)]), ("b", [run(seconds=90.0), run(99, seconds=90.0)])]
    assert "b 99 to 100 of 8 images" in describe_training(runs)[1][0]


def test_a_mean_over_seeds_makes_no_time_equal() -> None:
    runs = [("a", [run(seconds=60.0), run(seconds=180.0)]), ("b", [run(50, 120.0), run(50, 120.0)])]
    equal, unequal = describe_training(runs)
    assert not equal
    assert "(a 1 min to 3 min, b 2 min)" in unequal[0]


def test_time_on_other_machines_is_not_the_same_time() -> None:
    budget = {"time_budget": 60.0, "device": "Fast GPU"}
    for changes in ({"device": "Slow GPU"}, {"workers": 8, "batch_size": 1}):
        equal, unequal = describe_training([("a", [run(**budget)]), ("b", [run(40, **budget | changes)])])
        assert not equal
        assert "measured on different machines: a on 1 x Fast GPU; b on " in unequal[0]
        same_steps = describe_training([("a", [run(**budget)]), ("b", [run(**budget | changes)])])[0]
        assert same_steps[0].startswith("equal iterations: 100 of 8 images; unequal training time: a 1 min, b 1 min, m")


def test_a_run_that_went_on_with_other_batches_has_no_equal() -> None:
    forced = run(changes=[{"iteration": 50, "batch_size": [2, 8]}])
    equal, unequal = describe_training([("a", [forced]), ("b", [run(seconds=90.0)])])
    assert not equal
    assert "a 100 of changing numbers of images, b 100 of 8 images" in unequal[0]
    assert not describe_training([("a", [forced]), ("b", [forced | {"seconds": 90.0}])])[0]


def test_iterations_of_unknown_batches() -> None:
    old = {"iterations": 100, "seconds": 60.0}
    equal, _ = describe_training([("a", [old]), ("b", [old])])
    assert equal == ["equal iterations: 100 of an unknown number of images, and equal training time"]
    assert not describe_training([("a", [old]), ("b", [run(seconds=90.0)])])[0]


def test_what_is_not_known_is_said() -> None:
    equal, unequal = describe_training([("a", [run()]), ("b", [{}])])
    assert not equal
    assert unequal == ["iterations and training time of b are unknown and may be unequal"]
    assert describe_training([("a", [run()])]) == ([], [])


def test_a_run_that_was_trained_further_is_not_alike() -> None:
    further = {"changes": [{"iteration": 50, "iters": [50, 100]}]}
    equal, unequal = describe_training([("baseline", [run()]), ("distill", [run(**further)])])
    assert equal == ["equal iterations: 100 of 8 images, and equal training time"]
    assert unequal == [
        "trained unalike: baseline in one go, distill further at iteration 50 (from 50 to 100 iterations); "
        "the learning rate rises again where a run is trained further"
    ]
    both = [("baseline", [run(**further)]), ("distill", [run(**further)])]
    assert describe_training(both) == (equal, [])
    other = {"changes": [{"iteration": 70, "iters": [70, 100]}]}
    assert "trained unalike" in describe_training([both[0], ("distill", [run(**other)])])[1][0]
    budget = {"changes": [{"iteration": 70, "time_budget": [30.0, 60.0]}]}
    assert "(from 30.0 to 60.0 s)" in describe_training([both[0], ("distill", [run(**budget)])])[1][0]


def test_changes_of_batches_and_damaged_changes_are_not_equal_iterations() -> None:
    for changes in ([{"iteration": 3, "batch_size": [4, 2]}], ["x"], "text", [{"iters": 3}], {"iters": [1, 2]}):
        equal, _ = describe_training([("a", [run()]), ("b", [run(seconds=90.0, changes=changes)])])
        assert bool(equal) == (changes == [{"iters": 3}])
