"""A server on 127.0.0.1 that sends one file, in good ways and in bad ones."""

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 1000


class Server:
    """`url(way)` sends CONTENT that way, see Handler; `asked` lists (way, Range header) of all requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, str | None]] = []
        self.rounds = 0  #: of CONTENT, sent endlessly
        self.closing = threading.Event()

    def url(self, way: str) -> str:
        return f"http://127.0.0.1:{self.port}/{way}/file.bin"


class Handler(BaseHTTPRequestHandler):
    """The first part of the path is the way, each a method below."""

    def do_GET(self) -> None:
        way, asked = self.path.split("/")[1], self.headers.get("Range")
        self.server.owner.asked.append((way, asked))
        self.begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        with contextlib.suppress(OSError):  # who asked has gone
            getattr(self, f"send_{way}")()

    def log_message(self, *_: object) -> None:
        pass

    def head(self, status: int, length: int | None, content_range: str | None = None) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def head_of_part(self) -> bytes:
        """The head of an answer that respects Range; returns the body that belongs to it."""
        body = CONTENT[self.begin :]
        span = f"bytes {self.begin}-{len(CONTENT) - 1}/{len(CONTENT)}" if self.begin else None
        self.head(206 if self.begin else 200, len(body), span)
        return body

    def send_well(self) -> None:
        self.wfile.write(self.head_of_part())

    def send_whole(self) -> None:
        """Range is ignored."""
        self.head(200, len(CONTENT))
        self.wfile.write(CONTENT)

    def send_unmeasured(self) -> None:
        self.head(200, None)
        self.wfile.write(CONTENT)

    def send_half(self) -> None:
        """Breaks off after half of what is left, or a little more."""
        body = self.head_of_part()
        self.wfile.write(body[: len(body) // 2 + 10_000])

    def send_halfwhole(self) -> None:
        """Breaks off in the middle, Range is ignored."""
        self.head(200, len(CONTENT))
        self.wfile.write(CONTENT[: len(CONTENT) // 2])

    def send_nothing(self) -> None:
        self.head_of_part()

    def send_corrupt(self) -> None:
        body = bytearray(self.head_of_part())
        body[-1] ^= 1
        self.wfile.write(body)

    def send_endless(self) -> None:
        self.head(200, None)
        for self.server.owner.rounds in range(400):
            self.wfile.write(CONTENT)

    def send_otherpart(self) -> None:
        self.head(206, len(CONTENT) - self.begin, f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.wfile.write(CONTENT[self.begin :])

    def send_page(self) -> None:
        """What a hotel's network says to everything."""
        self.head(200, 12)
        self.wfile.write(b"please log in")

    def send_forbidden(self) -> None:
        self.send_error(403)

    def send_busy(self) -> None:
        self.send_error(503)

    def send_reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def send_resetlater(self) -> None:
        self.wfile.write(self.head_of_part()[:50_000])
        self.wfile.flush()
        time.sleep(0.02)  # a reset takes back what has not been delivered
        self.send_reset()

    def send_rubbish(self) -> None:
        self.wfile.write(b"no HTTP at all\r\n\r\n")

    def send_silence(self) -> None:
        self.server.owner.closing.wait(20)

    def send_slowly(self) -> None:
        body = self.head_of_part()
        self.wfile.write(body[:100_000])
        self.wfile.flush()
        self.server.owner.closing.wait(20)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.owner = Server(http.server_port)
    thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield http.owner
    finally:
        http.owner.closing.set()
        http.shutdown()
        http.server_close()
        thread.join()


def free_port() -> int:
    """Of 127.0.0.1, where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(true, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()
