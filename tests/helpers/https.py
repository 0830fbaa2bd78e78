"""A local HTTPS server whose behaviour depends on the requested path."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import trustme

CONTENT = bytes(range(256)) * 2048 + b"end"
OTHER = CONTENT[::-1]
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(http.server.ThreadingHTTPServer):
    """Records the path and the Range header of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str]] = []
        self.send_rest = threading.Event()

    @property
    def address(self) -> str:
        return f"https://localhost:{self.server_port}"

    def ranges(self) -> list[str]:
        return [header for _, header in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range", "")))
        behaviour = self.path.strip("/").split("/")[0].replace("-", "_")
        with suppress(OSError):  # the client may close the connection
            getattr(self, f"_{behaviour}", self._good)()

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, code: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length != -1:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _rest(self, content: bytes = CONTENT, *, sent: int | None = None) -> None:
        """Send the requested range, cut after `sent` bytes."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found is None:
            self._send(200, content[:sent], len(content))
            return
        start = int(found[1])
        if start >= len(content):
            self._send(416, Content_Range=f"bytes */{len(content)}")
            return
        body = content[start:]
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, body[:sent], len(body), Content_Range=where)

    def _good(self) -> None:
        self._rest()

    def _without_ranges(self) -> None:
        self._send(200, CONTENT)

    def _without_length(self) -> None:
        self._send(200, CONTENT, -1)

    def _cut(self) -> None:
        """Cut the first two responses."""
        self._rest(sent=HALF // 2 if len(self.server.requests) < 3 else None)

    def _always_cut(self) -> None:
        self._rest(sent=1000)

    def _cut_without_ranges(self) -> None:
        self._send(200, CONTENT[:HALF] if len(self.server.requests) < 2 else CONTENT, len(CONTENT))

    def _another_range(self) -> None:
        if "Range" in self.headers:
            self._send(206, CONTENT[7:], Content_Range=f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self._send(200, CONTENT)

    def _unasked_range(self) -> None:
        self._send(206, CONTENT, Content_Range=f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}")

    def _unsatisfied(self) -> None:
        if "Range" in self.headers:
            self._send(416)
        else:
            self._send(200, CONTENT)

    def _unsatisfied_then_cut(self) -> None:
        number = len(self.server.requests)
        if number == 1:
            self._send(416)
        else:
            self._rest(sent=HALF if number == 2 else None)

    def _wrong(self) -> None:
        self._rest(OTHER)

    def _missing(self) -> None:
        self.send_error(404, "\x1b[31mred")

    def _busy_once(self) -> None:
        """Send half, then 503, then the rest."""
        number = len(self.server.requests)
        if number == 2:
            self._send(503)
        else:
            self._rest(sent=HALF if number == 1 else None)

    def _too_long(self) -> None:
        self._send(200, CONTENT, 1 << 40)

    def _endless(self) -> None:
        self._send(200, b"", -1)
        while True:
            self.wfile.write(CONTENT)

    def _shorter_than_sent(self) -> None:
        self._send(200, CONTENT, 1000)

    def _silent(self) -> None:
        time.sleep(5)

    def _stalled(self) -> None:
        self._rest(sent=1000)
        time.sleep(5)

    def _drip(self) -> None:
        self._send(200, b"", len(CONTENT))
        for _ in range(200):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def _drip_chunk_size(self) -> None:
        self._drip_after_chunk(b"0")

    def _drip_trailer(self) -> None:
        self._drip_after_chunk(b"x", b"0\r\n")

    def _endless_trailers(self) -> None:
        self._flood_after_chunk(b"0\r\n", b"x: " + b"y" * 1000 + b"\r\n")

    def _endless_chunk_headers(self) -> None:
        self._flood_after_chunk(b"", b"1;" + b"y" * 60_000 + b"\r\nz\r\n")

    def _flood_after_chunk(self, start: bytes, line: bytes) -> None:
        self._send(200, b"3e8\r\n" + CONTENT[:1000] + b"\r\n" + start, -1, Transfer_Encoding="chunked")
        while True:
            self.wfile.write(line)

    def _drip_after_chunk(self, byte: bytes, start: bytes = b"") -> None:
        self._send(200, b"3e8\r\n" + CONTENT[:1000] + b"\r\n" + start, -1, Transfer_Encoding="chunked")
        for _ in range(200):
            self.wfile.write(byte)
            time.sleep(0.05)

    def _drip_head(self) -> None:
        for _ in range(200):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.05)

    def _paused(self) -> None:
        """Send half, and the rest when the test sets `send_rest`."""
        if "Range" in self.headers:
            self._rest()
            return
        self._send(200, CONTENT[:HALF], len(CONTENT))
        self.server.send_rest.wait(20)
        self.wfile.write(CONTENT[HALF:])

    def _to_http(self) -> None:
        self._send(302, Location=f"http://localhost:{self.server.server_port}/plain.pth")

    def _to_file(self) -> None:
        self._send(302, Location="file:///etc/hostname")

    def _to_good(self) -> None:
        self._send(308, b"x" * 100, 1 << 40, Location="/good/elsewhere.pth")

    def _circle(self) -> None:
        self._send(302, Location=self.path)

    def _chain(self) -> None:
        self._send(302, Location=self.path + "x")


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Run the server; write its CA certificate to `folder/ca.pem`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.send_rest.set()
        server.shutdown()
        server.server_close()


class Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards bytes between a client and the address of its CONNECT request."""

    asked: ClassVar[list[str]] = []

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as remote:
            self.send_response(200)
            self.end_headers()
            for source, sink in ((self.connection, remote), (remote, self.connection)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()
            while remote.fileno() >= 0 and self.connection.fileno() >= 0 and not self.server.ended.is_set():  # type: ignore[attr-defined]
                time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        pass

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """Run a proxy; yield its address and the list of requested addresses."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    server.ended = threading.Event()  # type: ignore[attr-defined]
    Proxy.asked.clear()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", Proxy.asked
    finally:
        server.ended.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
