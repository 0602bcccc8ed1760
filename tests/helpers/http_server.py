"""A local HTTP server that serves a directory, with faults on request."""

import contextlib
import http.server
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

STALL_S = 20.0


class Server(http.server.ThreadingHTTPServer):
    """Serves `root`; each request for a path consumes the next of its faults.

    Faults: `500`, `403`, `reset` (after half of the bytes), `cut` (fewer bytes than announced),
    `short` (half of the file, announced as all), `flip` (one flipped bit), `stall`, `slow` (in small
    pieces).
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect: tests do so."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.requests[name] += 1
        faults = self.server.faults[name]
        self._answer(self._content(), faults.pop(0) if faults else "")

    def log_message(self, *_: object) -> None:
        pass

    def _content(self) -> bytes:
        path = self.server.root / self.path.lstrip("/")
        return path.read_bytes() if path.is_file() else b""

    def _answer(self, content: bytes, fault: str = "") -> None:
        if not (self.server.root / self.path.lstrip("/")).is_file():
            self.send_error(404)
            return
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if fault == "flip":
            content = content[:600] + bytes([content[600] ^ 1]) + content[601:]
        if fault == "short":
            content = content[: len(content) // 2]
        content = self._ranged(content)
        length = len(content) if self.command == "GET" else self._size()
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self._send(content, fault)

    def _ranged(self, content: bytes) -> bytes:
        """Send the status line, and return the requested range of the content."""
        span = self.headers.get("Range", "")
        if self.command == "GET" and span.startswith("bytes="):
            first, last = span.removeprefix("bytes=").split("-")
            end = min(int(last or len(content)), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{end}/{len(content)}")
            content = content[int(first) : end + 1]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        return content

    def _size(self) -> int:
        return (self.server.root / self.path.lstrip("/")).stat().st_size

    def _send(self, content: bytes, fault: str) -> None:
        half = len(content) // 2
        if fault == "cut":
            self.wfile.write(content[:half])
            self.close_connection = True
        elif fault == "reset":
            self.wfile.write(content[:half])
            # Closing now sends RST, not FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()  # it holds the connection open
            self.connection.close()
            self.close_connection = True
        elif fault == "stall":
            self.wfile.write(content[:half])
            self.wfile.flush()
            time.sleep(STALL_S)
        elif fault == "slow":
            for start in range(0, len(content), 2000):
                self.wfile.write(content[start : start + 2000])
                time.sleep(0.01)
        else:
            self.wfile.write(content)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Server]:
    """Run a server of a directory inside the context."""
    server = Server(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
