from __future__ import annotations

import hashlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from rmrkd_cli import cache
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.models import zoo_address

CONTENT = b"weights" * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path.startswith("/cut") else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local https server whose authority is trusted, and an empty cache."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()


def files() -> list[str]:
    folder = cache.cache_dir() / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_file_is_fetched_once_and_checked(address: str) -> None:
    seen = []
    path = cache.fetch(f"{address}/a-{DIGEST[:8]}.pth", DIGEST[:8], lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert files() == [f"a-{DIGEST[:8]}.pth"]
    before = path.stat().st_mtime_ns
    assert cache.fetch("https://localhost:1/" + path.name, DIGEST).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("path", "digest", "message"),
    [
        ("/b.pth", "00000000", "SHA-256"),
        ("/missing.pth", DIGEST, "404"),
        ("/cut.pth", DIGEST, "of 700000 bytes|IncompleteRead"),
    ],
)
def test_what_is_not_the_file_leaves_nothing(address: str, path: str, digest: str, message: str) -> None:
    with pytest.raises(RmrkdError, match=message):
        cache.fetch(address + path, digest)
    assert files() == []


def test_a_damaged_cache_is_found_out(address: str) -> None:
    path = cache.fetch(f"{address}/c.pth", DIGEST)
    path.write_bytes(b"damaged")
    with pytest.raises(RmrkdError, match="expected") as failure:
        cache.fetch(f"{address}/c.pth", DIGEST)
    assert "delete" in failure.value.hint


def test_without_a_network_the_message_says_where_the_file_goes(address: str) -> None:
    with pytest.raises(RmrkdError) as failure:
        cache.fetch("https://localhost:1/d.pth", DIGEST, hint="go without with --student-checkpoint none")
    assert "https://localhost:1/d.pth" in failure.value.message
    assert str(cache.cache_dir() / "checkpoints" / "d.pth") in failure.value.hint
    assert "--student-checkpoint none" in failure.value.hint


def test_only_https_is_followed() -> None:
    with pytest.raises(RmrkdError, match="not an https address"):
        cache.fetch("http://localhost/x.pth", DIGEST)


def test_zoo_names_have_the_addresses_in_mmcvs_tables() -> None:
    assert zoo_address("open-mmlab://resnet18_v1c").endswith("/resnet18_v1c-b5776b93.pth")
    assert zoo_address("mmcls://mobilenet_v2").endswith("-3b2dc3af.pth")
    with pytest.raises(RmrkdError, match="did you mean `resnet18_v1c`"):
        zoo_address("open-mmlab://resnet18_v1d")
