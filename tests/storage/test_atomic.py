from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rmrkd_cli.errors import RunError
from rmrkd_cli.storage.atomic import atomic_path, create_bytes, link_or_copy, save_atomic, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    write_text("before", path)

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(RunError, match="No space left") as failure:
        save_atomic(fail, path)
    assert failure.value.exit_code == 1
    assert (path.read_text(), names(tmp_path)) == ("before", ["last.pth"])


def test_a_damaged_file_does_not_get_its_name(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    write_text("before", path)
    with pytest.raises(RunError, match=r"last\.pth` was damaged while it was written: 3 bytes"):
        save_atomic(lambda p: p.write_bytes(b"abc"), path, lambda partial: f"{partial.stat().st_size} bytes")
    assert (path.read_text(), names(tmp_path)) == ("before", ["last.pth"])


def test_parents_are_made_and_the_mode_is_that_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(b"x", tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o640


def test_writing_leaves_the_umask_of_other_threads_alone(tmp_path: Path) -> None:
    """Another thread's files, as TensorBoard's, must not become writable for everybody meanwhile."""
    ended = threading.Event()

    def write() -> None:
        for _ in range(200):
            write_bytes(b"x", tmp_path / "ours")
        ended.set()

    before = os.umask(0o077)
    thread = threading.Thread(target=write)
    try:
        thread.start()
        other, modes = tmp_path / "theirs", set()
        while not ended.is_set():
            other.unlink(missing_ok=True)
            other.touch()
            modes.add(stat.S_IMODE(other.stat().st_mode))
    finally:
        thread.join()
        os.umask(before)
    assert modes == {0o600}


def test_an_existing_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert create_bytes(b"first", path)
    assert not create_bytes(b"second", path)
    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["a"])
    with pytest.raises(FileExistsError), atomic_path(path, overwrite=False):
        pass
    with pytest.raises(OSError, match="a"):
        create_bytes(b"below a file", path / "b")


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    assert create_bytes(b"first", tmp_path / "a")
    assert not create_bytes(b"second", tmp_path / "a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert ((tmp_path / "b").read_bytes(), names(tmp_path)) == (b"first", ["a", "b"])


def test_a_second_name_is_replaced_in_one_move(tmp_path: Path) -> None:
    for text in ("one", "two", "two"):
        write_text(text, tmp_path / text)
        link_or_copy(tmp_path / text, tmp_path / "last")
        assert (tmp_path / "last").read_text() == text
    link_or_copy(tmp_path / "two", tmp_path / "last")  # has that name already
    assert (tmp_path / "one").read_text() == "one"
    assert names(tmp_path) == ["last", "one", "two"]


def _fails_for_folders(number: int) -> Callable[[int], None]:
    fsync = os.fsync

    def replaced(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    return replaced


def test_a_file_system_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CIFS answers; a failing disk is another matter."""
    monkeypatch.setattr(os, "fsync", _fails_for_folders(errno.EINVAL))
    write_text("x", tmp_path / "a")
    monkeypatch.setattr(os, "fsync", _fails_for_folders(errno.EIO))
    with pytest.raises(RunError, match="cannot write"):
        write_text("x", tmp_path / "a")
