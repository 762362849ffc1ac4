"""The engines' files that the playground gets from an npm registry."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from wasi_nn.errors import UsageError
from wasi_nn_browser import engines, pages

CONTENT = b"an engine" * 1000


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry with one package, and pages that want a file of it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as package:
        member = tarfile.TarInfo("package/dist/engine.wasm")
        member.size = len(CONTENT)
        package.addfile(member, io.BytesIO(CONTENT))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/@of/engine/-/engine-1.2.3.tgz"
            self.send_response(200 if known else 404)
            self.end_headers()
            if known:
                self.wfile.write(packed.getvalue())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "guests.html").touch()
    monkeypatch.setenv(pages.VARIABLE, str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(engines.VARIABLE, f"http://127.0.0.1:{server.server_port}/")

    def want(**changes):
        asset = {
            "file": "assets/engine-1.wasm",
            "package": "@of/engine",
            "version": "1.2.3",
            "member": "dist/engine.wasm",
            "bytes": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
        }
        (folder / "engines.json").write_text(json.dumps([asset | changes]))

    want()
    yield want
    server.shutdown()
    server.server_close()


def test_what_is_not_here_is_fetched_once(registry):
    said = []
    assert engines.fetched() == {}
    engines.fetch(said.append)
    assert engines.fetched()["assets/engine-1.wasm"].read_bytes() == CONTENT
    assert said[0] == "fetching @of/engine 1.2.3"
    assert said[1].endswith(hashlib.sha256(CONTENT).hexdigest())
    engines.fetch(said.append)
    assert said[2:] == ["the engines' files are here already"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sha256": "0" * 64}, "sha256 0000"),
        ({"bytes": 5}, "expected 5 bytes .* got more"),
        ({"member": "dist/other.wasm"}, "other.wasm"),
        ({"version": "9.9.9"}, "404"),
    ],
)
def test_a_file_that_is_not_the_right_one_is_not_kept(registry, tmp_path, changes, why):
    registry(**changes)
    with pytest.raises(UsageError, match=why):
        engines.fetch(lambda _: None)
    assert engines.fetched() == {}
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


def test_without_a_network_it_says_what_to_do(registry, monkeypatch):
    monkeypatch.setenv(engines.VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"cannot be fetched.*network.*npm_config_registry"):
        engines.fetch(lambda _: None)
