"""`data prepare voc12aug`: the maps and lists of mmsegmentation's converter, from .mat files of strangers."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy.io import loadmat, savemat

from rmrkd_cli.data.image_io import read_labels
from rmrkd_cli.data.prepare import voc12aug
from rmrkd_cli.data.prepare.mat5 import measured
from rmrkd_cli.errors import RunError
from tests.data.prepare.test_cityscapes import converter
from tests.helpers import trees
from tests.helpers.cli import Outcome, rmrkd


def save_mat(path: Path, labels: np.ndarray) -> None:
    """As SBD's files are: a struct of 1x1 with sparse boundaries, the segmentation, and the classes that occur."""
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
    """VOC with three names a list, without SBD's part; and an SBD of nine, some of them VOC's."""
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


def test_equals_mmsegmentations_converter(
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


def test_a_set_that_is_not_the_full_one_is_told(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("rmrkd_cli.terminal.console.log", told.append)
    assert prepare(voc).exit_code == 0
    assert "6 training images instead of 10582" in told[-1]
    assert "9 in SBD's lists (11355 published)" in told[-1]


@pytest.mark.parametrize(
    "place", ["VOCdevkit", "VOCdevkit/VOC2012", "."], ids=["devkit", "the set itself", "the folder above"]
)
@pytest.mark.parametrize("sbd", ["benchmark_RELEASE", "benchmark_RELEASE/dataset", "."])
def test_places_may_be_named_in_several_ways(place: str, sbd: str, voc: Path, tmp_path: Path) -> None:
    outcome = rmrkd("data", "prepare", "voc", "--data-root", tmp_path / place, "--sbd", tmp_path / sbd, "--workers", 1)
    assert (outcome.exit_code, outcome.message) == (0, "")
    assert len(list((voc / "SegmentationClassAug").iterdir())) == 9


def test_conflicts_and_missing_files_are_named_and_nothing_is_overwritten(voc: Path) -> None:
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
    assert f"`{lists / 'aug.txt'}` has 1 names too many and lacks 2" in outcome.message
    assert f"`{sbd / 'cls/2007_aug002.mat'}` does not exist" in outcome.message
    assert {path: path.read_bytes() for path in before} == before


def bomb() -> bytes:
    """A compressed element of 512 MiB in half a megabyte."""
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(body)) + body


def test_a_mat_file_of_another_form_is_named(tmp_path: Path) -> None:
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
    for name, data in {"cut": whole[:-40], "empty": b"", "page": b"<html>" * 99, "bomb": bomb()}.items():
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


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(kind: int, shape: tuple[int, ...], contents: bytes = b"", name: bytes = b"") -> bytes:
    """A matrix of a class, which claims a shape, and holds what is given."""
    flags = element(6, struct.pack("<II", kind, 0))
    return element(14, flags + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name) + contents)


FIELD = element(5, struct.pack("<i", 16)) + element(1, b"Segmentation".ljust(16, b"\0"))
UINT8, DOUBLE, CHAR, CELL, STRUCT = 9, 6, 4, 1, 2


def nested(depth: int) -> bytes:
    inner = matrix(CELL, (0, 0))
    for _ in range(depth):
        inner = matrix(CELL, (1, 1), inner)
    return inner


CLAIMS: dict[str, bytes] = {
    "cell": matrix(CELL, (31623, 31623), name=b"GTcls"),
    "struct": matrix(STRUCT, (31623, 31623), FIELD, name=b"GTcls"),
    "many small cells": matrix(CELL, (64, 65), matrix(CELL, (0, 0)) * 64 * 65, name=b"GTcls"),
    "cells within": matrix(STRUCT, (1, 1), FIELD + matrix(CELL, (10**9, 1)), name=b"GTcls"),
    "text of no length": matrix(STRUCT, (1, 1), FIELD + matrix(CHAR, (1, 10**9), element(1, b"")), name=b"GTcls"),
    "numbers": matrix(STRUCT, (1, 1), FIELD + matrix(UINT8, (1 << 15, 1 << 15), element(2, b"")), name=b"GTcls"),
    "fields": matrix(STRUCT, (1, 1), element(5, struct.pack("<i", 1)) + element(1, bytes(10**6)), name=b"GTcls"),
    "deep": matrix(CELL, (1, 1), nested(50), name=b"GTcls"),
    "below zero": matrix(CELL, (-5, -7), name=b"GTcls"),
    "variables": matrix(CELL, (0, 0), name=b"x") * 5000,
    "an object": matrix(3, (31623, 31623), name=b"GTcls"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_mat_file_that_claims_too_much_is_refused_before_it_is_read(
    claim: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header of 56 bytes that claims a thousand million cells took 8 GB."""
    contents = CLAIMS[claim]
    if packed:
        inner = zlib.compress(contents)
        contents = struct.pack("<II", 15, len(inner)) + inner
    path = tmp_path / "x.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + contents)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("read"))
    tracemalloc.start()
    with pytest.raises(RunError, match=r"x\.mat` is no \.mat file that can be read: "):
        voc12aug.from_mat(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_headers_that_disagree_with_each_other_are_refused(tmp_path: Path) -> None:
    """Else what was measured might be something else than what scipy reads."""
    labels = matrix(UINT8, (2, 2), element(2, bytes(4)))
    path = tmp_path / "x.mat"
    for length, good in ((0, True), (-8, False), (8, False)):
        inner = labels[:4] + struct.pack("<I", len(labels) - 8 + length) + labels[8:]
        contents = matrix(STRUCT, (1, 1), FIELD + inner, name=b"GTcls")
        path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + contents)
        if good:
            assert voc12aug.from_mat(path).tolist() == [[0, 0], [0, 0]]
        else:
            with pytest.raises(RunError, match="the length of a matrix is not that of its parts"):
                voc12aug.from_mat(path)


def test_what_matlab_itself_wrote_is_read() -> None:
    """Files of MATLAB 6 and 7, of both byte orders, which scipy carries for its own tests."""
    files = sorted(Path(scipy.io.__file__).parent.glob("matlab/tests/data/test*_[67].*.mat"))
    files = [path for path in files if not any(word in path.name for word in ("func", "hdf5", "object"))]
    assert len(files) > 40
    for path in files:
        whole = path.read_bytes()
        assert set(loadmat(io.BytesIO(measured(whole)))) == set(loadmat(io.BytesIO(whole))), path.name


def test_labels_written_through_a_linked_folder_are_told(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("rmrkd_cli.terminal.console.log", told.append)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (voc / "SegmentationClassAug").symlink_to(elsewhere)
    outcome = prepare(voc)
    assert outcome.exit_code == 0
    assert len(list(elsewhere.iterdir())) == 9
    link = voc / "SegmentationClassAug"
    assert f"note: `{link}` is a link: what is written there lies in `{elsewhere}`" in told


def test_a_bad_mat_file_keeps_no_other_from_being_made(voc: Path) -> None:
    bad = voc.parent.parent / "benchmark_RELEASE/dataset/cls/2007_aug001.mat"
    bad.write_bytes(bad.read_bytes()[:200])
    outcome = prepare(voc)
    assert (outcome.exit_code, outcome.message.splitlines()[0]) == (2, f"1 problem with `{voc}`:")
    assert f"`{bad}` is no .mat file" in outcome.message
    assert len(list((voc / "SegmentationClassAug").iterdir())) == 8


def test_names_of_a_list_may_not_lead_out_of_the_folder(voc: Path) -> None:
    (voc.parent.parent / "benchmark_RELEASE/dataset/train.txt").write_text("../../evil\n")
    outcome = prepare(voc)
    assert outcome.exit_code == 2
    assert "train.txt` line 1: the name '../../evil' points outside its folder" in outcome.message


def test_what_is_missing_is_shown_with_its_source(voc: Path, tmp_path: Path) -> None:
    outcome = rmrkd("data", "prepare", "voc12aug", "--data-root", voc)
    assert (outcome.exit_code, outcome.hint) == (2, "--sbd DIR names its folder benchmark_RELEASE")
    outcome = rmrkd("data", "prepare", "voc12aug", "--data-root", voc, "--sbd", tmp_path / "none")
    assert "cls/NAME.mat" in outcome.message
    assert "benchmark.tgz" in outcome.hint
    outcome = rmrkd("data", "prepare", "voc12aug", "--data-root", tmp_path / "none", "--sbd", tmp_path)
    assert "JPEGImages/NAME.jpg" in outcome.message
    assert "VOCtrainval" in outcome.hint
    outcome = rmrkd("data", "prepare", "camvid")
    assert (outcome.message, outcome.hint) == ("`camvid` needs no preparation", "rmrkd data check camvid")
    assert rmrkd("data", "prepare", "city", "--sbd", tmp_path).exit_code == 2
