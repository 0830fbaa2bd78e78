"""Logs of runs: whole, running, damaged, and of no run at all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.report.figures.series import panels, running_mean, thin_out
from rmrkd_cli.results import training_log
from rmrkd_cli.results.training_log import LOG, find_log, read_curves, to_line
from tests.report.html import synthetic

STEP = {"iter": 1, "lr": 0.1, "losses": {"ce": 2.0}, "weighted": {"ce": 1.0}, "total": 1.0, "seconds": 0.5}
VALIDATION = {"iter": 4, "val_miou": 0.25, "best_miou": 0.25}


def written(folder: Path, *lines: object, end: str = "\n") -> Path:
    path = folder / "log.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end)
    return path


def test_columns_of_a_run(tmp_path: Path) -> None:
    second = {**STEP, "iter": 4, "losses": {"ce": 1.0, "mgd": 9.0}, "weighted": {"ce": 0.5, "mgd": 3.0}, "total": 3.5}
    log = written(tmp_path, STEP, {"iter": 2, "skipped": "x"}, second, VALIDATION, {"iter": 4, "left_out": []})
    read = read_curves(log)
    assert (read.iterations, read.total, read.lr) == ((1, 4), (1.0, 3.5), (0.1, 0.1))
    assert read.losses == {"ce": (2.0, 1.0), "mgd": (None, 9.0)}
    assert read.weighted == {"ce": (1.0, 0.5), "mgd": (None, 3.0)}
    assert read.elapsed == (0.5, 2.0)  # half a second for each of four steps
    assert (read.validated, read.miou, read.validated_elapsed) == ((4,), (0.25,), (2.0,))
    assert (read.skipped, read.incomplete, read.gradient_norm) == (1, False, (None, None))


def test_what_a_log_says_of_time_and_gradients_is_believed(tmp_path: Path) -> None:
    log = written(tmp_path, {**STEP, "elapsed": 7.0, "gradient_norm": 3.0}, {**VALIDATION, "elapsed": 8.5})
    read = read_curves(log)
    assert (read.elapsed, read.gradient_norm, read.validated_elapsed) == ((7.0,), (3.0,), (8.5,))


@pytest.mark.parametrize("end", ['\n{"iter": 2, "lo', "\n\xff", '\n{"iter": 2}', ""])
def test_a_last_line_that_is_being_written_is_left_out(end: str, tmp_path: Path) -> None:
    read = read_curves(written(tmp_path, STEP, end=end))
    assert (read.iterations, read.incomplete) == ((1,), True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "it is not JSON"), ("[1]", "not a mapping"), ({**STEP, "iter": 0.5}, "`iter` is 0.5"),
        ({**STEP, "iter": 1}, "`iter` is 1, after 1"), ({**STEP, "iter": 2, "lr": "x"}, "`lr` is 'x'"),
        ({**STEP, "iter": 2, "total": float("nan")}, "`total` is nan"), ({"iter": True}, "`iter` is True"),
        ({"iter": 3, "val_miou": 1.5}, "`val_miou` is 1.5"), ({"iter": 3, "val_miou": "x"}, "`val_miou` is 'x'"),
        ({**STEP, "iter": 2, "losses": []}, "`losses` is []"), ({**STEP, "iter": 2, "seconds": -1}, "`seconds` is -1"),
        ({**STEP, "iter": 2, "weighted": {"ce": 10**400}}, "`ce` is 1000"), ("9" * 5000, "it is not JSON"),
        ("[" * 100_000, "it is not JSON"), ({**STEP, "iter": 2, "losses": {"x" * 101: 1.0}}, "a name above"),
        ('{"iter": 2, "x": "' + "y" * (1 << 20) + '"}', "bytes"),
    ],
    ids=str,
)  # fmt: skip
def test_a_strange_line_is_named(line: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(RmrkdError) as refused:
        read_curves(written(tmp_path, STEP, line))
    assert "log.jsonl` line 2: " in refused.value.message
    assert expected in refused.value.message


def test_a_log_has_a_bound_and_a_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RmrkdError, match="no logged step yet"):
        read_curves(written(tmp_path, {"iter": 1, "skipped": "x"}))
    monkeypatch.setattr(training_log, "MAX_BYTES", 50)
    with pytest.raises(RmrkdError, match="larger than"):
        read_curves(written(tmp_path, STEP))


def test_runs_below_a_folder_are_named(tmp_path: Path) -> None:
    synthetic.log(tmp_path / "work" / "distill")
    assert find_log(tmp_path / "work" / "distill").name == "log.jsonl"
    with pytest.raises(RmrkdError) as refused:
        find_log(tmp_path)
    assert "is not a run directory" in refused.value.message
    assert "work/distill" in refused.value.hint


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), noise=st.binary(max_size=8))
def test_a_damaged_log_is_read_or_explained(seed: int, noise: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    if not path.exists():
        synthetic.log(tmp_path, steps=6)
    whole, rng = path.read_bytes(), random.Random(seed)
    start, length = rng.randrange(len(whole)), rng.choice((0, 1, 5, 200))
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(whole[:start] + noise + whole[start + length :])
    expected, read = "", None
    try:
        read = read_curves(damaged)
    except RmrkdError as error:
        expected = error.message
    if read is None:
        assert "damaged.jsonl` line " in expected
    else:
        assert len(read.iterations) == len(read.lr) == len(read.total) == len(read.elapsed)
        assert all(len(column) == len(read.iterations) for column in read.weighted.values())
        assert list(read.iterations) == sorted(set(read.iterations))


def test_thinned_lines_keep_ends_and_mean() -> None:
    points = tuple((float(x), float(x % 7)) for x in range(1000))
    thin = thin_out(points, 100)
    assert (len(thin), thin[0][0], thin[-1][0]) == (100, 0.0, 999.0)
    assert sum(y for _, y in thin) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert thin_out(points[:50], 100) == points[:50]


def test_a_running_mean_has_no_bias_at_its_beginning() -> None:
    assert running_mean(((0.0, 3.0), (1.0, 3.0)), 0.9) == (pytest.approx((0.0, 3.0)), pytest.approx((1.0, 3.0)))
    (_, (_, second)) = running_mean(((0.0, 0.0), (1.0, 1.0)), 0.5)
    assert second == pytest.approx(2 / 3)


def test_panels_hold_what_the_runs_have(tmp_path: Path) -> None:
    runs = {
        "a": [read_curves(find_log(synthetic.log(tmp_path / "a")))],
        "b": [read_curves(find_log(synthetic.log(tmp_path / "b", losses=("ce", "mgd"))))],
    }
    shown = {panel.title: panel for panel in panels(runs, more=True)}
    assert list(shown) == ["validation mIoU", "total weighted loss", "ce", "mgd", "learning rate"]
    assert [len(series.points) for series in shown["mgd"].series] == [0, 60]
    by_time = {panel.title: panel for panel in panels(runs, seconds=True)}
    iteration, seconds = (of["ce"].series[0].points[-1][0] for of in (shown, by_time))
    assert (iteration, seconds) == (600, pytest.approx(120.0))  # 0.2 seconds a step
    assert shown["validation mIoU"].series[0].points[0][1] == pytest.approx(100 * runs["a"][0].miou[0])


def test_a_validation_without_a_class_is_null_and_is_left_out(tmp_path: Path) -> None:
    """Older versions trained on validation images without a class, and wrote NaN."""
    lines = [STEP, {**VALIDATION, "val_miou": float("nan")}, {**VALIDATION, "iter": 6}, {**VALIDATION, "iter": 8}]
    older = "".join(json.dumps(line) + "\n" for line in lines)
    newer = "".join(to_line(line) for line in lines)
    assert "NaN" in older
    assert "NaN" not in newer
    assert '"val_miou": null' in newer
    for text in (older, newer):
        (tmp_path / LOG).write_text(text)
        curves = read_curves(tmp_path / LOG)
        assert curves.validated == (6, 8)
    mixed = to_line({"a": [1.0, float("inf")], "b": {"c": float("-inf")}})
    assert json.loads(mixed) == {"a": [1.0, None], "b": {"c": None}}
