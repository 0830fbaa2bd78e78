from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.checkpoints.run_checkpoints import RunCheckpoints
from rmrkd_cli.errors import RmrkdError


def save(files: RunCheckpoints, iteration: int, *, best: bool = False, keep: int = 3) -> None:
    contents = {"meta": {}, "state_dict": {"a": torch.full((4,), float(iteration))}, "iteration": iteration}
    files.save(contents, iteration, best=best, keep=keep)


@pytest.fixture
def files(tmp_path: Path) -> RunCheckpoints:
    """Three checkpoints, the second of them the best."""
    files = RunCheckpoints(tmp_path)
    for iteration in (1, 2, 10):
        save(files, iteration, best=iteration == 2)
    return files


def iteration_of(path: Path | None) -> int:
    assert path is not None
    return int(read_checkpoint(path).rest["iteration"])


def spoil(path: Path) -> None:
    """In place, so that every name of the file is spoilt."""
    with path.open("rb+") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))


def test_only_checkpoints_beyond_keep_are_deleted(files: RunCheckpoints) -> None:
    save(files, 11, keep=2)
    assert [path.name for path in files.list_numbered()] == ["iter_11.pth", "iter_10.pth"]
    assert iteration_of(files.best) == 2
    assert files.last.samefile(files.folder / "iter_11.pth")


def test_a_disk_that_stores_other_bytes_is_found_before_a_file_is_replaced(
    files: RunCheckpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def badly(contents: object, path: Path) -> None:
        path.write_bytes(b"other bytes")

    monkeypatch.setattr("rmrkd_cli.checkpoints.digest.save_with_digest", badly)
    before = sorted(files.folder.iterdir())
    with pytest.raises(RmrkdError, match=r"iter_11\.pth` was damaged while it was written: it has no digest"):
        save(files, 11, keep=1)
    assert sorted(files.folder.iterdir()) == before


def test_a_deleted_name_loses_no_iteration(files: RunCheckpoints) -> None:
    """`last.pth` is the same file, after all."""
    (files.folder / "iter_10.pth").unlink()
    found = files.latest_valid(pytest.fail)
    assert iteration_of(found) == 10
    files.repair_links(found, 2, pytest.fail)
    assert iteration_of(files.last) == 10


def test_an_unreadable_file_is_skipped(files: RunCheckpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def fail(self: Path, *given: object, **named: object) -> object:
        if self.name == "iter_10.pth":
            raise OSError(5, "Input/output error")
        return opened(self, *given, **named)

    monkeypatch.setattr(Path, "open", fail)
    said: list[str] = []
    assert iteration_of(files.latest_valid(said.append)) == 2
    assert "Input/output error" in said[0]


def test_the_newest_checkpoint_is_found_by_its_number(files: RunCheckpoints) -> None:
    assert files.latest_valid(pytest.fail) == files.folder / "iter_10.pth"


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_renamed_and_the_previous_one_is_used(files: RunCheckpoints, harm: str) -> None:
    newest = files.folder / "iter_10.pth"
    if harm == "flip":
        spoil(newest)
    else:
        os.truncate(newest, newest.stat().st_size - 7 if harm == "cut" else 0)
    said: list[str] = []
    found = files.latest_valid(said.append)
    assert iteration_of(found) == 2
    assert len(said) == 1
    for name in ("iter_10.pth", "iter_10.pth.damaged", "iter_2.pth"):
        assert name in said[0]
    assert [path.name for path in files.list_numbered()] == ["iter_2.pth", "iter_1.pth"]
    files.repair_links(found, 2, said.append)
    assert iteration_of(files.last) == 2


def test_a_newer_copy_is_preferred_to_an_older_checkpoint(files: RunCheckpoints) -> None:
    """On a file system without hard links."""
    newest = files.folder / "iter_10.pth"
    contents = newest.read_bytes()
    files.last.unlink()
    files.last.write_bytes(contents)
    spoil(newest)
    assert iteration_of(files.latest_valid(lambda _: None)) == 10


def test_the_best_checkpoint_is_used_when_no_other_is_intact(files: RunCheckpoints) -> None:
    for iteration in (1, 10):
        spoil(files.folder / f"iter_{iteration}.pth")
    contents = files.best.read_bytes()
    (files.folder / "iter_2.pth").unlink()
    assert files.best.read_bytes() == contents
    assert iteration_of(files.latest_valid(lambda _: None)) == 2


def test_when_all_checkpoints_are_damaged_they_are_listed_and_kept(files: RunCheckpoints) -> None:
    for path in files.list_numbered():
        spoil(path)
    before = sorted(files.folder.iterdir())
    with pytest.raises(RmrkdError, match=r"all checkpoints in `.*` are damaged") as failure:
        files.latest_valid(pytest.fail)
    for name in ("iter_1.pth", "iter_2.pth", "iter_10.pth"):
        assert name in failure.value.message
    assert "--fresh" in failure.value.hint
    assert sorted(files.folder.iterdir()) == before


def test_a_run_without_checkpoints_is_no_error(tmp_path: Path) -> None:
    assert RunCheckpoints(tmp_path).latest_valid(pytest.fail) is None


def test_links_that_a_kill_prevented_are_made_on_resume(files: RunCheckpoints) -> None:
    """A kill right after `iter_11.pth`, which was the best so far."""
    last, best = files.last, files.best
    save(files, 11, best=True)
    for name, old in ((last, 10), (best, 2)):
        name.unlink()
        os.link(files.folder / f"iter_{old}.pth", name)
    found = files.latest_valid(pytest.fail)
    assert iteration_of(found) == 11
    files.repair_links(found, 11, pytest.fail)
    assert iteration_of(last) == iteration_of(best) == 11


def test_a_lost_best_checkpoint_is_reported_and_its_score_kept(files: RunCheckpoints) -> None:
    found = files.latest_valid(pytest.fail)
    spoil(files.best)
    said: list[str] = []
    files.repair_links(found, 2, said.append)
    assert "best checkpoint, of iteration 2, is lost" in said[0]
    assert not files.best.exists()


def test_partial_files_of_a_killed_run_are_deleted(files: RunCheckpoints) -> None:
    (files.folder / ".iter_11.pth.abc.partial").write_bytes(b"half")
    files.delete_partial()
    assert not list(files.folder.glob(".*"))


@pytest.mark.parametrize("linked", [True, False])
def test_links_are_copies_without_hard_links(
    files: RunCheckpoints, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    save(files, 11, best=True)
    save(files, 11, best=True)  # again, as after a stop during an evaluation
    assert iteration_of(files.last) == iteration_of(files.best) == 11
    assert files.last.samefile(files.best) == linked
    assert not list(files.folder.glob(".*"))
