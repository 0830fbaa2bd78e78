"""The user's cache folder, and files fetched into it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rmrkd_cli.errors import RmrkdError, RunError

_TIMEOUT = 20.0  # seconds without an answer
_CHUNK = 1 << 20


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


def write_beside(path: Path, contents: bytes) -> None:
    """Puts a file in place as a whole, replacing what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(contents)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def fetch(url: str, sha256: str, on_progress: Callable[[int, int], None] | None = None, hint: str = "") -> Path:
    """The file at `url`, downloaded once into the cache and checked before it gets its name.

    Args:
        url: An https address; the file keeps its last component as name.
        sha256: Hex digest, or its first 8 or more digits.
        on_progress: Called with (bytes so far, bytes in all, 0 when unknown).
        hint: What else the user can do when the address cannot be reached.

    Raises:
        RmrkdError: When there is no network (with the address, and where the file may be put), or on a wrong hash.
    """
    if not url.startswith("https://"):
        raise RmrkdError(f"`{url}` is not an https address")
    target = cache_dir() / "checkpoints" / url.rsplit("/", 1)[-1]
    if target.is_file():
        _check_hash(target, sha256, f"delete `{target}` and run the command again")
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".partial")
    except OSError as error:
        raise RunError(
            f"cannot write into the cache `{target.parent}`: {error.strerror}", "set RMRKD_CACHE to a folder of yours"
        ) from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            _download(url, out, on_progress)
            out.flush()
            os.fsync(out.fileno())
        _check_hash(partial, sha256, f"the file at {url} is not the one expected; run the command again")
        os.replace(partial, target)
    except (OSError, urllib.error.URLError) as error:
        status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
        reason = f"{status}{getattr(error, 'reason', None) or error}"
        raise RmrkdError(
            f"cannot download {url} ({reason})",
            f"with a browser elsewhere, save it as `{target}`" + (f"; or {hint}" if hint else ""),
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _download(url: str, out: object, on_progress: Callable[[int, int], None] | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "rmrkd"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if not answer.geturl().startswith("https://"):
            raise OSError("redirected to an address that is not https")
        total = int(answer.headers.get("Content-Length") or 0)
        done, started = 0, time.monotonic()
        while chunk := answer.read(_CHUNK):
            out.write(chunk)  # type: ignore[attr-defined]
            done += len(chunk)
            if on_progress:
                on_progress(done, total)
            if time.monotonic() - started > 60 and done < 60 * 1024:
                raise OSError("the server sends less than 1 KiB a second")
        if total and done != total:
            raise OSError(f"the connection ended after {done} of {total} bytes")


def _check_hash(path: Path, expected: str, hint: str) -> None:
    found = sha256_of(path)
    if not found.startswith(expected.lower()):
        raise RmrkdError(f"`{path.name}` has the SHA-256 {found[:16]}…, expected {expected}…", hint)
