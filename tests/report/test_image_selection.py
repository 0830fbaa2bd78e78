"""Which images are shown: extremes of both directions from the counts, and others by a fixed seed."""

from __future__ import annotations

import copy

import pytest

from rmrkd_cli.comparison.types import Comparison
from rmrkd_cli.report.image_selection import choose_images, image_differences, main_difference, representative_records
from tests.report.html import synthetic


def with_counts(base: list[list[int]], to: list[list[int]]) -> Comparison:
    comparison = synthetic.comparison()
    for group, counts in zip(comparison.groups[1:], (base, to), strict=True):
        record = group.records[0]
        record["per_image"] = {"names": [str(n) for n in range(len(counts))], "counts": counts}
        record["protocol"]["images"] = len(counts)
    comparison.protocol["images"] = len(base)
    return comparison


def differences_of(comparison: Comparison) -> dict[int, float] | None:
    return image_differences(comparison, representative_records(comparison))


def test_differences_are_of_the_mean_iou_of_each_image() -> None:
    base = [[0, 5, 10, 10], [0, 5, 10, 5, 1, 0, 0, 5], []]
    to = [[0, 10, 10, 10], [0, 5, 10, 5], [0, 1, 1, 1]]
    found = differences_of(with_counts(base, to))
    assert found == {0: pytest.approx(1 - 5 / 15), 1: pytest.approx(0.5 - 0.25)}  # the last has none in one of them


def test_extremes_of_both_directions_and_others_none_twice() -> None:
    comparison = synthetic.comparison()
    differences = differences_of(comparison)
    assert differences is not None
    chosen = choose_images(comparison)
    assert [choice.reason for choice in chosen] == ["gain"] * 3 + ["loss"] * 3 + ["random"] * 6
    assert len({choice.index for choice in chosen}) == 12
    order = sorted(differences, key=lambda index: differences[index])
    assert [choice.index for choice in chosen[:3]] == order[:-4:-1]
    assert [choice.index for choice in chosen[3:6]] == order[:3]
    assert all(choice.difference == differences[choice.index] for choice in chosen)
    assert choose_images(comparison) == chosen
    assert choose_images(comparison, seed=1)[6:] != chosen[6:]


def test_an_image_without_loss_is_not_called_a_loss() -> None:
    same = [[0, 5, 10, 10]] * 4
    assert {choice.reason for choice in choose_images(with_counts(same, same))} == {"random"}
    chosen = choose_images(with_counts(same, [[0, 6, 10, 10], *same[1:]]))
    assert (chosen[0].index, chosen[0].reason) == (0, "gain")
    assert len(chosen) == 4


def test_without_counts_images_are_random() -> None:
    comparison = synthetic.comparison(per_image=False)
    assert {choice.reason for choice in choose_images(comparison)} == {"random"}
    assert len(choose_images(comparison)) == 6


def test_counts_of_another_number_of_images_are_not_used() -> None:
    comparison = copy.deepcopy(synthetic.comparison())
    comparison.groups[1].records[0]["per_image"]["counts"].pop()
    assert differences_of(comparison) is None


def test_the_distilled_student_is_the_main_difference() -> None:
    comparison = synthetic.comparison(labels=("teacher", "baseline", "a", "b"))
    main = main_difference(comparison)
    assert main is not None
    assert (main.base, main.to) == ("baseline", "a")


def test_networks_of_one_seed_are_shown_and_chosen_by() -> None:
    comparison = synthetic.comparison(seeds=3)
    label = comparison.groups[1].label
    lost = comparison.groups[1].records[0]
    shown = representative_records(comparison, lambda record: record is not lost)
    assert {record["seed"] for record in shown.values()} == {1}
    assert {record["seed"] for record in representative_records(comparison).values()} == {0}
    nothing_left = representative_records(comparison, lambda record: record not in comparison.groups[1].records)
    assert nothing_left[label] is lost
    assert image_differences(comparison, shown) != differences_of(comparison)
