"""The log of a run that cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rmrkd_cli.errors import RunError
from rmrkd_cli.training.run_directory import RunDir


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EMFILE])
def test_a_log_that_cannot_be_opened_is_reported_with_the_reason(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.append_log({"iter": 1})

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(os, "truncate", fail)
    with pytest.raises(RunError, match=f"cannot write `.*log.jsonl`: {os.strerror(number)}"):
        run_dir.append_log({"iter": 2})
    monkeypatch.undo()
    assert run_dir.log.read_text() == '{"iter": 1}\n'


def test_a_folder_in_place_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(RunError, match=r"cannot write `.*log\.jsonl`: Is a directory"):
        RunDir(tmp_path).append_log({"iter": 1})


def test_an_incomplete_line_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.append_log({"iter": 1})
    real = Path.open

    def full(path: Path, *arguments: object, **options: object) -> object:
        stream = real(path, *arguments, **options)  # type: ignore[arg-type,call-overload]
        write = stream.write

        def half(text: str) -> None:
            write(text[: len(text) // 2])
            stream.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        stream.write = half
        return stream

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match="No space left on device"):
        run_dir.append_log({"iter": 2})
    monkeypatch.undo()
    assert run_dir.log.read_text() == '{"iter": 1}\n'
