"""Damaged training images: the run stops with the file's name, or skips and counts them."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import CorruptFileError, Interrupted, RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.training.test_survival import assert_same_result, run
from tests.training.test_training import stop_in_validation

SKIP = "schedule.skip_corrupt=true"


@pytest.fixture
def damaged(camvid: Path, tmp_path: Path) -> Path:
    """Return a CamVid tree of four training images, one of them truncated."""
    root = tmp_path / "camvid"
    shutil.copytree(camvid, root)
    image = root / "train" / "1.png"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return root


def test_a_damaged_image_found_before_training_leaves_no_files(tiny: Path, damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match=r"train/1\.png") as caught:
        run(tiny, tmp_path / "work", f"data.root={damaged}")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("where", [("workers", 0, "off"), ("workers", 2, "off"), ("workers", 2, "ram")], ids=str)
@pytest.mark.usefixtures("begun")
def test_a_damaged_image_found_during_training_is_named(
    where: tuple[str, int, str], tiny: Path, damaged: Path, tmp_path: Path
) -> None:
    overrides = [f"data.root={damaged}", f"schedule.workers={where[1]}", f"data.cache={where[2]}"]
    with pytest.raises(CorruptFileError, match=r"train/1\.png") as caught:
        run(tiny, tmp_path / "work", *overrides)
    assert caught.value.exit_code == 1
    assert "--skip-corrupt" in caught.value.hint
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_skipped_images_are_counted_and_named(
    cache: str, tiny: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four steps of two images see each of the four images twice."""
    (record,) = run(tiny, tmp_path / "work", f"data.root={damaged}", SKIP, f"data.cache={cache}")
    assert record["training"]["left_out_images"] == 2
    (message,) = record["training"]["left_out_files"]
    assert "train/1.png" in message
    lines = [json.loads(line) for line in (tmp_path / "work" / "baseline" / "log.jsonl").read_text().splitlines()]
    assert sum(len(line["left_out"]) for line in lines if "left_out" in line) == 2
    err = capsys.readouterr().err
    assert err.count("replaced by the next image:") == 1
    assert "1 unreadable training image(s) were replaced 2 time(s)" in err


def test_a_resumed_run_skips_the_same_images(
    tiny: Path, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (f"data.root={damaged}", SKIP)
    run(tiny, tmp_path / "uninterrupted", *overrides, "schedule.workers=2")
    with monkeypatch.context() as patched:
        stop_in_validation(patched)
        with pytest.raises(Interrupted):
            run(tiny, tmp_path / "resumed", *overrides)
    run(tiny, tmp_path / "resumed", *overrides, resume=True)
    assert_same_result(tmp_path / "resumed", tmp_path / "uninterrupted")
    saved = [read_checkpoint(tmp_path / name / "baseline" / "last.pth").rest for name in ("resumed", "uninterrupted")]
    assert saved[0]["left_out"] == saved[1]["left_out"] == 2
    assert [len(rest["left_out_files"]) for rest in saved] == [1, 1]


@pytest.mark.usefixtures("forked_workers")
def test_two_workers_count_skipped_images_together(tiny: Path, damaged: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", f"data.root={damaged}", SKIP])
    (record,) = train(preset, tmp_path / "work", "cpu", Cluster(workers=2))
    assert record["training"]["left_out_images"] == 4
    assert len(record["training"]["left_out_files"]) == 1


def test_a_run_without_any_readable_image_stops(tiny: Path, damaged: Path, tmp_path: Path) -> None:
    for image in (damaged / "train").iterdir():
        image.write_bytes(b"")
    with pytest.raises(CorruptFileError, match="4 images in a row cannot be read"):
        run(tiny, tmp_path / "work", f"data.root={damaged}", SKIP)


def test_validation_images_are_never_skipped(tiny: Path, damaged: Path, tmp_path: Path) -> None:
    (damaged / "val" / "2.png").write_bytes(b"<html>")
    with pytest.raises(RmrkdError, match=r"val/2\.png"):
        run(tiny, tmp_path / "work", f"data.root={damaged}", SKIP)
