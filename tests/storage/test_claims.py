from __future__ import annotations

import multiprocessing
from pathlib import Path

from rmrkd_cli.storage import claims
from rmrkd_cli.storage.claims import Claims


def _take(path: Path, numbers: list[int], connection: object) -> None:
    with Claims(path) as own:
        connection.send([own.take(number) for number in numbers])  # type: ignore[attr-defined]
        connection.recv()  # type: ignore[attr-defined]


def _other(path: Path, numbers: list[int]) -> tuple[object, object, list[bool]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_take, args=(path, numbers, theirs))
    process.start()
    return process, ours, ours.recv()


def test_a_number_belongs_to_one_process_until_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "claims"
    with Claims(path) as own:
        assert own.take(3)
        process, pipe, taken = _other(path, [2, 3, 2**40])
        assert taken == [True, False, True]
        assert not own.take(2)
        process.kill()  # type: ignore[attr-defined]
        process.join()  # type: ignore[attr-defined]
        assert own.take(2)
        own.give_back(3)
        process, pipe, taken = _other(path, [3])
        assert taken == [True]
        pipe.send(None)  # type: ignore[attr-defined]
        process.join()  # type: ignore[attr-defined]


def test_without_locks_every_claim_is_granted(tmp_path: Path, monkeypatch: object) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(claims.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(claims.fcntl, "lockf", no_locks)  # type: ignore[attr-defined]
    with Claims(tmp_path / "claims") as own:
        assert own.take(0)
        own.give_back(0)
