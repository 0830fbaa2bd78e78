"""The user's cache folder, and files fetched into it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.storage.download import FAILURES, download, file_name, reason_of
from rmrkd_cli.storage.partial_file import Partial, cannot_write, partial_for

_CHUNK = 1 << 20
Progress = Callable[[int, int], None]


def cache_dir() -> Path:
    """`$RMRKD_CACHE`, or the platform's cache folder for rmrkd."""
    chosen = os.environ.get("RMRKD_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("rmrkd"))


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cached(url: str) -> Path | None:
    """The file of an address, where it was fetched before."""
    target = _place_of(url)
    return target if target.is_file() else None


def _place_of(url: str) -> Path:
    return cache_dir() / "checkpoints" / file_name(url)


def fetch(url: str, sha256: str, on_progress: Progress | None = None, hint: str = "") -> Path:
    """The file at `url`, downloaded once into the cache and checked before it gets its name.

    What came before a connection was lost, or the process ended, is kept beside it, and the next attempt goes on from
    there. Of several processes that ask for the same file one downloads it, and the others wait.

    Args:
        url: An https address; the file keeps its last component as name.
        sha256: Hex digest, or its first 8 or more digits.
        on_progress: Called with (bytes so far, bytes in all, 0 when unknown).
        hint: What else the user can do when the address cannot be reached.

    Raises:
        RmrkdError: When there is no network (with the address, and where the file may be put), or on a wrong hash.
        RunError: When the cache cannot be written, or the disk has no room.
    """
    target = _place_of(url)
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", sha256):
        raise RmrkdError(f"`{sha256}` is not a SHA-256: 64 hexadecimal digits, or the first 8 or more of them")
    try:
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial_for(target, sha256[:8].lower()) as partial:
                if partial is not None:
                    _fill(partial, url, sha256.lower(), on_progress, target, hint)
                    partial.place(target)
                    return target
    except OSError as error:
        raise cannot_write(target.parent, error) from error
    _check_present(target, sha256.lower())
    return target


def _fill(partial: Partial, url: str, expected: str, on_progress: Progress | None, target: Path, hint: str) -> None:
    """Until the hash is right: what was put together of parts gets a second chance, from the start."""
    if partial.size and partial.sha256().startswith(expected):  # ended between the last byte and the new name
        return
    try:
        sure = download(url, partial, on_progress)
        if not sure and not partial.sha256().startswith(expected):
            partial.begin_at(0, 0)
            download(url, partial, on_progress)
    except FAILURES as error:
        raise _cannot_download(url, error, partial, target, hint) from error
    found = partial.sha256()
    if not found.startswith(expected):
        partial.remove()
        again = f"the file at {url} is not the one expected; run the command again"
        raise _wrong_hash(target, found, expected, again)


def _cannot_download(url: str, error: BaseException, partial: Partial, target: Path, hint: str) -> RmrkdError:
    kept = f"; the same command goes on after the first {partial.size} bytes" if partial.kept and partial.size else ""
    return RmrkdError(
        f"cannot download {url} ({reason_of(error)})",
        f"with a browser elsewhere, save it as `{target}`" + (f"; or {hint}" if hint else "") + kept,
    )


def _check_present(target: Path, expected: str) -> None:
    """A user's own file is never removed."""
    try:
        found = sha256_of(target)
    except OSError as error:
        raise RunError(f"cannot read `{target}`: {error.strerror}", f"move `{target}` away") from error
    if not found.startswith(expected):
        raise _wrong_hash(target, found, expected, f"delete `{target}` and run the command again")


def _wrong_hash(target: Path, found: str, expected: str, hint: str) -> RmrkdError:
    shown, wanted = (digits + "…" * (len(digits) < 64) for digits in (found[: max(16, len(expected))], expected))
    return RmrkdError(f"`{target.name}` has the SHA-256 {shown}, expected {wanted}", hint)
