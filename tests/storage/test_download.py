"""Downloads from servers that behave well and badly."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.storage import cache, download
from tests.helpers.https import CONTENT, DIGEST, HALF, OTHER, Server, proxy, serving

TAG = DIGEST[:8]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose authority is trusted, an empty cache, and short times."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))
    for name, value in {"ANSWER_SECONDS": 0.4, "SPEED_SECONDS": 0.3, "PAUSE_SECONDS": 0.01}.items():
        monkeypatch.setattr(download, name, value)
    with serving(tmp_path) as running:
        yield running


def folder() -> Path:
    return cache.cache_dir() / "checkpoints"


def files() -> list[str]:
    """Names in the cache; lock files are empty and may stay."""
    found = list(folder().iterdir()) if folder().is_dir() else []
    return sorted(path.name for path in found if path.suffix != ".lock")


def leave_partial(content: bytes, name: str = "a.pth") -> Path:
    """As an earlier attempt would have left it."""
    folder().mkdir(parents=True)
    path = folder() / f".{name}.{TAG}.partial"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("behavior", "ranges"),
    [
        ("good", [""]),
        ("without-length", [""]),
        ("cut", ["", f"bytes={HALF // 2}-", f"bytes={HALF // 2 * 2}-"]),
        ("cut-without-ranges", ["", f"bytes={HALF}-"]),
        ("busy-once", ["", f"bytes={HALF}-", f"bytes={HALF}-"]),
        ("to-good", ["", ""]),
    ],
)
def test_a_file_is_downloaded_completely(server: Server, behavior: str, ranges: list[str]) -> None:
    seen: list[tuple[int, int]] = []
    path = cache.fetch(f"{server.address}/{behavior}/a.pth", DIGEST, lambda *now: seen.append(now))
    assert path == folder() / "a.pth"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), 0 if behavior == "without-length" else len(CONTENT))
    assert (server.ranges(), files()) == (ranges, ["a.pth"])


@pytest.mark.parametrize(
    ("behavior", "left", "ranges"),
    [
        ("good", CONTENT[:1000], ["bytes=1000-"]),
        ("without-ranges", CONTENT[:1000], ["bytes=1000-"]),
        ("another-range", CONTENT[:1000], ["bytes=1000-", ""]),
        ("unsatisfied", CONTENT[:1000], ["bytes=1000-", ""]),
        ("good", CONTENT + b"more", [f"bytes={len(CONTENT) + 4}-", ""]),  # answered with 416
        ("good", OTHER[:1000], ["bytes=1000-", ""]),  # of another version: found out by the hash
        ("good", CONTENT, []),  # the process ended before the file got its name
    ],
)
def test_an_interrupted_download_is_resumed(server: Server, behavior: str, left: bytes, ranges: list[str]) -> None:
    leave_partial(left)
    assert cache.fetch(f"{server.address}/{behavior}/a.pth", DIGEST).read_bytes() == CONTENT
    assert (server.ranges(), files()) == (ranges, ["a.pth"])


@pytest.mark.parametrize(
    ("behavior", "message", "requests"),
    [
        ("missing", "HTTP 404 Not Found\\)", 1),
        ("wrong", f"SHA-256 .*expected {DIGEST}", 1),
        ("shorter-than-sent", "SHA-256", 1),
        ("too-long", "announces 1099511627776 bytes", 1),
        ("to-http", "redirected to `http://.*not an https", 1),
        ("to-file", "HTTP 302", 1),
        ("circle", "HTTP 302", 3),
        ("chain", "HTTP 302", 6),
        ("unasked-range", "HTTP 206", 1),
        ("silent", "no answer for 0.4 s", 1),
        ("drip-head", "no answer for 0.4 s", 1),
    ],
)
def test_a_wrong_answer_leaves_no_file(server: Server, behavior: str, message: str, requests: int) -> None:
    with pytest.raises(RmrkdError, match=message) as failure:
        cache.fetch(f"{server.address}/{behavior}/a.pth", DIGEST)
    assert "\x1b" not in failure.value.message
    assert (len(server.requests), files()) == (requests, [])


@pytest.mark.parametrize(
    ("behavior", "message", "requests", "kept"),
    [
        ("always-cut", "ended after 3000 of", 3, 3000),
        ("stalled", "no answer for 0.4 s", 3, 3000),
        ("drip", f"less than {download.MIN_SPEED} bytes a second", 1, None),
        ("drip-chunk-size", f"less than {download.MIN_SPEED} bytes a second", 1, 1000),
        ("drip-trailer", f"less than {download.MIN_SPEED} bytes a second", 1, 1000),
    ],
)
def test_a_lost_connection_keeps_the_partial_file(
    server: Server, behavior: str, message: str, requests: int, kept: int | None
) -> None:
    with pytest.raises(RmrkdError, match=message) as failure:
        cache.fetch(f"{server.address}/{behavior}/a.pth", DIGEST, hint="give a file with --student-checkpoint FILE")
    assert (len(server.requests), files()) == (requests, [f".a.pth.{TAG}.partial"])
    size = (folder() / files()[0]).stat().st_size
    assert size == (kept or size) > 0
    for said in (str(folder() / "a.pth"), "--student-checkpoint FILE", f"the first {size} bytes"):
        assert said in failure.value.hint


@pytest.mark.parametrize("behavior", ["cut-without-ranges", "unsatisfied-then-cut"])
def test_a_large_partial_file_that_is_replaced_is_retried(server: Server, behavior: str) -> None:
    leave_partial(OTHER[:-1])
    assert cache.fetch(f"{server.address}/{behavior}/a.pth", DIGEST).read_bytes() == CONTENT
    assert server.ranges()[-1] == f"bytes={HALF}-"


def test_parts_of_two_versions_are_downloaded_again_once(server: Server) -> None:
    leave_partial(CONTENT[:1000])
    with pytest.raises(RmrkdError, match="SHA-256"):
        cache.fetch(f"{server.address}/wrong/a.pth", DIGEST)
    assert (server.ranges(), files()) == (["bytes=1000-", ""], [])


def test_an_endless_answer_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 3 << 20)
    with pytest.raises(RmrkdError, match="more than 3145728 bytes"):
        cache.fetch(f"{server.address}/endless/a.pth", DIGEST)
    assert sum(path.stat().st_size for path in folder().iterdir()) <= 3 << 20


@pytest.mark.parametrize("behavior", ["endless-trailers", "endless-chunk-headers"])
def test_endless_headers_at_full_speed_are_cut_off(
    server: Server, behavior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_OVERHEAD", 1 << 20)
    with pytest.raises(RmrkdError, match="more chunk headers and trailers than file"):
        cache.fetch(f"{server.address}/{behavior}/a.pth", DIGEST)
    assert len(server.requests) == 1


def test_free_space_is_checked_before_the_download(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100_000))
    with pytest.raises(RunError, match=r"0\.1 MB free, the download needs 0\.5 MB more") as failure:
        cache.fetch(f"{server.address}/good/a.pth", DIGEST)
    assert "RMRKD_CACHE=DIR" in failure.value.hint
    assert files() == []


def test_a_full_disk_deletes_the_partial_file(server: Server) -> None:
    """The limit of a file's size is what a test can set; a full disk is told in the same way."""
    code = (
        "import errno, resource, signal, sys; from rmrkd_cli.storage import cache, download\n"
        "from rmrkd_cli.errors import RunError; download._DISK_FULL = (errno.EFBIG,)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: cache.fetch(*sys.argv[1:])\n"
        "except RunError as error: print(error.message, error.hint)\n"
    )
    command = [sys.executable, "-B", "-c", code, f"{server.address}/good/a.pth", DIGEST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "cannot write into the cache" in done.stdout, done.stderr
    assert "RMRKD_CACHE=DIR" in done.stdout
    assert files() == []


def test_a_cache_folder_that_cannot_be_created(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="cannot write into the cache") as failure:
        cache.fetch(f"{server.address}/good/a.pth", DIGEST)
    assert "RMRKD_CACHE=DIR" in failure.value.hint
    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://host/a.pth", "not an https address"),
        ("file:///etc/passwd", "not an https address"),
        ("https://user:secret@host/a.pth", "not a valid https address"),
        ("https:///a.pth", "not a valid https address"),
        ("https://host:99999/a.pth", "not a valid https address"),
        ("https://host/a b.pth", "not a valid https address"),
        ("https://host/a.pth\r\nX: y", "not a valid https address"),
        ("https://host", "does not end with a file name"),
        ("https://host/", "does not end with a file name"),
        ("https://host/?file=/a.pth", "does not end with a file name"),
        ("https://host/..", "does not end with a file name"),
        ("https://host/.a.pth", "does not end with a file name"),
        ("https://host/..%2f..%2fa.pth", "does not end with a file name"),
        ("https://host/a%00.pth", "does not end with a file name"),
        ("https://host/%ff.pth", "does not end with a file name"),
        ("https://host/" + "a" * 250, "does not end with a file name"),
    ],
)
def test_invalid_urls_are_rejected(url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RmrkdError, match=message):
        cache.fetch(url, DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_host_name(server: Server) -> None:
    with pytest.raises(RmrkdError, match="cannot download"):
        cache.fetch("https://" + "a" * 70 + "/a.pth", DIGEST)
    assert files() == []


def test_the_file_name_comes_from_the_path_of_the_url(server: Server) -> None:
    path = cache.fetch(f"{server.address}/good/v%31-2.pth?name=/../b.pth#/c.pth", DIGEST)
    assert path.name == "v1-2.pth"


@pytest.mark.parametrize("digest", ["", "1234567", "z" * 8, DIGEST + "0"])
def test_an_invalid_sha256_is_rejected(digest: str) -> None:
    with pytest.raises(RmrkdError, match="not a SHA-256"):
        cache.fetch("https://localhost:1/a.pth", digest)


def test_through_a_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    with proxy() as (address, asked):
        monkeypatch.setenv("https_proxy", address)
        assert cache.fetch(f"{server.address}/good/a.pth", DIGEST).read_bytes() == CONTENT
    assert asked == [server.address.removeprefix("https://")]


def test_a_proxy_that_does_not_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://localhost:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(RmrkdError, match="refused"):
        cache.fetch(f"{server.address}/good/a.pth", DIGEST)
    assert server.requests == []
    monkeypatch.setenv("https_proxy", "http:///nothing")
    with pytest.raises(RmrkdError, match="cannot download"):
        cache.fetch(f"{server.address}/good/a.pth", DIGEST)


def begin(server: Server, behavior: str = "paused") -> subprocess.Popen[str]:
    """A process of its own that fetches, and prints where the file is."""
    # Tests that a shell runs in the background inherit an ignored SIGINT.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from rmrkd_cli.terminal.messages import show_messages; show_messages();"
    code += "from rmrkd_cli.storage.cache import fetch; print(fetch(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, f"{server.address}/{behavior}/a.pth", DIGEST]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(ready: object, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.02)


def half_there() -> bool:
    path = folder() / f".a.pth.{TAG}.partial"
    return path.is_file() and path.stat().st_size == HALF


def test_one_of_two_processes_downloads_and_the_other_waits(server: Server) -> None:
    first = begin(server)
    wait_for(half_there)
    second = begin(server)
    assert second.stderr is not None
    said = second.stderr.readline()  # while the first still waits for the rest
    server.send_rest.set()
    outs = [process.communicate(timeout=30) for process in (first, second)]
    assert said == "another process is downloading a.pth; waiting for it\n"
    assert [out for out, _ in outs] == [f"{folder() / 'a.pth'}\n"] * 2
    assert (len(server.requests), files()) == (1, ["a.pth"])
    assert (folder() / "a.pth").read_bytes() == CONTENT


def test_when_the_first_process_is_killed_the_second_resumes(server: Server) -> None:
    first = begin(server)
    wait_for(half_there)
    second = begin(server)
    assert second.stderr is not None
    second.stderr.readline()
    first.kill()
    out, _ = second.communicate(timeout=30)
    first.communicate(timeout=30)
    assert out == f"{folder() / 'a.pth'}\n"
    assert (server.ranges(), files()) == (["", f"bytes={HALF}-"], ["a.pth"])
    assert (folder() / "a.pth").read_bytes() == CONTENT


def test_four_processes_at_once(server: Server) -> None:
    running = [begin(server, "good") for _ in range(4)]
    both = [process.communicate(timeout=60) for process in running]
    assert not [text for _, text in both if "Trace" in text]
    outs = [out for out, _ in both]
    assert outs == [f"{folder() / 'a.pth'}\n"] * 4
    assert files() == ["a.pth"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_partial_file(server: Server, signum: signal.Signals) -> None:
    process = begin(server)
    wait_for(half_there)
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert files() == [f".a.pth.{TAG}.partial"]
    server.send_rest.set()
    assert cache.fetch(f"{server.address}/paused/a.pth", DIGEST).read_bytes() == CONTENT
    assert server.ranges()[-1] == f"bytes={HALF}-"


def test_the_lock_file_stays_and_every_user_may_open_it(server: Server) -> None:
    before = os.umask(0o077)
    try:
        cache.fetch(f"{server.address}/good/a.pth", DIGEST)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder() / ".a.pth.lock").stat().st_mode) == 0o666


@pytest.mark.parametrize("trouble", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "another user's", "unwritable", "hung"])
def test_without_a_lock_a_process_uses_its_own_partial_file(
    server: Server, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    theirs = leave_partial(CONTENT[:1000])
    lock = folder() / ".a.pth.lock"
    holder = FileLock(lock)
    if trouble.startswith("E"):
        number = getattr(errno, trouble)

        def no_locks(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", no_locks)
        monkeypatch.setattr(cache, "HUNG_SECONDS", 1e9)
    elif trouble == "unwritable":  # root may write everything
        monkeypatch.setattr(os, "access", lambda path, mode: not (path == theirs and mode & os.W_OK))
    elif trouble == "hung":
        holder.acquire()
        monkeypatch.setattr(cache, "HUNG_SECONDS", 0.3)
    else:
        real = os.open

        def denied(path: object, flags: int, mode: int = 0o777, **options: object) -> int:
            if str(path) == str(lock):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, flags, mode, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", denied)
    assert cache.fetch(f"{server.address}/good/a.pth", DIGEST).read_bytes() == CONTENT
    holder.release()
    assert (server.ranges(), files()) == ([""], [theirs.name, "a.pth"])
    assert theirs.read_bytes() == CONTENT[:1000]
