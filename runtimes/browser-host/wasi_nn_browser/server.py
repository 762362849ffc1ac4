"""A server for one browser on this machine: the built pages, and what they ask for."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

#: Nothing comes from elsewhere, and no script from within a page. (wllama makes its worker from a
#: blob, which has these rules too.) Without the last two headers, a
#: page has no shared memory.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
    "style-src 'self'; img-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
}
_BYTES = "application/octet-stream"
# The most bytes of a request: a piece of a guest's output.
_MAX_BODY = 64 << 20


class Answer(NamedTuple):
    """What a request gets. A path is sent as a file."""

    status: int = 200
    body: bytes | Path = b""
    kind: str = _BYTES


#: Answers a request for a path below the token, split at the slashes, with its body.
Serve = Callable[[list[str], bytes], Answer]


class Server:
    """Serves on 127.0.0.1 alone, on a free port, and only those who know a token. A page's origin
    must be its own: other pages that the user has open can reach the port too."""

    def __init__(
        self, pages: Path, serve: Serve, further: Mapping[str, Path] | None = None
    ) -> None:
        """``serve`` answers what is posted, on any thread. ``further`` has files besides those of
        the pages, by their names there."""
        self.pages, self.serve, self.further = pages, serve, further or {}
        self.token = secrets.token_urlsafe(16)
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.ours = self
        self.origin = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, page: str) -> str:
        """The address of a page."""
        return f"{self.origin}/{self.token}/{page}"

    def close(self) -> None:
        """Stop. Requests that are being answered go on."""
        self._http.shutdown()
        self._http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    ours: Server

    def handle_error(self, *_: Any) -> None:
        """A browser that has gone is not an error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits for the browser's acknowledgement of its headers.
    disable_nagle_algorithm = True
    server: _Http

    def do_GET(self) -> None:
        names = self._names()
        if names is None:
            return
        name = "/".join(names)
        further = self.server.ours.further.get(name)
        path = further or self.server.ours.pages.joinpath(*names)
        kind = _TYPES.get(Path(name).suffix)
        if kind is None or any(name in ("", ".", "..") for name in names) or not path.is_file():
            self._send(Answer(404))
        else:
            self._send(Answer(200, path, kind))

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= _MAX_BODY:
            self.close_connection = True
            self._send(Answer(413))
            return
        body = self.rfile.read(length)
        names = self._names()
        if names is None:
            return
        if self.headers.get("Origin", self.server.ours.origin) != self.server.ours.origin:
            self._send(Answer(403))
            return
        self._send(self.server.ours.serve(names, body))

    def _names(self) -> list[str] | None:
        """The path below the token; None after a refusal."""
        ours = self.server.ours
        token, *names = self.path.partition("?")[0].lstrip("/").split("/")
        # Another name for this machine would be another origin, with other cookies and rights.
        if f"http://{self.headers.get('Host')}" == ours.origin and secrets.compare_digest(
            token.encode(), ours.token.encode()
        ):
            return names
        self._send(Answer(403))
        return None

    def _send(self, answer: Answer) -> None:
        status, body, kind = answer
        size = len(body) if isinstance(body, bytes) else body.stat().st_size
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        # (The names of built files have digests, and those of an engine belong to one version. A
        # browser keeps what it compiled of a file that it keeps.)
        keep = isinstance(body, Path) and self.path.split("/")[2:3] in (["assets"], ["engines"])
        self.send_header("Cache-Control", "private, max-age=86400" if keep else "no-store")
        self.end_headers()
        if isinstance(body, bytes):
            self.wfile.write(body)
            return
        with body.open("rb") as file:
            while piece := file.read(1 << 20):
                self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        """Nobody wants to read each request."""
