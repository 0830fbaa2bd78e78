"""`data prepare voc12aug`: the label maps and lists of mmsegmentation's converter."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.prepare import voc12aug
from rmrkd_cli.errors import RunError
from tests.data.prepare.test_cityscapes import converter
from tests.helpers import trees
from tests.helpers.cli import Outcome, rmrkd
from tests.helpers.forked import run_ranks


def save_mat(path: Path, labels: np.ndarray) -> None:
    """Write a file like those of SBD: a 1x1 struct with sparse boundaries, segmentation, and the present classes."""
    from scipy.sparse import csc_matrix

    boundaries = np.empty((20, 1), object)
    for index in range(20):
        boundaries[index, 0] = csc_matrix(labels.shape, dtype=np.uint8)
    present = np.unique(labels)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {"Boundaries": boundaries, "Segmentation": labels, "CategoriesPresent": present}
    savemat(path, {"GTcls": contents}, do_compression=True)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC with three names per list, and SBD with nine names, some of them from VOC."""
    devkit = tmp_path / "VOCdevkit"
    root = trees.voc12aug(devkit / "VOC2012", images=3)
    for path in (root / "SegmentationClassAug").iterdir():
        path.unlink()
    (root / "SegmentationClassAug").rmdir()
    (root / "ImageSets/Segmentation/aug.txt").unlink()
    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    rng = np.random.default_rng(0)
    names = [f"2007_{kind}{number:03d}" for kind in ("aug", "train", "val") for number in range(3)]
    for name in names:
        save_mat(sbd / "cls" / f"{name}.mat", rng.integers(0, 21, (96, 128)).astype(np.uint8))
    (sbd / "train.txt").write_text("\n".join(names[::2]) + "\n")
    (sbd / "val.txt").write_text("\n".join(names[1::2]))
    return root


def prepare(voc: Path, workers: int = 1) -> Outcome:
    sbd = voc.parent.parent / "benchmark_RELEASE"
    return rmrkd("data", "prepare", "voc12aug", "--data-root", voc, "--sbd", sbd, "--workers", workers)


def test_label_maps_equal_those_of_mmsegmentation(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = prepare(voc, workers=2)
    assert (outcome.exit_code, outcome.message) == (0, "")
    assert "11 files written, 0 already there" in outcome.stdout
    assert "6 train, 3 val" in outcome.stdout
    lists, folder = voc / "ImageSets/Segmentation", voc / "SegmentationClassAug"
    ours = {path.name: read_labels(path) for path in sorted(folder.iterdir())}
    names = {name: (lists / f"{name}.txt").read_text().splitlines() for name in ("aug", "trainaug")}
    theirs = converter("voc_aug")
    monkeypatch.setattr(theirs, "AUG_LEN", 6)
    monkeypatch.setattr(theirs.mmcv, "track_parallel_progress", lambda make, items, nproc: [make(i) for i in items])
    arguments = [str(voc.parent), str(tmp_path / "benchmark_RELEASE"), "-o", str(tmp_path / "theirs")]
    monkeypatch.setattr(sys, "argv", ["voc_aug", *arguments])
    theirs.main()
    assert {path.name for path in (tmp_path / "theirs").iterdir()} == set(ours)
    assert len(ours) == 9
    assert all(np.array_equal(read_labels(tmp_path / "theirs" / name), labels) for name, labels in ours.items())
    for name, found in names.items():
        assert found == sorted(found)
        assert set(found) == set((lists / f"{name}.txt").read_text().splitlines())
    assert names["aug"] == [f"2007_aug{number:03d}" for number in range(3)]
    assert "0 files written, 11 already there" in prepare(voc).stdout
    assert rmrkd("data", "check", "voc", "--data-root", voc).exit_code == 0


def test_an_incomplete_data_set_is_noted(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr("rmrkd_cli.terminal.messages.log", logged.append)
    assert prepare(voc).exit_code == 0
    assert "6 training images instead of 10582" in logged[-1]
    assert "9 in the lists of SBD (published: 11355)" in logged[-1]


@pytest.mark.parametrize(
    "place", ["VOCdevkit", "VOCdevkit/VOC2012", "."], ids=["devkit", "the set itself", "the folder above"]
)
@pytest.mark.parametrize("sbd", ["benchmark_RELEASE", "benchmark_RELEASE/dataset", "."])
def test_folders_can_be_given_in_several_ways(place: str, sbd: str, voc: Path, tmp_path: Path) -> None:
    outcome = rmrkd("data", "prepare", "voc", "--data-root", tmp_path / place, "--sbd", tmp_path / sbd, "--workers", 1)
    assert (outcome.exit_code, outcome.message) == (0, "")
    assert len(list((voc / "SegmentationClassAug").iterdir())) == 9


def test_conflicts_and_missing_files_are_named_and_no_file_is_overwritten(voc: Path) -> None:
    prepare(voc)
    sbd, lists = voc.parent.parent / "benchmark_RELEASE/dataset", voc / "ImageSets/Segmentation"
    other = voc / "SegmentationClassAug/2007_aug001.png"
    Image.new("L", (128, 96), 3).save(other)
    (lists / "aug.txt").write_text("2007_aug000\nmine\n")
    (sbd / "cls/2007_aug002.mat").unlink()
    (voc / "SegmentationClassAug/2007_aug002.png").unlink()
    before = {path: path.read_bytes() for path in (other, lists / "aug.txt")}
    outcome = prepare(voc)
    assert outcome.exit_code == 2
    assert f"`{other}` differs in" in outcome.message
    assert f"`{lists / 'aug.txt'}` has 1 extra and 2 missing names" in outcome.message
    assert f"`{sbd / 'cls/2007_aug002.mat'}` does not exist" in outcome.message
    assert {path: path.read_bytes() for path in before} == before


def test_an_invalid_mat_file_is_named(tmp_path: Path) -> None:
    labels = np.zeros((4, 5), np.uint8)
    save_mat(tmp_path / "good.mat", labels)
    assert np.array_equal(voc12aug.from_mat(tmp_path / "good.mat"), labels)
    whole = (tmp_path / "good.mat").read_bytes()
    savemat(tmp_path / "inst.mat", {"GTinst": {"Segmentation": labels}})
    savemat(tmp_path / "flat.mat", {"GTcls": labels})
    savemat(tmp_path / "text.mat", {"GTcls": {"Segmentation": "no"}})
    savemat(tmp_path / "large.mat", {"GTcls": {"Segmentation": labels.astype(np.int32) + 300}})
    savemat(tmp_path / "half.mat", {"GTcls": {"Segmentation": labels + 0.5}})
    savemat(tmp_path / "deep.mat", {"GTcls": {"Segmentation": np.zeros((2, 3, 4))}})
    for name, data in {"cut": whole[:-40], "empty": b"", "page": b"<html>" * 99}.items():
        (tmp_path / f"{name}.mat").write_bytes(data)
    for path in sorted(tmp_path.glob("*.mat")):
        if path.stem != "good":
            with pytest.raises(RunError) as caught:
                voc12aug.from_mat(path)
            assert f"`{path}`" in caught.value.message
    for place in range(128, len(whole), 3):  # nothing but RunError may come of any of them
        (tmp_path / "flipped.mat").write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with suppress(RunError):
            voc12aug.from_mat(tmp_path / "flipped.mat")


def test_a_linked_label_folder_is_noted(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr("rmrkd_cli.terminal.messages.log", logged.append)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (voc / "SegmentationClassAug").symlink_to(elsewhere)
    outcome = prepare(voc)
    assert outcome.exit_code == 0
    assert len(list(elsewhere.iterdir())) == 9
    link = voc / "SegmentationClassAug"
    assert f"note: `{link}` is a link: its files are written into `{elsewhere}`" in logged


def test_the_other_files_are_converted_after_a_bad_mat_file(voc: Path) -> None:
    bad = voc.parent.parent / "benchmark_RELEASE/dataset/cls/2007_aug001.mat"
    bad.write_bytes(bad.read_bytes()[:200])
    outcome = prepare(voc)
    assert (outcome.exit_code, outcome.message.splitlines()[0]) == (2, f"1 problem with `{voc}`:")
    assert f"`{bad}` is not a valid .mat file" in outcome.message
    assert len(list((voc / "SegmentationClassAug").iterdir())) == 8


def test_listed_names_may_not_point_outside_the_folder(voc: Path) -> None:
    (voc.parent.parent / "benchmark_RELEASE/dataset/train.txt").write_text("../../evil\n")
    outcome = prepare(voc)
    assert outcome.exit_code == 2
    assert "train.txt` line 1: the name '../../evil' points outside its folder" in outcome.message


def test_missing_folders_are_named_with_their_source(voc: Path, tmp_path: Path) -> None:
    outcome = rmrkd("data", "prepare", "voc12aug", "--data-root", voc)
    assert (outcome.exit_code, outcome.hint) == (2, "--sbd DIR, the folder benchmark_RELEASE of SBD")
    outcome = rmrkd("data", "prepare", "voc12aug", "--data-root", voc, "--sbd", tmp_path / "none")
    assert "cls/NAME.mat" in outcome.message
    assert "benchmark.tgz" in outcome.hint
    outcome = rmrkd("data", "prepare", "voc12aug", "--data-root", tmp_path / "none", "--sbd", tmp_path)
    assert "JPEGImages/NAME.jpg" in outcome.message
    assert "VOCtrainval" in outcome.hint
    outcome = rmrkd("data", "prepare", "camvid")
    assert (outcome.message, outcome.hint) == ("`camvid` needs no preparation", "rmrkd data check camvid")
    assert rmrkd("data", "prepare", "city", "--sbd", tmp_path).exit_code == 2


def _read_packed(folder: Path, _: int) -> None:
    voc12aug.MAX_UNPACKED = 1 << 26
    for name in ("packed.mat", "claimed.mat"):
        with pytest.raises(RunError, match="takes more than 64 MiB to unpack"):
            voc12aug.from_mat(folder / name)


def test_a_mat_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    labels = np.zeros((1 << 14, 1 << 14), np.uint8)  # 256 MiB
    savemat(tmp_path / "packed.mat", {"GTcls": {"Segmentation": labels}}, do_compression=True)
    assert (tmp_path / "packed.mat").stat().st_size < 1 << 20
    savemat(tmp_path / "x.mat", {"GTcls": {"Segmentation": labels[:4, :4]}})
    one, many = (np.array([5, 8, size, size], "<u4").tobytes() for size in (1, 1 << 14))
    contents = (tmp_path / "x.mat").read_bytes()
    assert one in contents
    (tmp_path / "claimed.mat").write_bytes(contents.replace(one, many, 1))  # 2^28 structs
    run_ranks(_read_packed, tmp_path, ranks=1)  # this process may have so much memory that earlier tests have freed
    assert voc12aug.from_mat(tmp_path / "x.mat").shape == (4, 4)
