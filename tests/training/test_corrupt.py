"""Images that are damaged while a run goes on: it stops with the file's name, or leaves them out and counts them."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.errors import CorruptError, Interrupted, RmrkdError
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.training.run import train
from tests.training.test_survival import assert_same_end, run
from tests.training.test_training import stop_in_evaluation

SKIP = "schedule.skip_corrupt=true"


@pytest.fixture
def harmed(camvid: Path, tmp_path: Path) -> Path:
    """Four training images, of which one ends in its middle."""
    root = tmp_path / "camvid"
    shutil.copytree(camvid, root)
    image = root / "train" / "1.png"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return root


def test_before_the_first_step_nothing_is_written(tiny: Path, harmed: Path, tmp_path: Path) -> None:
    with pytest.raises(RmrkdError, match=r"train/1\.png") as caught:
        run(tiny, tmp_path / "work", f"data.root={harmed}")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("where", [("workers", 0, "off"), ("workers", 2, "off"), ("workers", 2, "ram")], ids=str)
@pytest.mark.usefixtures("begun")
def test_in_the_middle_of_training_the_file_is_named(
    where: tuple[str, int, str], tiny: Path, harmed: Path, tmp_path: Path
) -> None:
    overrides = [f"data.root={harmed}", f"schedule.workers={where[1]}", f"data.cache={where[2]}"]
    with pytest.raises(CorruptError, match=r"train/1\.png") as caught:
        run(tiny, tmp_path / "work", *overrides)
    assert caught.value.exit_code == 1
    assert "--skip-corrupt" in caught.value.hint
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_left_out_images_are_counted_and_named(
    cache: str, tiny: Path, harmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four steps of two images see each of the four images twice."""
    (record,) = run(tiny, tmp_path / "work", f"data.root={harmed}", SKIP, f"data.cache={cache}")
    assert record["training"]["left_out_images"] == 2
    (told,) = record["training"]["left_out_files"]
    assert "train/1.png" in told
    lines = [json.loads(line) for line in (tmp_path / "work" / "baseline" / "log.jsonl").read_text().splitlines()]
    assert sum(len(line["left_out"]) for line in lines if "left_out" in line) == 2
    shown = capsys.readouterr().err
    assert shown.count("the next image takes its place") == 1
    assert "2 times in place of 1 image" in shown


def test_an_interrupted_run_leaves_out_the_same(
    tiny: Path, harmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (f"data.root={harmed}", SKIP)
    run(tiny, tmp_path / "whole", *overrides, "schedule.workers=2")
    with monkeypatch.context() as patched:
        stop_in_evaluation(patched)
        with pytest.raises(Interrupted):
            run(tiny, tmp_path / "cut", *overrides)
    run(tiny, tmp_path / "cut", *overrides, resume=True)
    assert_same_end(tmp_path / "cut", tmp_path / "whole")
    told = [read_checkpoint(tmp_path / name / "baseline" / "last.pth").rest for name in ("cut", "whole")]
    assert told[0]["left_out"] == told[1]["left_out"] == 2
    assert [len(rest["left_out_files"]) for rest in told] == [1, 1]


@pytest.mark.usefixtures("forked_workers")
def test_two_workers_agree_on_what_was_left_out(tiny: Path, harmed: Path, tmp_path: Path) -> None:
    preset = load_preset(str(tiny), overrides=["role=baseline", f"data.root={harmed}", SKIP])
    (record,) = train(preset, tmp_path / "work", "cpu", Cluster(workers=2))
    assert record["training"]["left_out_images"] == 4
    assert len(record["training"]["left_out_files"]) == 1


def test_where_no_image_can_be_read_the_run_ends(tiny: Path, harmed: Path, tmp_path: Path) -> None:
    for image in (harmed / "train").iterdir():
        image.write_bytes(b"")
    with pytest.raises(CorruptError, match="4 images in a row cannot be read"):
        run(tiny, tmp_path / "work", f"data.root={harmed}", SKIP)


def test_validation_images_are_never_left_out(tiny: Path, harmed: Path, tmp_path: Path) -> None:
    (harmed / "val" / "2.png").write_bytes(b"<html>")
    with pytest.raises(RmrkdError, match=r"val/2\.png"):
        run(tiny, tmp_path / "work", f"data.root={harmed}", SKIP)
