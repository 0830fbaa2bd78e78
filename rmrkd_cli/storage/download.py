"""Download one file over https, with limits on time and size, and resume it after a lost connection."""

from __future__ import annotations

import errno
import http.client
import os
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rmrkd_cli.errors import RmrkdError, RunError

ANSWER_SECONDS = 20.0  # for the header of an answer, and between two bytes of its body
MIN_SPEED = 10 << 10  # bytes per second,
SPEED_SECONDS = 30.0  # measured over this time
MAX_BYTES = 8 << 30
MAX_OVERHEAD = 16 << 20  # bytes, beyond as many as the file has, for the headers and trailers of chunks
ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # before the second attempt; doubled before the third
DOWNLOAD_ERRORS = (OSError, http.client.HTTPException)
_CHUNK = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_NAME_BYTES = 200  # most file systems allow 255, and the partial file has a longer name
_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")
_CACHE_HINT = "choose another cache folder with RMRKD_CACHE=DIR"

Progress = Callable[[int, int], None]


class RejectedError(OSError):
    """An answer that another attempt would not improve."""


class _RestartError(OSError):
    """The server cannot continue the partial file."""


def url_file_name(url: str) -> str:
    """Return the last part of a URL's path, as a file name.

    Raises:
        RmrkdError: The URL is not a valid https address, or its path does not end with a file name.
    """
    if problem := _find_url_problem(url):
        raise RmrkdError(f"`{url}` {problem}")
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1], errors="replace")
    if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > _MAX_NAME_BYTES:
        raise RmrkdError(
            f"`{url}` does not end with a file name",
            f"the last part must be up to {_MAX_NAME_BYTES} letters, digits, `-`, `_`, `.` or `+`",
        )
    return name


def download(url: str, stream: FileIO, on_progress: Progress | None = None) -> bool:
    """Append what is missing of the file at `url`, in up to `ATTEMPTS` attempts.

    Args:
        stream: Opened in append mode; it holds the bytes of earlier attempts.
        on_progress: Called with the bytes so far and the total bytes, 0 where the server does not say.

    Returns:
        True where all bytes are of one answer with a known length. Otherwise they may be of two versions of the file,
        or incomplete.

    Raises:
        RunError: The disk is full, or cannot be written.
        DOWNLOAD_ERRORS: Any other failure; the stream keeps the bytes received so far.
    """
    received, attempt = False, 1

    def progress(done: int, total: int) -> None:
        nonlocal received
        received = True
        if on_progress:
            on_progress(done, total)

    while True:
        try:
            return _transfer(url, stream, progress)
        except _RestartError:
            stream.truncate(0)
            continue
        except DOWNLOAD_ERRORS as error:
            temporary = not isinstance(error, (RejectedError, urllib.error.HTTPError)) or (
                isinstance(error, urllib.error.HTTPError) and error.code >= 500
            )
            if not temporary or not received or attempt == ATTEMPTS:
                raise
        time.sleep(PAUSE_SECONDS * attempt)
        attempt += 1


def describe_failure(error: BaseException) -> str:
    """Return the cause of a failed download in words, without text that the server sent."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {http.client.responses.get(error.code, '')}".rstrip()
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {ANSWER_SECONDS:g} s"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection was closed early"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return text or type(cause).__name__


def cannot_write_cache(folder: Path, error: OSError) -> RunError:
    return RunError(f"cannot write into the cache `{folder}`: {error.strerror or error}", _CACHE_HINT)


def _transfer(url: str, stream: FileIO, on_progress: Progress) -> bool:
    size = file_size(stream)
    with _request(url, size) as answer:
        start, total = _content_range(answer, size)
        if total > MAX_BYTES:
            raise RejectedError(f"the server announces {total} bytes, the limit is {MAX_BYTES}")
        stream.truncate(start)
        _check_disk(_folder(stream), total - start)
        done = start
        while not total or done < total:
            chunk = answer.read1(_CHUNK)
            if not chunk:
                break
            if done + len(chunk) > MAX_BYTES:
                raise RejectedError(f"the server sends more than {MAX_BYTES} bytes")
            _write(stream, chunk)
            done += len(chunk)
            answer.socket.file_bytes += len(chunk)  # type: ignore[attr-defined]
            on_progress(done, total)
    if done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")
    return start == 0 and total > 0


def _request(url: str, start: int) -> http.client.HTTPResponse:
    """Open the URL from byte `start`; there is no `If-Range`, since the file's hash is compared at the end."""
    headers = {"User-Agent": "rmrkd", **({"Range": f"bytes={start}-"} if start else {})}
    context = ssl.create_default_context()
    context.sslsocket_class = _Socket
    opener = urllib.request.build_opener(_Redirects(), _HttpsHandler(context=context))
    try:
        answer: http.client.HTTPResponse = opener.open(
            urllib.request.Request(url, headers=headers), timeout=ANSWER_SECONDS
        )
        return answer
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            raise _RestartError from error
        raise
    except ValueError as error:  # an invalid address of a proxy, or of a redirection
        raise RejectedError(str(error)) from error


def _content_range(answer: http.client.HTTPResponse, start: int) -> tuple[int, int]:
    """Return the byte that the answer starts at, and the size of the whole file, 0 where it is unknown."""
    if answer.status == http.HTTPStatus.OK:
        return 0, answer.length or 0
    if not start or answer.status != http.HTTPStatus.PARTIAL_CONTENT:
        raise RejectedError(f"HTTP {answer.status} instead of 200")
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != start:
        raise _RestartError
    return start, int(found[2]) + 1 if found[3] == "*" else int(found[3])


def _write(stream: FileIO, chunk: bytes) -> None:
    remaining = memoryview(chunk)
    try:
        while remaining:
            remaining = remaining[stream.write(remaining) :]
    except OSError as error:
        if error.errno in _DISK_FULL:
            stream.truncate(0)  # frees the full disk
        raise cannot_write_cache(_folder(stream), error) from error


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"`{folder}` has {free / 1e6:.1f} MB free, the download needs {needed / 1e6:.1f} MB more",
            f"free some space there, or {_CACHE_HINT}",
        )


def file_size(stream: FileIO) -> int:
    return os.fstat(stream.fileno()).st_size


def _folder(stream: FileIO) -> Path:
    return Path(os.fsdecode(stream.name)).parent


def _find_url_problem(url: str) -> str:
    """Return why a URL is not a valid https address, or ""."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if not url.lower().startswith("https://"):
        return "is not an https address"
    if not has_host or "@" in parts.netloc or re.search(r"[\x00-\x20\x7f-\x9f\\]", url):
        return "is not a valid https address without a user name"
    return ""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to https addresses only."""

    max_redirections = 5
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        fp.close()  # urllib would read the body, which may be endless
        if problem := _find_url_problem(newurl):
            raise RejectedError(f"redirected to `{newurl}`, which {problem}")
        return super().redirect_request(req, fp, code if code != 308 else 307, msg, headers, newurl)

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # missing in Python 3.10


class _Socket(ssl.SSLSocket):
    """Measure the speed at which the body arrives, with the headers and trailers of its chunks."""

    in_body = False
    file_bytes = 0  # of the body, without the headers and trailers of its chunks
    _total = 0
    _waited = 0.0  # for the server; writing to the disk is not included
    _received = 0

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        began = time.monotonic()
        count = super().recv_into(buffer, nbytes, flags)
        if self.in_body:
            self._waited += time.monotonic() - began
            self._received += count
            self._total += count
            if self._total > 2 * self.file_bytes + MAX_OVERHEAD:
                raise RejectedError("the server sends more chunk headers and trailers than file")
            if self._waited >= SPEED_SECONDS:
                if self._received < MIN_SPEED * self._waited:
                    raise RejectedError(f"the server sends less than {MIN_SPEED} bytes a second")
                self._waited, self._received = 0.0, 0
        return count


class _Connection(http.client.HTTPSConnection):
    sock: _Socket

    def getresponse(self) -> http.client.HTTPResponse:
        """Read the header; close the connection where it is not complete in time, however it arrives."""
        expired = threading.Event()
        timer = threading.Timer(ANSWER_SECONDS, self._expire, [expired])
        timer.daemon = True
        timer.start()
        connected = self.sock  # super().getresponse() may set it to None
        try:
            answer = super().getresponse()
            connected.in_body = True
            answer.socket = connected  # type: ignore[attr-defined]
            return answer
        except DOWNLOAD_ERRORS as error:
            if expired.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()

    def _expire(self, expired: threading.Event) -> None:
        expired.set()
        if self.sock is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # SSLSocket's would drop the TLS state in use


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req, context=self._context)  # type: ignore[attr-defined]
