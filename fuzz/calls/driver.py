"""The guest: a module that makes the calls of a table in its memory, on any engine.

A record has 32 bytes: ``{u32 function, u8 kinds[5], 3 bytes of padding, u32 values[5]}``. A kind of
0 is the value itself. With 1 the argument is the newest graph minus the value, and with 2 the
newest context minus the value. So a table can use handles that nobody knows when it is written.

After each call the guest itself checks the errno, and that a new handle is above all earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from wasi_nn import Host
from wasi_nn._abi.core.common import CoreAbi
from wasi_nn._abi.core.dialects import Dialect
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn._abi.core.wamr_legacy import WamrLegacy
from wasi_nn._abi.core.witx import Witx
from wasi_nn._host.guest import Guest
from wasi_nn.runtime import GuestMemory, HostFunction

RECORD = Struct("<I5B3x5I")
VALUE, GRAPH, CONTEXT = range(3)
PAGE = 1 << 16
#: The guest's memory: what calls may use, and then the table, which they leave alone.
TABLE = 4 * PAGE
MAX_CALLS = 4096
PAGES = 6
#: Besides the ABI's functions: write a number to the memory, and grow the memory.
POKE, GROW = "poke", "grow"
_OPENS = {"load": "graph", "load_by_name": "graph", "load_by_name_with_config": "graph",
          "init_execution_context": "context"}  # fmt: skip


class Call(NamedTuple):
    """A call, with the kind of each value."""

    function: str
    values: tuple[int, ...]
    kinds: tuple[int, ...] = (VALUE,) * 5


def functions(host: Host, dialect: Dialect) -> tuple[str, dict[str, int]]:
    """The import module of a dialect, and its functions with their number of parameters."""
    abi: type[CoreAbi] = Witx if dialect.module == Witx.module else WamrLegacy
    with host.open_session() as session:
        table = abi(session, DialectNegotiation([dialect])).table()
    return dialect.module, {name: count for name, (count, _) in table.items()}


def text(module: str, table: dict[str, int]) -> str:
    """The guest, as WAT."""
    imports = calls = ""
    labels = " ".join(f"$c{number}" for number in range(len(table) + 2))
    for number, (name, count) in enumerate(table.items()):
        parameters = "(param" + " i32" * count + ")"
        imports += f'(import "{module}" "{name}" (func $f{number} {parameters} (result i32)))\n'
        given = "".join(f"(call $value (local.get $at) (i32.const {k}))" for k in range(count))
        out = f"(call $value (local.get $at) (i32.const {count - 1}))"
        call = f"(local.set $errno (call $f{number} {given}))"
        if name in _OPENS:
            handle = f"$new_{_OPENS[name]}"
            # The pointer may depend on the newest handle.
            call = f"(local.set $out {out}) {call}"
            call += f"(if (i32.eqz (local.get $errno)) (then (call {handle} (local.get $out))))"
        calls += f"{call} (br $made))\n"
    poke = "(call $value (local.get $at) (i32.const 0)) (call $value (local.get $at) (i32.const 1))"
    blocks = "".join(f"(block $c{number} " for number in reversed(range(len(table) + 2)))
    opened = "".join(
        f"""(global ${what} (mut i32) (i32.const -1))
        (func $new_{what} (param $out i32) (local $new i32)
          (local.set $new (i32.load (local.get $out)))
          (if (i32.le_s (local.get $new) (global.get ${what}))
            (then (global.set $reused (i32.add (global.get $reused) (i32.const 1)))))
          (global.set ${what} (local.get $new)))"""
        for what in ("graph", "context")
    )
    return f"""(module
      {imports}
      (import "fuzz" "fill" (func $fill))
      (memory (export "memory") {PAGES} {PAGES + 4})
      (global $reused (mut i32) (i32.const 0))
      (global $unknown (mut i32) (i32.const 0))
      (global $fine (mut i32) (i32.const 0))
      {opened}
      (func $value (param $at i32) (param $k i32) (result i32) (local $kind i32) (local $v i32)
        (local.set $kind (i32.load8_u offset=4 (i32.add (local.get $at) (local.get $k))))
        (local.set $v (i32.load offset=12
          (i32.add (local.get $at) (i32.shl (local.get $k) (i32.const 2)))))
        (if (result i32) (i32.eqz (local.get $kind)) (then (local.get $v)) (else
          (i32.sub (if (result i32) (i32.eq (local.get $kind) (i32.const {GRAPH}))
            (then (global.get $graph)) (else (global.get $context))) (local.get $v)))))
      (func (export "run") (param $count i32) (param $known i32) (param $more i32) (result i32)
        (local $at i32) (local $end i32) (local $errno i32) (local $out i32)
        (call $fill)
        (local.set $at (i32.const {TABLE}))
        (local.set $end (i32.add (local.get $at) (i32.shl (local.get $count) (i32.const 5))))
        (block $done (loop $next
          (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
          (local.set $errno (i32.const 0))
          (block $made
            {blocks}
            (br_table {labels} (i32.load (local.get $at))))
            {calls}
            (i32.store {poke}) (br $made))
            (drop (memory.grow (call $value (local.get $at) (i32.const 0))))
          )
          (if (i32.eqz (local.get $errno))
            (then (global.set $fine (i32.add (global.get $fine) (i32.const 1)))))
          (if (i32.eqz (i32.or
              (i32.and (i32.lt_u (local.get $errno) (i32.const 32))
                (i32.and (i32.const 1) (i32.shr_u (local.get $known) (local.get $errno))))
              (i32.and (local.get $more) (i32.and (i32.ge_u (local.get $errno) (i32.const 100))
                (i32.le_u (local.get $errno) (i32.const 103))))))
            (then (global.set $unknown (i32.add (global.get $unknown) (i32.const 1)))))
          (local.set $at (i32.add (local.get $at) (i32.const 32)))
          (br $next)))
        (local.get $errno))
      (func (export "unknown") (result i32) (global.get $unknown))
      (func (export "reused") (result i32) (global.get $reused))
      (func (export "fine") (result i32) (global.get $fine))
      (func (export "graph") (result i32) (global.get $graph))
      (func (export "context") (result i32) (global.get $context)))"""


class Driver:
    """Drives one guest. ``make(calls)`` makes the calls, and returns the errno of the last one."""

    def __init__(self, dialect: Dialect, table: dict[str, int]) -> None:
        self._numbers = {name: number for number, name in enumerate([*table, POKE, GROW])}
        known = {0, *dialect.errnos.values()}
        self._known = sum(1 << errno for errno in known if errno < 31)
        self._more = int(any(errno >= 100 for errno in known))
        self._pending: list[tuple[int, bytes]] = []
        #: What to read at the next call: address, size, and the list that gets the bytes.
        self.reads: list[tuple[int, int, list[bytes]]] = []
        self.guest: Guest | None = None

    @property
    def extra(self) -> HostFunction:
        """The function with which the guest gets what is written to its memory."""
        return HostFunction("fuzz", "fill", 0, False, self._fill)

    def _fill(self, memory: GuestMemory) -> None:
        for at, data in self._pending:
            memory.write(at, data)
        self._pending.clear()
        for at, size, read in self.reads:
            read.append(bytes(memory.read(at, size)))
        self.reads.clear()

    def write(self, at: int, data: bytes) -> None:
        """Write to the guest's memory, before its next call."""
        self._pending.append((at, data))

    def make(self, *calls: Call) -> int:
        """Make calls, at most ``MAX_CALLS``."""
        assert self.guest is not None
        packed = bytearray()
        for call in calls:
            values = [value & 0xFFFFFFFF for value in call.values]
            values += [0] * (5 - len(values))
            kinds = [*call.kinds, 0, 0, 0, 0, 0][:5]
            packed += RECORD.pack(self._numbers[call.function], *kinds, *values)
        self.write(TABLE, bytes(packed))
        (errno,) = self.guest.call("run", len(calls), self._known, self._more)
        return int(errno)

    def number(self, export: str) -> int:
        """What the guest has counted: ``unknown``, ``reused``, ``fine``; or its newest handles,
        ``graph`` and ``context``."""
        assert self.guest is not None
        return int(self.guest.call(export)[0])


def assembler() -> Callable[[str], bytes]:
    """What assembles WAT."""
    import wasmtime

    return lambda wat: bytes(wasmtime.wat2wasm(wat))
