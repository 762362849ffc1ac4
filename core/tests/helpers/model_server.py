"""A server on this machine that gives models, and breaks off, lies and stalls as servers do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def digest(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


class ModelServer:
    """Answers with the bytes in ``files`` by path, or as the function there does."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Callable[[Any], None]] = {}
        #: The method, the path and the range of each request.
        self.requests: list[tuple[str, str, str | None]] = []
        self.etag: str | None = '"v1"'
        #: After how many bytes each answer breaks off; the last one counts for all further ones.
        self.breaks: list[int | None] = [None]
        self.ranges = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.requests.append((self.command, self.path, asked))
                found = server.files.get(self.path.partition("?")[0])
                if callable(found):
                    found(self)
                elif found is None:
                    self.send_error(404)
                else:
                    self.give(found, asked)

            do_HEAD = do_GET

            def give(self, data: bytes, asked: str | None = None) -> None:
                start = 0
                fits = self.headers.get("If-Range") in (None, server.etag)
                if asked and server.ranges and fits:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    start, whole = int(first), len(data)
                    data = data[: int(last) + 1] if last else data
                    if start >= len(data):
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    rest = f"bytes {start}-{len(data) - 1}/{whole}"
                    self.send_header("Content-Range", rest)
                else:
                    self.send_response(200)
                if server.etag:
                    self.send_header("ETag", server.etag)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                if self.command == "HEAD":
                    return
                most = server.breaks.pop(0) if len(server.breaks) > 1 else server.breaks[0]
                body = data[start:] if most is None else data[start : start + most]
                self.wfile.write(body)
                if len(body) < len(data) - start:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked for _, _, asked in self.requests]


def redirect(to: str) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def endless(handler: Any) -> None:
    """Data without an end, whose length is not known."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    # A minute of it, if nobody ends it.
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            handler.wfile.write(b"x" * 65536)
        except OSError:
            return


def failing(code: int, *, times: int, then: bytes) -> Callable[[Any], None]:
    """The answer ``code`` so many times, and the data afterwards."""
    left = [times]

    def answer(handler: Any) -> None:
        if left[0]:
            left[0] -= 1
            handler.send_response(code)
            handler.send_header("Retry-After", "0")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            handler.give(then, handler.headers.get("Range"))

    return answer
