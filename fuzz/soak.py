"""`python -m fuzz soak`: very many guests in one host, one after the other in several threads.

They use several engines, named models and models of their own, and streams, and leave graphs and
contexts behind. The host's memory, open files, threads and processes must stay as they are: the
command compares the first tenth of the run with the last one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import statistics
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from fuzz import chance as chances
from fuzz import reporting
from fuzz.calls import vocabulary
from fuzz.calls.driver import Call, Driver
from fuzz.calls.running import Table, engines
from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn.errors import Unavailable
from wasi_nn.plugins import Plugins
from wasi_nn_conformance import graphs

_OUT, _BUFFER, _FREE = 64, 3 << 16, 2 << 16
_WITX, _WASMEDGE = DIALECTS["witx"], DIALECTS["wasmedge"]
_SAMPLES = 100
# What may grow between the tenths: an allocator takes pieces, and a worker that guests share keeps
# a connection for each thread that was in it at one time.
_GROWTH = {"resident": 16 << 20, "descriptors": 8, "threads": 2, "processes": 0}


class Sample(NamedTuple):
    """What the host has at one time. ``resident`` is in bytes."""

    sessions: int
    resident: int
    descriptors: int
    threads: int
    processes: int


def _children(process: int) -> int:
    """How many processes descend from one."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry))
    found, left = 0, [process]
    while left:
        below = parents.get(left.pop(), [])
        found += len(below)
        left += below
    return found


def sample(sessions: int) -> Sample:
    """A sample of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        sessions,
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        _children(os.getpid()),
    )


class Failed(Exception):
    """A guest did not get what it must get."""


def _must(driver: Driver, *calls: Call) -> None:
    before = driver.number("fine")
    driver.make(*calls)
    if driver.number("fine") - before != len(calls):
        assert driver.guest is not None
        raise Failed("; ".join(map(str, driver.guest.observer.failures)))


def _named(table: Table, name: int, index: int) -> None:
    """A named model computes. Every other guest leaves its handles to the host."""
    with table.guest(_WITX) as (driver, _, image):
        _must(
            driver,
            Call("load_by_name", (*image.names[name], _OUT)),
            Call("init_execution_context", (0, _OUT)),
            Call("set_input", (0, 0, image.row)),
            Call("compute", (0,)),
            Call("get_output", (0, 0, _BUFFER, 64, _OUT)),
        )
        if index % 2:
            _must(driver, Call("finalize_execution_context", (0,)), Call("unload", (0,)))


def _own(table: Table, encoding: str, index: int) -> None:
    """A guest's own model computes."""
    model = graphs.canonical(encoding).files["matmul"][0].read_bytes()
    number = {name: number for number, name in _WITX.encodings.items()}[encoding]
    with table.guest(_WITX) as (driver, _, image):
        driver.write(_FREE, struct.pack("<II", _FREE + 8, len(model)) + model)
        _must(
            driver,
            Call("load", (_FREE, 1, number, 0, _OUT)),
            Call("init_execution_context", (0, _OUT)),
            Call("set_input", (0, 0, image.row)),
            Call("compute", (0,)),
            Call("get_output", (0, 0, _BUFFER, 64, _OUT)),
        )


def _stream(table: Table, index: int) -> None:
    """A stream of pieces, which every other guest leaves in the middle."""
    with table.guest(_WASMEDGE) as (driver, _, image):
        _must(
            driver,
            Call("load_by_name", (*image.names[2], _OUT)),
            Call("init_execution_context", (0, _OUT)),
            Call("set_input", (0, 0, image.text)),
            *[Call("compute_single", (0,)), Call("get_output_single", (0, 0, _BUFFER, 64, _OUT))]
            * 2,
        )
        if index % 2:
            _must(driver, Call("fini_single", (0,)))


def _text(table: Table, index: int) -> None:
    """A language model's text, token by token; it is left in the middle."""
    name, prompt = b"tiny", b"Hello you"
    at = _FREE
    with table.guest(_WASMEDGE) as (driver, _, _):
        record = struct.pack("<IIBxxxII", at + 16, 1, 3, at + 32, len(prompt))
        packed = name.ljust(16, b"\0") + struct.pack("<I", 1).ljust(16, b"\0")
        driver.write(at, packed + prompt.ljust(16, b"\0") + record)
        _must(
            driver,
            Call("load_by_name", (at, len(name), _OUT)),
            Call("init_execution_context", (0, _OUT)),
            Call("set_input", (0, 0, at + 48)),
            *[Call("compute_single", (0,)), Call("get_output_single", (0, 0, _BUFFER, 64, _OUT))]
            * 2,
        )


def _hostile(table: Table, index: int) -> None:
    """Calls with any arguments."""
    chance = chances.of("soak", index)
    dialect = chance.choice(list(DIALECTS.values()))
    with table.guest(dialect) as (driver, functions, image):
        calls = [vocabulary.call(functions, image, chance) for _ in range(40)]
        driver.make(*(call for call in calls if call.function != "load"))
        if driver.number("unknown"):
            raise Failed("an errno was unknown")


def _kinds(tables: dict[str, Table]) -> dict[str, tuple[int, Callable[[int], None]]]:
    """The kinds of guests, with how many there are in a thousand."""
    first = tables["wasmtime"]
    kinds: dict[str, tuple[int, Callable[[int], None]]] = {
        "wasmtime, named identity": (500, lambda i: _named(first, 0, i)),
        "wasmtime, named onnx": (250, lambda i: _named(first, 1, i)),
        "wasmtime, stream": (150, lambda i: _stream(first, i)),
        "wasmtime, any calls": (60, lambda i: _hostile(first, i)),
    }
    for encoding, package in (("onnx", "onnxruntime"), ("tensorflowlite", "ai_edge_litert")):
        if importlib.util.find_spec(package) is not None:

            def own(i: int, encoding: str = encoding) -> None:
                _own(first, encoding, i)

            kinds[f"wasmtime, own {encoding}"] = (5, own)
    if importlib.util.find_spec("xllamacpp") is not None:
        model = graphs.canonical("ggml").files["tiny"]
        first.host.add_model("tiny", *model, config={"threads": 1, "ctx-size": 128})
        kinds["wasmtime, ggml text"] = (10, lambda i: _text(first, i))
    for name in tables.keys() - {"wasmtime"}:

        def other(i: int, table: Table = tables[name]) -> None:
            (_named if i % 2 else _hostile)(*((table, i % 4 // 2, i) if i % 2 else (table, i)))

        kinds[f"{name}, named or any calls"] = (10, other)
    return kinds


def _order(kinds: dict[str, Any], seed: int) -> Iterator[str]:
    """The kind of each guest, in an order that mixes them."""
    chance = chances.of("order", seed)
    names, weights = list(kinds), [weight for weight, _ in kinds.values()]
    while True:
        yield from chance.choices(names, weights, k=1000)


def _growth(samples: list[Sample]) -> list[dict[str, Any]]:
    """The first and the last tenth of the samples, by what was counted."""
    tenth = max(1, len(samples) // 10)
    rows = []
    for field in Sample._fields[1:]:
        first, last = (
            statistics.median(getattr(one, field) for one in part)
            for part in (samples[:tenth], samples[-tenth:])
        )
        unit = 1 << 20 if field == "resident" else 1
        name = "resident MiB" if field == "resident" else field
        rows.append(
            {
                "what": name,
                "first tenth": round(first / unit, 1),
                "last tenth": round(last / unit, 1),
                "flat": last <= first + _GROWTH[field],
            }
        )
    return rows


def run(count: int, seed: int, threads: int) -> tuple[list[Sample], Counter[str], list[str]]:
    """Run so many guests. Returns the samples, how many there were of each kind, and failures."""
    tables: dict[str, Table] = {}
    plugins = Plugins.installed()
    with contextlib.ExitStack() as stack:
        for name in engines(plugins):
            with contextlib.suppress(Unavailable):
                tables[name] = stack.enter_context(contextlib.closing(Table(name, plugins)))
        kinds = _kinds(tables)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        done: Counter[str] = Counter()
        failures: list[str] = []

        def guest(number: int, kind: str) -> None:
            try:
                kinds[kind][1](number)
            except Exception as error:
                failures.append(f"guest {number}, {kind}: {type(error).__name__}: {error}"[:300])

        # Whatever is made once is made now.
        for kind in [*kinds] * (2 * threads):
            guest(len(done), kind)
        order = _order(kinds, seed)
        samples: list[Sample] = []
        chunk = max(1, count // _SAMPLES)
        while sum(done.values()) < count:
            chosen = [next(order) for _ in range(chunk)]
            first = sum(done.values())
            list(pool.map(guest, range(first, first + chunk), chosen))
            done.update(chosen)
            samples.append(sample(first + chunk))
            reporting.progress(" ".join(f"{k} {v}" for k, v in samples[-1]._asdict().items()))
        reporting.progress("")
    return samples, done, failures


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="guests")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE")


def main(options: argparse.Namespace) -> int:
    """Run the command. The exit code is 1 if something grew, or a guest failed."""
    logging.getLogger("wasi_nn").setLevel(logging.CRITICAL)
    started = time.monotonic()
    samples, done, failures = run(options.count, options.seed, options.threads)
    rows = _growth(samples)
    reporting.table(
        f"{sum(done.values())} guests in {time.monotonic() - started:.0f} s, "
        f"{len(failures)} failed",
        rows,
    )
    reporting.table("guests", [{"kind": kind, "guests": n} for kind, n in sorted(done.items())])
    for failure in failures[:10]:
        print(failure)
    reporting.save(
        options.json,
        {
            "seed": options.seed,
            "growth": rows,
            "kinds": done,
            "failures": failures,
            "samples": [one._asdict() for one in samples],
        },
    )
    return int(bool(failures) or not all(row["flat"] for row in rows))
