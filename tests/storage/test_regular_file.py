"""Pipes, devices and endless files in a data set are errors that name the file, and nothing waits for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.check import check_dataset
from rmrkd_cli.data.check.findings import select_errors
from rmrkd_cli.data.image_io import header_size, inspect_image, read_image
from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.prepare.cityscapes import from_label_ids, from_polygons
from rmrkd_cli.data.prepare.new_files import CONFLICT, write_label_map, write_name_list
from rmrkd_cli.data.prepare.voc12aug import from_mat
from rmrkd_cli.data.samples import read_name_list
from rmrkd_cli.errors import CorruptFileError, RmrkdError, RunError
from rmrkd_cli.storage.regular_file import read_regular
from tests.data.check.test_check import info_of
from tests.helpers import trees
from tests.helpers.cli import rmrkd


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """Fail a test that waits, instead of hanging."""

    def ring(*_: object) -> None:
        raise TimeoutError("a read waited")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _link_to_zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "it is a pipe, not a regular file"),
    "device": (_link_to_zero, "it is a device, not a regular file"),
    "folder": (Path.mkdir, "Is a directory"),
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    make, reason = ODD[request.param]
    make(tmp_path / "odd")
    return tmp_path / "odd", reason


@pytest.mark.parametrize("read", [read_image, read_labels, inspect_image, header_size])
def test_an_image_must_be_a_regular_file(read: Callable[[Path], object], odd: tuple[Path, str]) -> None:
    path, reason = odd
    with pytest.raises(CorruptFileError) as caught:
        read(path)
    assert caught.value.message.startswith(f"`{path}` cannot be read as ")
    assert caught.value.message.endswith(reason)


@pytest.mark.parametrize("read", [read_name_list, from_polygons, from_label_ids, from_mat])
def test_other_files_must_be_regular_too(read: Callable[[Path], object], odd: tuple[Path, str]) -> None:
    path, reason = odd
    with pytest.raises(RmrkdError) as caught:
        read(path)
    assert f"`{path}`" in caught.value.message
    assert caught.value.message.endswith(reason)


def test_a_special_file_is_not_overwritten(odd: tuple[Path, str]) -> None:
    path, reason = odd
    for status, text in (write_name_list(["a"], path), write_label_map(np.zeros((2, 2), np.uint8), path)):
        assert status == CONFLICT
        assert reason in text


def test_the_check_reports_pipes_and_devices(tmp_path: Path) -> None:
    """In worker processes, which would wait forever."""
    root = trees.camvid(tmp_path / "tree")
    for name, make in (("train/0.png", os.mkfifo), ("trainannot/1.png", _link_to_zero)):
        (root / name).unlink()
        make(root / name)
    found = {
        f.file.removeprefix(f"{root}/"): f
        for f in select_errors(check_dataset(info_of("camvid", root), workers=2).findings)
    }
    assert {name: f.kind for name, f in found.items()} == {
        "train/0.png": "corrupt-image",
        "trainannot/1.png": "corrupt-label",
    }
    assert "is a pipe" in found["train/0.png"].text
    assert "is a device" in found["trainannot/1.png"].text


def test_a_list_that_is_a_pipe_is_a_finding(tmp_path: Path) -> None:
    root = trees.voc12aug(tmp_path / "tree")
    path = root / "ImageSets/Segmentation/val.txt"
    path.unlink()
    os.mkfifo(path)
    outcome = rmrkd("data", "check", "voc", "--data-root", root, "--split", "val", "--workers", 1)
    assert outcome.exit_code == 2
    assert "ImageSets/Segmentation/val.txt" in outcome.stdout
    assert "it is a pipe, not a regular file" in outcome.stdout


def test_files_are_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    assert read_regular(path, 100) == bytes(range(100))
    with pytest.raises(OSError, match="100 bytes are more than 99 bytes"):
        read_regular(path, 99)
    path.write_bytes(b"")
    assert read_regular(path, 0) == b""
    assert read_regular(Path("/proc/self/status"), 1 << 20).startswith(b"Name:")  # says that it has no bytes
    with pytest.raises(OSError, match="more than 20 bytes"):
        read_regular(Path("/proc/self/status"), 20)


def test_endless_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(RmrkdError, match="more than 64 MiB"):
        read_name_list(path)
    for read, most in ((read_labels, 512), (inspect_image, 512), (from_mat, 32), (from_polygons, 16)):
        with pytest.raises(RunError, match=f"1099511627776 bytes are more than {most} MiB"):
            read(path)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert read_image(tmp_path / "b.png").shape == (3, 4, 3)
    assert read_labels(tmp_path / "b.png").shape == (3, 4)


def test_any_line_end_separates_names(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa\rb\r\nc\n\nd")
    assert [(line.number, line.name) for line in read_name_list(tmp_path / "list")] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (5, "d"),
    ]
