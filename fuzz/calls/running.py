"""`python -m fuzz calls`: very many calls of the core ABI, on every engine, in every dialect.

Each guest makes a table of calls. A witness, a guest of the same host that computes the same thing
all the time, must get the same bytes after each.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzz import chance as chances
from fuzz import reporting
from fuzz.calls import driver as drivers
from fuzz.calls import vocabulary
from fuzz.calls.driver import Call, Driver
from wasi_nn import Host
from wasi_nn._abi.core.dialects import DIALECTS, Dialect
from wasi_nn._host.program import Program
from wasi_nn._session import failures
from wasi_nn.errors import GuestError, Unavailable
from wasi_nn.limits import Limits
from wasi_nn.plugins import Plugins
from wasi_nn.policy import Policy
from wasi_nn_conformance import graphs

#: What a guest may have: little, so that it often meets a limit.
LIMITS = Limits(graphs=24, contexts=48, host_memory=64 << 20, timeout=120.0)
_CALLS = 2000
_MODELS = {"echo": "{}", "stream": '{"stream": 2}', "text": '{"untyped_bytes": true}'}


_image = functools.lru_cache(vocabulary.Image)


class Finding(Exception):
    """The host did what it must never do. The text says what."""


class Table:
    """A host on one engine, with its models, a witness, and the programs of the import modules."""

    def __init__(self, runtime: str, plugins: Plugins | None = None) -> None:
        """Raises ``Unavailable`` if the engine is not installed."""
        failures.AT_ONCE = sys.maxsize
        self._stack = contextlib.ExitStack()
        self.host = self._stack.enter_context(
            Host(
                runtime=runtime,
                plugins=plugins or Plugins.installed(),
                policy=Policy(own_models=True, limits=LIMITS),
            )
        )
        self.host.runtime  # noqa: B018  (Raises if there is no such engine.)
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        for name, settings in _MODELS.items():
            path = folder / f"{name}.identity"
            path.write_text(f"wasi-nn:identity {settings}\n")
            self.host.add_model(name, path)
        self.host.add_model("net", *graphs.canonical("onnx").files["matmul"], config={"threads": 1})
        self._programs: dict[str, tuple[Program, dict[str, int]]] = {}
        self._assemble = drivers.assembler()
        self._witness, _, self._image = self._stack.enter_context(self.guest(DIALECTS["witx"]))
        self.expected = self._computed(open_first=True)

    def _program(self, dialect: Dialect) -> tuple[Program, dict[str, int]]:
        if dialect.module not in self._programs:
            module, table = drivers.functions(self.host, dialect)
            program = self.host.compile(self._assemble(drivers.text(module, table)))
            self._programs[dialect.module] = program, table
        return self._programs[dialect.module]

    @contextlib.contextmanager
    def guest(self, dialect: Dialect) -> Iterator[tuple[Driver, dict[str, int], vocabulary.Image]]:
        """A guest of a dialect, with its functions and the image of its memory."""
        program, table = self._program(dialect)
        made, image = Driver(dialect, table), _image(dialect.module)
        with program.instantiate(dialect=dialect.name, extra=[made.extra]) as instance:
            made.guest = instance
            made.write(1024, bytes(image.bytes))
            yield made, table, image

    def _computed(self, open_first: bool = False) -> bytes:
        """What the witness computes now: matmul of [1, 2, 3, 4] by the canonical weights."""
        at, out, buffer = 64, 72, 3 * drivers.PAGE
        name, data = 128, 160
        if open_first:
            self._witness.write(name, b"net")
            floats = bytes.fromhex("0000803f000000400000404000008040")
            self._witness.write(data, floats + bytes.fromhex("0100000004000000"))
            record = [data + 16, 2, 1, data, 16]
            packed = b"".join(number.to_bytes(4, "little") for number in record)
            self._witness.write(data + 32, packed)
            self._check(Call("load_by_name", (name, 3, at)))
            self._check(Call("init_execution_context", (0, at)))
        self._check(Call("set_input", (0, 0, data + 32)))
        self._check(Call("compute", (0,)))
        self._check(Call("get_output", (0, 0, buffer, 64, out)))
        read: list[bytes] = []
        return self._read(buffer, 12, read)

    def _read(self, at: int, size: int, read: list[bytes]) -> bytes:
        # Bytes come out of a guest's memory where its calls go in.
        self._witness.reads.append((at, size, read))
        self._witness.make()
        return read[0]

    def _check(self, call: Call) -> None:
        errno = self._witness.make(call)
        if errno:
            raise Finding(f"the witness's {call.function} gave errno {errno}")

    def check_witness(self) -> None:
        """Raise ``Finding`` if the witness does not compute what it did at first."""
        found = self._computed()
        if found != self.expected:
            raise Finding(f"the witness computed {found.hex()}, and {self.expected.hex()} before")

    def close(self) -> None:
        """End the guests and the host."""
        self._stack.close()


def batch(table: Table, dialect: Dialect, chance: chances.Chance, count: int) -> tuple[int, int]:
    """One guest with so many calls. Returns how many returned 0, and how many graphs and contexts
    it got. Raises ``Finding``."""
    with table.guest(dialect) as (driver, functions, image):
        calls = [vocabulary.call(functions, image, chance) for _ in range(count)]
        try:
            for at in range(0, count, drivers.MAX_CALLS):
                driver.make(*calls[at : at + drivers.MAX_CALLS])
        except GuestError as error:
            raise Finding(f"a call ended the guest: {error}") from error
        for what in ("unknown", "reused"):
            if number := driver.number(what):
                raise Finding(f"{number} results were {what} in the dialect {dialect.name}")
        opened = driver.number("graph") + driver.number("context") + 2
        fine = driver.number("fine")
    table.check_witness()
    return fine, opened


def engines(plugins: Plugins) -> list[str]:
    """The engines whose guests call our wasi-nn. (A browser has its own, which is fuzzed there.)"""
    return sorted(runtime.name for runtime in plugins.runtimes if not runtime.own_encodings)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100_000, help="calls, on all engines together")
    parser.add_argument("--only", action="append", metavar="ENGINE")
    parser.add_argument("--json", type=Path, metavar="FILE")


def main(options: argparse.Namespace) -> int:
    """Run the command. The exit code is 1 if a host did what it must never do."""
    logging.getLogger("wasi_nn").setLevel(logging.CRITICAL)
    tables: dict[str, Table] = {}
    for runtime in options.only or engines(Plugins.installed()):
        try:
            tables[runtime] = Table(runtime)
        except Unavailable as error:
            print(f"{runtime} is not tried: {error}")
    rows = [_engine(name, table, options, len(tables)) for name, table in tables.items()]
    reporting.table(f"calls of seed {options.seed}", rows)
    reporting.save(options.json, {"seed": options.seed, "engines": rows})
    return int(any(row["findings"] for row in rows))


def _engine(name: str, table: Table, options: argparse.Namespace, tried: int) -> dict[str, Any]:
    made = guests = fine = opened = 0
    findings: list[str] = []
    started = time.monotonic()
    with contextlib.closing(table):
        while made < -(-options.count // tried):
            dialect = list(DIALECTS.values())[guests % len(DIALECTS)]
            chance = chances.of(options.seed, name, guests)
            try:
                more = batch(table, dialect, chance, _CALLS)
                fine, opened = fine + more[0], opened + more[1]
            except Finding as error:
                findings.append(f"guest {guests}: {error}")
                print(f"{name}, {findings[-1]}")
            made, guests = made + _CALLS, guests + 1
            reporting.progress(f"{name} {made} calls")
    reporting.progress("")
    return {
        "engine": name,
        "calls": made,
        "guests": guests,
        "returned 0": fine,
        "graphs and contexts": opened,
        "findings": len(findings),
        "seconds": round(time.monotonic() - started),
    }
