"""Tar archives of strangers: every file is found as `tarfile` finds it, and what is unsafe is refused by name."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rmrkd_cli.data import tar_scan
from rmrkd_cli.data.tar_scan import TarError, scan_tar

LONG = "/".join(["folder" * 8] * 5) + "/name.jpg"  # longer than a plain header holds


def add(archive: tarfile.TarFile, name: str, data: bytes = b"data", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


def write(path: Path, *entries: dict[str, object], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for entry in entries:
            add(archive, **entry)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_are_those_of_tarfile(format: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "a.jpg",
        "town/b.png",
        "x" * 99,
        "x" * 100,
        LONG[-150:] if format == tarfile.USTAR_FORMAT else LONG,
        "é.jpg",
    ]
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w", format=format) as archive:
        for number, name in enumerate(names):
            add(archive, name, bytes(number * 300), mtime=1.5 if format == tarfile.PAX_FORMAT and number % 2 else 1)
        add(archive, "town", b"", type=tarfile.DIRTYPE)
        add(archive, "last.jpg", b"end")
    with tarfile.open(path) as archive:
        expected = [(member.name, member.offset_data, member.size) for member in archive if member.isfile()]
    assert list(scan_tar(path)) == expected
    monkeypatch.setattr(tar_scan, "_read_plain", lambda *_: None)  # by `tarfile` alone
    assert list(scan_tar(path)) == expected


def test_plain_headers_need_no_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tar", {"name": "a.jpg"}, {"name": "b.jpg", "data": b""})
    monkeypatch.setattr(tar_scan, "_open", lambda _: pytest.fail("a plain header was left to tarfile"))
    assert [entry.name for entry in scan_tar(path)] == ["a.jpg", "b.jpg"]


def test_names_of_a_packed_folder_lose_their_dot(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"name": "./a.jpg"}, {"name": "./town//b.jpg"})
    assert [entry.name for entry in scan_tar(path)] == ["a.jpg", "town/b.jpg"]


def test_a_global_header_holds_for_all_files_after_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "same.jpg"}) as archive:
        add(archive, "a.jpg")
        add(archive, "b.jpg")
    with pytest.raises(TarError, match=r"contains `same\.jpg` twice"):
        list(scan_tar(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "/etc/a.jpg"}, "the name '/etc/a.jpg' is an absolute path"),
        ({"name": "../a.jpg"}, "the name '../a.jpg' points outside its folder"),
        ({"name": "b/../../a.jpg"}, "points outside its folder"),
        ({"name": "..\\a.jpg"}, "points outside its folder"),
        ({"name": "C:/a.jpg"}, "is an absolute path"),
        ({"name": "a.jpg", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "'a.jpg' is a link to '/etc/passwd'"),
        ({"name": "a.jpg", "type": tarfile.LNKTYPE, "linkname": "b.jpg"}, "'a.jpg' is a link to 'b.jpg'"),
        ({"name": "a.jpg", "type": tarfile.CHRTYPE}, "'a.jpg' is a device"),
        ({"name": "a.jpg", "type": tarfile.BLKTYPE}, "'a.jpg' is a device"),
        ({"name": "a.jpg", "type": tarfile.FIFOTYPE}, "'a.jpg' is a pipe"),
        ({"name": "a.jpg", "type": tarfile.GNUTYPE_SPARSE}, "'a.jpg' is a sparse file"),
        ({"name": "a.jpg", "type": b"Q"}, "'a.jpg' is of the unknown type b'Q'"),
        ({"name": "x.jpg"}, "contains `x.jpg` twice"),
        ({"name": "./x.jpg"}, "contains `x.jpg` twice"),
    ],
)
def test_unsafe_entries_are_refused_by_name(entry: dict[str, object], problem: str, tmp_path: Path) -> None:
    path = write(tmp_path / "shard.tar", {"name": "x.jpg"}, entry)
    with pytest.raises(TarError) as caught:
        list(scan_tar(path))
    assert str(path) in caught.value.message
    assert problem in caught.value.message
    assert caught.value.hint


def change(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(edit(path.read_bytes()))
    return path


def with_size(header: bytes, size: bytes) -> bytes:
    """Return a header with another size and the right checksum."""
    header = header[:124] + size + header[136:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda data: with_size(data[:512], b"77777777777\0") + data[512:], "claims 8589934591 bytes, and the"),
        (lambda data: with_size(data[:512], b"\x80\0\0\0" + b"\x7f" * 8) + data[512:], "claims 9187201950435737471"),
        (lambda data: with_size(data[:512], b"\xff" * 12) + data[512:], "has a negative size"),
        (lambda data: data[:200], "is incomplete: it ends after 200 bytes"),
        (lambda data: data[:700], "claims 600 bytes, and the archive has 188"),
        (lambda data: data[:1536], "is incomplete: it ends after 1536 bytes, without an end mark"),
        (lambda data: b"\1" + data[1:], "has a damaged header at byte 0"),
        (lambda data: b"\x1f\x8b" + data, "is compressed: its files cannot be read in random order"),
        (lambda data: b"", "is incomplete: it ends after 0 bytes"),
        (lambda data: b"no archive, but text " * 40, "has a damaged header at byte 0"),
    ],
)  # fmt: skip
def test_damaged_archives_are_refused(edit: Callable[[bytes], bytes], problem: str, tmp_path: Path) -> None:
    path = change(write(tmp_path / "shard.tar", {"name": "a.jpg", "data": bytes(600)}), edit)
    with pytest.raises(TarError) as caught:
        list(scan_tar(path))
    assert f"`{path}`" in caught.value.message
    assert problem in caught.value.message


def test_a_giant_extended_header_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "shard.tar", {"name": "a.jpg", "type": tarfile.XHDTYPE})
    change(path, lambda data: with_size(data[:512], b"00100000000\0") + bytes(1 << 24))
    with pytest.raises(TarError, match="an extended header of 16777216 bytes is more than 1048576"):
        list(scan_tar(path))


def test_missing_files_and_pipes_are_named(tmp_path: Path) -> None:
    with pytest.raises(TarError, match=r"none\.tar` cannot be read: No such file"):
        list(scan_tar(tmp_path / "none.tar"))
    with pytest.raises(TarError, match="cannot be read: Is a directory"):
        list(scan_tar(tmp_path))
