from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rmrkd_cli.comparison.bootstrap import counts_of, iou, paired_intervals
from rmrkd_cli.comparison.compare import as_document, compare
from rmrkd_cli.comparison.groups import group_records, label_of, mark_teachers, unique_labels
from rmrkd_cli.results.record import Record

IMAGES, CLASSES = 40, ["sky", "road", "never"]


def record(role: str | None = "baseline", seed: int | None = 0, skill: float = 0.5, **facts: Any) -> Record:
    """A network that is right on about such a share of 100 pixels of each of two classes in 40 images."""
    draws = np.random.default_rng([seed or 0, round(1000 * skill)])
    right = draws.binomial(100, skill, (IMAGES, 2))
    counts = [[0, a, 100, a + 100 - b, 1, b, 100, b + 100 - a] for a, b in right.tolist()]
    total = right.sum(0).tolist()
    matrix = [[total[0], 100 * IMAGES - total[0], 0], [100 * IMAGES - total[1], total[1], 0], [0, 0, 0]]
    per_image = {"names": [f"{n:02}" for n in range(IMAGES)], "counts": counts}
    *each, miou = iou(counts_of(per_image, 3).sum(0)).tolist()
    ratios = [None if value != value else value for value in each]
    return {
        "protocol": {"classes": CLASSES, "images": IMAGES},
        "metrics": {
            "miou": miou, "macc": 0.5, "aacc": 0.5, "iou": ratios, "accuracy": ratios, "dice": ratios,
        },
        "matrix": matrix, "per_image": per_image, "name": "tiny", "role": role, "method": "rmrkd", "seed": seed,
        "checkpoint": f"runs/{role}/student.pth", **facts,
    }  # fmt: skip


def test_differences_are_to_the_baseline_and_leave_the_teacher_out() -> None:
    compared = compare([record("teacher", skill=0.9), record("distill", skill=0.7), record()])
    assert [group.label for group in compared.groups] == ["teacher", "distill", "baseline"]
    assert [(one.base, one.to) for one in compared.differences] == [("baseline", "distill")]
    difference = compared.differences[0]
    teacher, distill, baseline = (group.miou or 0.0 for group in compared.groups)
    assert difference.mean.value == pytest.approx(distill - baseline)
    assert difference.mean.excludes_zero
    assert difference.classes[2].value is None
    assert compared.gap == (
        f"distill closes {100 * (distill - baseline) / (teacher - baseline):.0f} % of the gap between the baseline and "
        "the teacher"
    )


def test_intervals_are_the_paired_bootstraps() -> None:
    first, second = record(), record("distill", skill=0.7)
    (difference,) = compare([first, second]).differences
    bounds = paired_intervals(*([counts_of(one["per_image"], 3)] for one in (first, second)))
    assert [difference.mean.low, difference.mean.high] == bounds[-1].tolist()
    assert [difference.classes[0].low, difference.classes[0].high] == bounds[0].tolist()


def test_without_a_baseline_the_first_student_is_compared_with() -> None:
    compared = compare([record("teacher"), record("distill", label="a"), record("distill", label="b", skill=0.6)])
    assert {one.base for one in compared.differences} == {"a"}
    assert [one.to for one in compared.differences] == ["teacher", "b"]
    assert compared.gap is None


def test_a_teacher_without_a_role_is_known_by_its_file() -> None:
    zoo = record(None, None, skill=0.9, checkpoint_sha256="ab" * 32)
    strangers = [zoo, record(), record("distill", skill=0.7, taught_by="cd" * 32)]
    mark_teachers(strangers)
    assert compare(strangers).gap is None
    records = [zoo, record(), record("distill", skill=0.7, taught_by="ab" * 32)]
    mark_teachers(records)
    assert [group.label for group in compare(records).groups] == ["teacher", "baseline", "distill"]
    assert compare(records).gap is not None


def test_no_share_of_the_gap_is_minus_nothing() -> None:
    distilled = record("distill")
    distilled["metrics"]["miou"] -= 1e-6
    gap = compare([record("teacher", skill=0.9), record(), distilled]).gap
    assert gap == "distill closes 0 % of the gap between the baseline and the teacher"


def test_a_teacher_no_better_than_the_baseline_has_no_gap() -> None:
    compared = compare([record("teacher", skill=0.3), record(), record("distill", skill=0.6)])
    assert compared.gap is not None
    assert "not above" in compared.gap


def test_seeds_are_grouped_with_mean_and_spread() -> None:
    runs = [record(role, seed, skill) for role, skill in (("baseline", 0.5), ("distill", 0.6)) for seed in (2, 0, 1)]
    compared = compare(runs)
    assert [(group.label, group.seeds) for group in compared.groups] == [
        ("baseline", (0, 1, 2)),
        ("distill", (0, 1, 2)),
    ]
    baseline = compared.groups[0]
    mious = [run["metrics"]["miou"] for run in runs]
    assert baseline.miou == pytest.approx(np.mean(mious[:3]))
    assert baseline.spread == pytest.approx(np.std(mious[:3], ddof=1))
    assert baseline.matrix is not None
    assert baseline.matrix[0][0] == sum(run["matrix"][0][0] for run in runs[:3])
    (difference,) = compared.differences
    assert [seed for seed, _ in difference.by_seed] == [0, 1, 2]
    assert np.mean([value for _, value in difference.by_seed]) == pytest.approx(difference.mean.value)
    assert not any("seeds" in warning for warning in compared.warnings)


def test_baselines_with_fewer_masks_are_compared_seed_by_seed() -> None:
    masks = {
        0.5: {"labelled_images": 367, "unlabelled_images": 0},
        0.6: {"labelled_images": 46, "unlabelled_images": 0},
    }
    compared = compare([record(seed=seed, skill=skill, training=masks[skill]) for skill in masks for seed in (0, 1)])
    assert [group.label for group in compared.groups] == [
        "baseline on 367 labelled images", "baseline on 46 labelled images",
    ]  # fmt: skip
    (difference,) = compared.differences
    first, second = (group.miou or 0.0 for group in compared.groups)
    assert difference.mean.value == pytest.approx(second - first)
    assert [seed for seed, _ in difference.by_seed] == [0, 1]


def test_few_or_unequal_seeds_are_warned_of() -> None:
    compared = compare([record(seed=0), record(seed=1), record("distill", seed=2)])
    assert any("fewer than 3 seeds (baseline 2, distill 1)" in warning for warning in compared.warnings)
    assert any("different seeds: baseline 0, 1; distill 2" in warning for warning in compared.warnings)


def test_what_differs_in_more_than_the_seed_is_no_group() -> None:
    same = [record(seed=seed) for seed in (0, 1)]
    assert len(group_records(same)) == 1
    assert len(group_records(same, seeds=False)) == 2
    assert len(group_records([*same, record("distill", seed=2)])) == 2
    assert len(group_records([record(seed=0), record(seed=1, method="mgd")])) == 2
    assert len(group_records([record(seed=0, iterations=10), record(seed=1, iterations=20)])) == 2
    assert len(group_records([record(seed=0), record(seed=0, skill=0.7)])) == 2
    assert len(group_records([record(None, seed=0), record(None, seed=1)])) == 2
    few, all_of_them = ({"labelled_images": count, "unlabelled_images": 0} for count in (46, 367))
    assert len(group_records([record(seed=0, training=few), record(seed=1, training=all_of_them)])) == 2
    budget = {"time_budget": 30.0}
    bounded = [record(seed=s, training={"iterations": 10 + s, **budget}) for s in (0, 1)]
    assert len(group_records(bounded)) == 1


def test_names_tell_records_apart_as_far_as_needed() -> None:
    assert label_of(record("distill", method="mgd")) == "distill-mgd"
    assert unique_labels([record(), record("distill")]) == ["baseline", "distill"]
    assert unique_labels([record(), record(seed=1)]) == ["baseline seed 0", "baseline seed 1"]
    assert unique_labels([record(name="a"), record(name="b")]) == ["a baseline", "b baseline"]
    best = record(checkpoint="runs/baseline/best.pth")
    assert unique_labels([record(), best]) == ["baseline student", "baseline best"]
    assert unique_labels([record(), record()]) == ["1: baseline", "2: baseline"]
    assert unique_labels([record(None, None, checkpoint="x/a.b.pth"), record()]) == ["a.b", "baseline"]


def test_records_without_counts_of_images_have_no_intervals() -> None:
    old = record()
    del old["per_image"]
    compared = compare([old, record("distill", skill=0.7)])
    assert compared.differences[0].mean.low is None
    assert any("no intervals: baseline" in warning for warning in compared.warnings)


def test_weights_that_were_loaded_in_part_are_warned_of() -> None:
    compared = compare([record(), record("distill", skill=0.7, partial="lacks 2 of 60 keys")])
    assert any("the rest is random: distill" in warning for warning in compared.warnings)


def test_the_document_is_plain_json() -> None:
    compared = compare([record(), record("distill", skill=0.7)])
    document = json.loads(json.dumps(as_document(compared), allow_nan=False))
    assert document["groups"][1]["seeds"] == [0]
    assert document["differences"][0]["mean"]["low"] == compared.differences[0].mean.low
    assert len(document["results"]) == 2


def test_no_share_is_given_where_the_teacher_may_be_no_better() -> None:
    """Teacher and baseline differ by less than their interval: `214 %` would be a ratio of noise."""
    baseline, teacher = record(skill=0.6), record("teacher", skill=0.603)
    compared = compare([teacher, baseline, record("distill", skill=0.7)])
    gap = teacher["metrics"]["miou"] - baseline["metrics"]["miou"]
    assert 0 < gap < 0.02
    assert compared.gap is not None
    assert compared.gap.startswith(
        "no share of the gap to the teacher is given: the 95 % interval of teacher - baseline"
    )
    assert "includes zero" in compared.gap
    assert "closes" not in compared.gap


def test_no_share_is_given_from_too_few_images() -> None:
    few = [record("teacher", skill=0.9), record(), record("distill", skill=0.7)]
    for one in few:
        one["per_image"] = {key: values[:4] for key, values in one["per_image"].items()}
    gap = compare(few).gap
    assert gap is not None
    assert "from too few images for an interval" in gap
    assert "closes" not in gap


def test_an_exported_file_may_be_faster_at_equal_macs() -> None:
    def timed(role: str, milliseconds: float, checkpoint: str) -> Record:
        latency = {"low_ms": milliseconds, "median_ms": milliseconds, "high_ms": milliseconds}
        return record(role, latency=latency, macs=5, checkpoint=checkpoint)

    baseline = timed("baseline", 60, "student.pth")
    for file, warned in (("other.pth", True), ("student.onnx", False), ("student.int8.onnx", False)):
        warnings = compare([baseline, timed("distill", 30, file)]).latency_warnings
        assert any("equal MACs" in warning for warning in warnings) == warned
