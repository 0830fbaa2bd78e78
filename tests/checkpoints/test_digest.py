from __future__ import annotations

import resource
import zipfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmrkd_cli.checkpoints.digest import find_damage
from rmrkd_cli.checkpoints.reader import read_checkpoint, save_torch
from rmrkd_cli.errors import RmrkdError, RunError
from tests.helpers.forked import server

CONTENTS = {"meta": {"a": 1}, "state_dict": {"weight": torch.arange(300.0), "bias": torch.ones(3)}}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "last.pth"
    save_torch(CONTENTS, path)
    return path


def changed(sealed: Path, contents: bytes) -> Path:
    path = sealed.with_name("changed.pth")
    path.write_bytes(contents)
    return path


def test_a_sealed_file_is_a_plain_torch_file(sealed: Path) -> None:
    assert find_damage(sealed, required=True) == ""
    for mapped in (False, True):
        loaded = torch.load(sealed, weights_only=True, mmap=mapped)
        assert torch.equal(loaded["state_dict"]["weight"], CONTENTS["state_dict"]["weight"])
    assert zipfile.ZipFile(sealed).testzip() is None


@given(data=st.data())
def test_any_flipped_bit_is_found(sealed: Path, data: st.DataObject) -> None:
    contents = bytearray(sealed.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(contents) - 1))
    contents[bit // 8] ^= 1 << bit % 8
    assert find_damage(changed(sealed, bytes(contents)), required=True)


@given(data=st.data())
def test_any_truncation_is_found(sealed: Path, data: st.DataObject) -> None:
    contents = sealed.read_bytes()
    kept = data.draw(st.integers(0, len(contents) - 1))
    assert find_damage(changed(sealed, contents[:kept]), required=True)


@given(data=st.binary(max_size=300))
def test_random_bytes_have_no_valid_digest(sealed: Path, data: bytes) -> None:
    assert find_damage(changed(sealed, data), required=True)


def test_files_without_a_digest_are_read(tmp_path: Path) -> None:
    torch.save(CONTENTS, tmp_path / "other.pth")
    assert find_damage(tmp_path / "other.pth") == ""
    assert "no digest" in find_damage(tmp_path / "other.pth", required=True)
    assert read_checkpoint(tmp_path / "other.pth").meta == {"a": 1}


@pytest.mark.parametrize("lazy", [False, True])
def test_a_damaged_file_that_torch_would_load_is_rejected(sealed: Path, lazy: bool) -> None:
    contents = bytearray(sealed.read_bytes())
    contents[contents.index(torch.tensor(17.0).numpy().tobytes())] ^= 1
    path = changed(sealed, bytes(contents))
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["weight"], torch.arange(300.0))
    with pytest.raises(RmrkdError, match=r"changed\.pth` is damaged: its bytes have the digest"):
        read_checkpoint(path, lazy=lazy)


def test_equal_contents_give_equal_bytes(sealed: Path, tmp_path: Path) -> None:
    save_torch(CONTENTS, tmp_path / "other name.pth")
    assert (tmp_path / "other name.pth").read_bytes() == sealed.read_bytes()


def fail_to_save(path: Path, told: Connection) -> None:
    """In a process of its own, which keeps the limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        save_torch({"state_dict": {"a": torch.zeros(1_000_000)}}, path)
    except RunError as error:
        told.send(f"{error.message} {error.hint}")


def test_an_incomplete_write_keeps_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails halfway with the system's own error."""
    path = tmp_path / "last.pth"
    save_torch(CONTENTS, path)
    before = path.read_bytes()
    ours, theirs = server().Pipe()
    process = server().Process(target=fail_to_save, args=(path, theirs), daemon=True)
    process.start()
    theirs.close()
    told = ours.recv()
    process.join()
    assert f"cannot write `{path}`: File too large" in told
    assert "MB are free there" in told
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
