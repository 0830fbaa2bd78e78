"""The user's cache folder, and files downloaded into it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from rmrkd_cli.errors import DownloadError, RmrkdError, RunError
from rmrkd_cli.storage.atomic import rename_synced
from rmrkd_cli.storage.download import (
    DOWNLOAD_ERRORS,
    Progress,
    cannot_write_cache,
    describe_failure,
    download,
    file_size,
    url_file_name,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock

HUNG_SECONDS = 120.0  # after which another process is given up whose partial file does not grow
_CHUNK = 1 << 20


def cache_dir() -> Path:
    """Return `$RMRKD_CACHE`, or the platform's cache folder for rmrkd."""
    chosen = os.environ.get("RMRKD_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("rmrkd"))


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cache_path(url: str) -> Path:
    """Return where the downloaded file of a URL is kept."""
    return cache_dir() / "checkpoints" / url_file_name(url)


def fetch(url: str, sha256: str, on_progress: Progress | None = None, hint: str = "") -> Path:
    """Return the file at `url`, downloaded once into the cache and compared with its SHA-256.

    An interrupted download is resumed by the next call. Of several processes that ask for the same file, one downloads
    it and the others wait.

    Args:
        url: An https address; the file keeps its last part as name.
        sha256: Hexadecimal SHA-256, or its first 8 or more digits.
        on_progress: Called with the bytes so far and the total bytes, 0 where the server does not say.
        hint: What else the user can do when the download fails.

    Raises:
        DownloadError: The download failed; the hint names where to save the file by hand.
        RmrkdError: The SHA-256 differs.
        RunError: The cache cannot be written, or the disk is full.
    """
    target, expected = cache_path(url), sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", expected):
        raise RmrkdError(f"`{sha256}` is not a SHA-256: expected 64 hexadecimal digits, or the first 8 or more of them")
    partial = target.with_name(f".{target.name}.{expected[:8]}.partial")
    try:
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with _download_lock(target, partial) as locked:
                if not os.path.lexists(target):
                    shared = locked and _may_continue(partial)
                    _download(url, expected, partial, target, on_progress, hint, shared=shared)
                    return target
    except OSError as error:
        raise cannot_write_cache(target.parent, error) from error
    _check_existing(target, expected)
    return target


@contextmanager
def _download_lock(target: Path, partial: Path) -> Iterator[bool]:
    """Wait until no other process downloads the file; yield whether this process has the lock.

    It has none on a file system without locks, with a lock file of another user, or when the other process hangs.
    """
    from filelock import FileLock

    # the cache may be shared: another user must be able to open the lock file, which stays
    lock = FileLock(target.with_name(f".{target.name}.lock"), mode=0o666, fallback_to_soft=False)
    try:
        locked = _acquire(lock, target.name, partial)
    except (OSError, NotImplementedError):
        locked = False
    try:
        yield locked
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, name: str, partial: Path) -> bool:
    from filelock import Timeout

    from rmrkd_cli.terminal.messages import log

    size = -1
    while True:
        try:
            lock.acquire(timeout=0 if size < 0 else HUNG_SECONDS, poll_interval=0.1)
            return True
        except Timeout:
            if size < 0:
                log(f"another process is downloading {name}; waiting for it")
            before, size = size, partial.stat().st_size if partial.exists() else 0
            if size == before:
                return False


def _download(
    url: str, expected: str, partial: Path, target: Path, on_progress: Progress | None, hint: str, *, shared: bool
) -> None:
    """Download into the partial file, and rename it to `target` when its hash is right.

    Args:
        shared: Use the partial file that the next process continues; otherwise one of this process, deleted at the end.
    """
    if not shared:
        partial = partial.with_name(f".{os.urandom(8).hex()}.partial")
    with FileIO(partial, "a", opener=_open_no_link) as stream:
        try:
            try:
                digest = _fill(stream, url, expected, partial, on_progress)
            except DOWNLOAD_ERRORS as error:
                kept = file_size(stream) if shared else 0
                raise DownloadError(url, describe_failure(error), str(target), hint, kept) from error
            if not digest.startswith(expected):
                stream.truncate(0)
                hint = f"the file at {url} changed or is damaged; run the command again"
                raise _wrong_hash(target, digest, expected, hint)
            rename_synced(partial, target)
        finally:
            if not (shared and file_size(stream)):
                partial.unlink(missing_ok=True)


def _may_continue(partial: Path) -> bool:
    """Return whether the partial file is missing or writable; in a shared cache it may be another user's."""
    return not os.path.lexists(partial) or os.access(partial, os.R_OK | os.W_OK)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)  # the folder may be shared with other users


def _fill(stream: FileIO, url: str, expected: str, partial: Path, on_progress: Progress | None) -> str:
    """Download what is missing of the partial file, and return its SHA-256."""
    if (digest := sha256_of(partial)).startswith(expected):  # the process was killed between download and rename
        return digest
    complete = download(url, stream, on_progress)
    digest = sha256_of(partial)
    if complete or digest.startswith(expected):
        return digest
    stream.truncate(0)  # the parts are of two versions of the file: download it once more
    download(url, stream, on_progress)
    return sha256_of(partial)


def _check_existing(target: Path, expected: str) -> None:
    """Check the hash of a file in the cache; it may be the user's own, so it is not deleted."""
    try:
        digest = sha256_of(target)
    except OSError as error:
        raise RunError(f"cannot read `{target}`: {error.strerror}", f"move `{target}` away") from error
    if not digest.startswith(expected):
        raise _wrong_hash(target, digest, expected, f"delete `{target}` and run the command again")


def _wrong_hash(target: Path, digest: str, expected: str, hint: str) -> RmrkdError:
    shown, wanted = (digits + "…" * (len(digits) < 64) for digits in (digest[: max(16, len(expected))], expected))
    return RmrkdError(f"`{target.name}` has the SHA-256 {shown}, expected {wanted}", hint)
