"""One file over https: bounded in time and size, and continued after a lost connection."""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.partial_file import Partial

ANSWER_SECONDS = 20.0  # for the head of an answer, and between two bytes
SLOWEST = 10 << 10  # bytes a second
SLOW_SECONDS = 30.0  # over which that is measured
LARGEST = 8 << 30  # bytes
ATTEMPTS = 3
PAUSE_SECONDS = 1.0  # before the second attempt; longer before each further one
REDIRECTS = 5

FAILURES = (OSError, http.client.HTTPException)
_CHUNK = 1 << 20
_LONGEST_NAME = 200  # bytes; most file systems take 255, and the name of the unfinished file is longer
_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)")

Progress = Callable[[int, int], None]


class RefusedError(OSError):
    """An answer that another attempt would not make better."""


def file_name(url: str) -> str:
    """The last component of the address's path, as the name of a file.

    Raises:
        RmrkdError: When the address is none that is followed, or gives no plain name.
    """
    problem = _problem(url)
    if problem:
        raise RmrkdError(f"`{url}` {problem}")
    try:
        name = unquote(urlsplit(url).path.rsplit("/", 1)[-1], errors="strict")
    except UnicodeDecodeError:
        name = ""
    if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > _LONGEST_NAME:
        raise RmrkdError(
            f"`{url}` does not end with a file name",
            f"its last part must be up to {_LONGEST_NAME} letters, digits, `-`, `_`, `.` or `+`",
        )
    return name


def download(url: str, into: Partial, on_progress: Progress | None = None) -> bool:
    """Fills a file from where it ends.

    Args:
        on_progress: Called with (bytes so far, bytes in all, 0 when unknown).

    Returns:
        Whether it is sure to be whole: of one answer, which had the length that was announced. Otherwise its parts may
        be of two versions.

    Raises:
        RunError: When the disk takes no more.
        FAILURES: Everything else; what came until then stays in the file.
    """
    came = 0

    def progress(done: int, total: int, more: int) -> None:
        nonlocal came
        came += more
        if on_progress:
            on_progress(done, total)

    attempt = 1
    while True:
        try:
            return _attempt(url, into, progress)
        except FAILURES as error:
            lasting = isinstance(error, RefusedError) or (
                isinstance(error, urllib.error.HTTPError) and error.code < 500
            )
            if lasting or not came or attempt >= ATTEMPTS:  # without a network there is no point in waiting
                raise
        time.sleep(PAUSE_SECONDS * attempt)
        attempt += 1


def reason_of(error: BaseException) -> str:
    """In words; what a server sent as its reason is not repeated."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {http.client.responses.get(error.code, '')}".rstrip()
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {ANSWER_SECONDS:g} s"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection ended in the middle"
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return said or type(cause).__name__


def _problem(url: str) -> str:
    """What keeps an address from being followed; empty for a good one."""
    if not url.lower().startswith("https://"):
        return "is not an https address"
    if re.search(r"[\x00-\x20\x7f-\x9f\\]", url):
        return "holds characters that no address may hold"
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        return "names no host"
    return "holds a user's name" if "@" in parts.netloc else ""


def _attempt(url: str, into: Partial, progress: Callable[[int, int, int], None]) -> bool:
    answer, start, total = _ask(url, into.size)
    with answer:
        if total > LARGEST:
            raise RefusedError(f"the server announces {total} bytes, more than {LARGEST}")
        into.begin_at(start, total - start if total else 0)
        done = start
        while not total or done < total:
            chunk = answer.read1(min(_CHUNK, total - done) if total else _CHUNK)
            if not chunk:
                break
            if done + len(chunk) > LARGEST:
                raise RefusedError(f"the server sends more than {LARGEST} bytes")
            into.write(chunk)
            done += len(chunk)
            progress(done, total, len(chunk))
    if done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")
    return start == 0 and total > 0


def _ask(url: str, have: int) -> tuple[http.client.HTTPResponse, int, int]:
    """An answer with the byte it starts at, and the size of the whole file, 0 when unknown.

    No `If-Range`: whether the parts fit together is told by the hash.
    """
    headers = {"User-Agent": "rmrkd", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = _opener().open(urllib.request.Request(url, headers=headers), timeout=ANSWER_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return _ask(url, 0)
        raise
    except ValueError as error:  # the address of a proxy, or one that was redirected to
        raise RefusedError(str(error)) from error
    if answer.status == 200:
        return answer, 0, answer.length or 0
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if have and answer.status == 206 and found and int(found[1]) == have:
        return answer, have, int(found[2]) + 1 if found[3] == "*" else int(found[3])
    answer.close()
    if have and answer.status == 206:  # another range than asked for
        return _ask(url, 0)
    raise RefusedError(f"HTTP {answer.status} where 200 was expected")


def _opener() -> urllib.request.OpenerDirector:
    """Knows https alone, through the proxy of the environment where that names one."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        _Https(),
    ):
        opener.add_handler(handler)
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Only to https addresses, and before anything is asked of another one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        fp.close()  # its body is of no interest, and may be endless
        problem = _problem(newurl)
        if problem:
            raise RefusedError(f"redirected to `{newurl}`, which {problem}")
        followed = getattr(req, "redirect_dict", {})
        if newurl in (req.full_url, *followed) or len(followed) >= REDIRECTS:
            raise RefusedError(f"redirected in a circle, or more than {REDIRECTS} times")
        return super().redirect_request(req, fp, code if code != 308 else 307, msg, headers, newurl)

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # Python 3.10 lacks it


class _Raw(io.RawIOBase):
    """A connection's bytes, for as long as they come fast enough."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.head_until: float | None = time.monotonic() + ANSWER_SECONDS
        self._waited = 0.0
        self._came = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        now = time.monotonic()
        if self.head_until is not None:
            if now > self.head_until:
                raise TimeoutError
            return count
        self._waited += now - began  # for the server: what writing takes is not its fault
        self._came += count or 0
        if self._waited >= SLOW_SECONDS:
            if self._came < SLOWEST * self._waited:
                raise RefusedError(f"the server sends less than {SLOWEST} bytes a second")
            self._waited, self._came = 0.0, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._bounded = _Raw(self.fp.detach())
        self.fp = io.BufferedReader(self._bounded)

    def begin(self) -> None:
        super().begin()
        self._bounded.head_until = None


class _Connection(http.client.HTTPSConnection):
    response_class = _Response


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req, context=ssl.create_default_context())
