"""Models are downloaded whole, checked, resumed and limited, whatever the server does."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from model_server import ModelServer, digest, endless, failing, redirect

from wasi_nn._models.sources import web
from wasi_nn._models.sources.cache import Cache, key_of
from wasi_nn._models.sources.fetching import Teller, fetch
from wasi_nn._models.sources.source import file_name, remote
from wasi_nn.errors import UsageError

DATA = os.urandom(300_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(web, "WAITS", (0.0, 0.0, 0.0))
    with ModelServer() as made:
        made.files["/m.onnx"] = DATA
        yield made


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def get(server, cache):
    def get(path="/m.onnx", wanted=None, **options):
        return fetch([server.url + path], cache, wanted, **options).paths[0]

    return get


def test_a_model_is_downloaded_once(get, server):
    first = get()
    assert first.read_bytes() == DATA
    assert first.name == "m.onnx"
    asked = len(server.requests)
    assert get() == first
    assert len(server.requests) == asked


def test_another_user_cannot_read_or_change_a_download(get, cache):
    file = get()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    cache.folder.chmod(0o777)
    with pytest.raises(UsageError, match="another user can change the models"):
        get("/other.onnx")


def test_what_breaks_off_goes_on_where_it_was(get, server):
    server.breaks = [0, 100_000, 100_000, None]  # (The first request asks for the size alone.)
    assert get().read_bytes() == DATA
    assert server.ranges_asked == [None, None, "bytes=100000-", "bytes=200000-"]


def test_a_broken_download_goes_on_in_the_next_process(get, server, cache):
    server.breaks = [0, 100_000, 0]
    with pytest.raises(UsageError, match="ended after 100000 of 300000 bytes"):
        get()
    assert not cache.find(key_of([f"{server.url}/m.onnx"]))
    server.breaks, server.requests = [None], []
    assert get().read_bytes() == DATA
    assert server.ranges_asked == [None, "bytes=100000-"]


def test_the_rest_of_another_version_is_not_appended(get, server):
    def change(handler):
        server.etag, server.files["/m.onnx"] = '"v2"', DATA[::-1]
        handler.give(DATA[::-1], handler.headers.get("Range"))

    server.breaks = [0, 100_000, 0]
    with pytest.raises(UsageError, match="the same command goes on after 100000 bytes"):
        get()
    server.breaks, server.files["/m.onnx"] = [None], change
    assert get().read_bytes() == DATA[::-1]


def test_without_a_validator_it_begins_again(get, server):
    server.etag = None
    server.breaks = [0, 100_000, None]
    assert get().read_bytes() == DATA
    assert server.ranges_asked == [None, None, None]


def test_a_server_that_ignores_ranges_begins_again(get, server):
    server.ranges = False
    server.breaks = [0, 100_000, None]
    assert get().read_bytes() == DATA
    assert server.ranges_asked == [None, None, "bytes=100000-"]


def test_another_part_than_was_asked_for_is_not_taken(get, server):
    def other_part(handler):
        if handler.headers.get("Range") is None:
            handler.give(DATA)
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-9/{len(DATA)}")
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(DATA[:10])

    server.files["/m.onnx"] = other_part
    server.breaks = [0, 100_000, None]
    assert get().read_bytes() == DATA


def test_half_a_file_is_never_a_model(get, server, cache):
    server.breaks = [1000]
    server.etag = None
    with pytest.raises(UsageError, match="the connection ended after 1000 of 300000 bytes"):
        get()
    assert [one.paths for one in cache.entries()] in ([], [()])


def test_a_busy_server_is_asked_again(get, server):
    server.files["/busy"] = failing(503, times=2, then=DATA)
    assert get("/busy").read_bytes() == DATA
    server.files["/busier"] = failing(503, times=99, then=DATA)
    with pytest.raises(UsageError, match="the server answers 503"):
        get("/busier")


def test_a_missing_file_is_asked_for_once(get, server):
    with pytest.raises(UsageError, match=r"the server answers 404 .*; check the address"):
        get("/none")
    assert len(server.requests) == 1


def test_a_web_page_is_not_a_model(get, server):
    server.files["/page"] = b"<!DOCTYPE html><html><body>Log in</body></html>"
    with pytest.raises(UsageError, match="/page gave an HTML page, not a model"):
        get("/page")
    server.files["/empty"] = b""
    with pytest.raises(UsageError, match="/empty gave an empty file"):
        get("/empty")


def test_a_wrong_digest_is_refused_and_not_kept(get, server, cache):
    with pytest.raises(UsageError, match=f"has the digest {digest(DATA)}, not {digest(b'')}"):
        get(wanted=digest(b""))
    assert cache.entries() == []
    assert get(wanted=digest(DATA)).read_bytes() == DATA


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/m", "http://192.0.2.1/m", "data:,x"]
)
def test_a_redirect_leads_to_no_place_that_is_not_safe(get, server, to):
    server.files["/away"] = redirect(to)
    with pytest.raises(UsageError, match="leads to"):
        get("/away")


def test_a_redirect_on_this_machine_is_followed(get, server):
    server.files["/there"] = redirect("/m.onnx")
    assert get("/there").read_bytes() == DATA
    server.files["/round"] = redirect("/round")
    with pytest.raises(UsageError, match="/round"):
        get("/round")


def test_http_is_for_this_machine_or_for_a_digest():
    for url in ("http://example.org/m", "http://127.0.0.1.example.org/m"):
        with pytest.raises(UsageError, match="use https, or give the file's digest"):
            remote(url)
        assert remote(url, digest(DATA))
    for url in ("http://localhost:1/m", "http://127.0.0.9/m", "http://[::1]/m", "https://a.org/m"):
        assert remote(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://a.org/m", "not ftp"),
        ("https://a.org", "write https://HOST/FILE"),
        ("https:///m", "write https://HOST/FILE"),
        ("https://me:secret@a.org/m", r"^https://a\.org/m: leave the login out of the URL"),
        ("https://a.org/a b", "write %20"),
        ("https://a.org:x/m", "is not a URL"),
        ("hf://owner/m.onnx", "write hf://OWNER/REPOSITORY/FILE"),
    ],
)
def test_a_url_that_is_not_understood_is_told(url, says):
    with pytest.raises(UsageError, match=says):
        remote(url)


def test_data_without_end_stops_at_the_caches_size(server, tmp_path):
    server.files["/endless"] = endless
    cache = Cache(tmp_path / "cache", 4 << 20)
    with pytest.raises(UsageError, match=f"all downloads at most {4 << 20}"):
        fetch([f"{server.url}/endless"], cache)
    assert sum(f.stat().st_size for f in cache.folder.rglob("*") if f.is_file()) == 0


def test_a_model_that_is_too_large_is_refused_before_the_download(server, tmp_path):
    cache = Cache(tmp_path / "cache", 1000)
    with pytest.raises(UsageError, match="the model takes 300000 bytes or more"):
        fetch([f"{server.url}/m.onnx"], cache)
    assert len(server.requests) == 1


def test_the_download_that_was_used_least_recently_goes_first(server, tmp_path):
    urls = [f"{server.url}/{name}" for name in "abcd"]
    server.files |= {f"/{name}": DATA for name in "abcd"}
    cache = Cache(tmp_path / "cache", 1_000_000, {key_of(urls[1:2])})
    for age, url in enumerate(urls[:3]):
        entry = fetch([url], cache).cached
        os.utime(cache.folder / entry.key / "about.json", (age, age))
    assert cache.find(key_of(urls[:1]))  # It is used now, so c is older; b has a name.
    fetch([urls[3]], cache)
    left = {source for one in cache.entries() for source in one.sources}
    assert left == {urls[0], urls[1], urls[3]}
    assert sum(one.size for one in cache.entries()) <= cache.most


def test_two_processes_download_a_model_once(server, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from wasi_nn._models.sources.cache import Cache\n"
        "from wasi_nn._models.sources.fetching import fetch\n"
        "print(fetch([sys.argv[1]], Cache(Path(sys.argv[2]))).paths[0])"
    )
    begun = threading.Event()

    def slowly(handler):
        begun.set()
        time.sleep(0.3)
        handler.give(DATA)

    server.files["/m.onnx"] = slowly
    command = [sys.executable, "-c", code, f"{server.url}/m.onnx", str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=60)[0] for process in both}
    assert len(printed) == 1
    assert Path(printed.pop().strip()).read_bytes() == DATA
    assert len(server.requests) == 2  # For the size, and for the file.


def test_a_model_of_several_files_is_one_folder(server, cache):
    server.files["/x/m.bin"] = server.files["/y/m.bin"] = b"weights"
    urls = [f"{server.url}{path}" for path in ("/m.onnx", "/x/m.bin", "/y/m.bin")]
    paths = fetch(urls, cache).paths
    assert [path.name for path in paths] == ["m.onnx", "m.bin", "2-m.bin"]
    assert len({path.parent for path in paths}) == 1
    server.files["/two"] = b"weights"
    with pytest.raises(UsageError, match="404"):
        fetch([f"{server.url}/two", f"{server.url}/none"], cache)
    assert not cache.find(key_of([f"{server.url}/two", f"{server.url}/none"]))


def test_a_download_again_takes_the_place_of_the_first(get, server):
    first = get()
    server.files["/m.onnx"] = b"newer"
    assert get().read_bytes() == DATA
    assert get(again=True) == first
    assert first.read_bytes() == b"newer"


def test_a_teller_hears_of_the_size_and_of_the_progress(get, server):
    class Heard(Teller):
        def __init__(self):
            self.said = []

        def begins(self, source, about):
            self.said.append(about.size)

        def goes_on(self, done, whole):
            self.said.append((done, whole))

        def ended(self):
            self.said.append("ended")

    heard = Heard()
    get(teller=heard)
    assert heard.said[0] == len(DATA)
    assert heard.said[-2:] == [(len(DATA), len(DATA)), "ended"]


def test_names_of_files_are_harmless():
    assert file_name("https://a.org/x/m.onnx?token=1") == "m.onnx"
    assert file_name("https://a.org/%2e%2e%2f.hidden%00x/") == "hidden_x"
    assert file_name("https://a.org/..") == "model"
    assert len(file_name(f"https://a.org/{'n' * 999}.gguf")) == 120
