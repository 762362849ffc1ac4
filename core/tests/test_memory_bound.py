"""Limits on memory that are written into a module."""

from __future__ import annotations

import pytest
from conftest import needs

from wasi_nn import Host
from wasi_nn.errors import LimitExceeded
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.memory_bound import bounded

LIMIT = 4 << 16
GROW = """(func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "table") (param i32) (result i32)
      (table.grow $t (ref.null func) (local.get 0)))"""


@pytest.fixture
def host():
    needs("wasmtime")
    with Host(runtime="wasmtime") as made:
        yield made


@pytest.mark.parametrize("limit", [(4 << 30) + 65536, (1 << 63) - 1])
@pytest.mark.parametrize("kind", ["", "i64 "])
def test_a_limit_above_what_a_memory_can_have_changes_nothing(host, wat, limit, kind):
    wasm = wat(f'(module (memory {kind}1) (table {kind}1 funcref) (func (export "run")))')
    with host.compile(bounded(wasm, limit)).instantiate() as guest:
        assert guest.call("run") == ()


@pytest.mark.parametrize(
    ("memory", "table", "grown", "elements"),
    [
        ("1", "5", 4, 32768),
        ("1 65536", "5 4000000000", 4, 32768),
        ("1 3", "5 100", 3, 100),
        ("4", "32768", 4, 32768),
        ("0 0", "0 0", 0, 0),
        ("i64 1", "5", 4, 32768),
    ],
)
def test_memories_and_tables_do_not_grow_beyond_the_limit(
    host, wat, memory, table, grown, elements
):
    grow = GROW.replace("(memory.grow (local.get 0))", "(i32.const 0)")
    if "i64" not in memory:
        grow = GROW
    text = f"(module (memory {memory}) (table $t {table} funcref) {grow})"
    start, first = int(memory.removeprefix("i64 ").split()[0]), int(table.split()[0])
    with host.compile(bounded(wat(text), LIMIT)).instantiate() as guest:
        if "i64" not in memory:
            assert guest.call("memory", grown - start + 1) == (-1,)
            assert guest.call("memory", grown - start) == (start,)
        assert guest.call("table", elements - first + 1) == (-1,)
        assert guest.call("table", elements - first) == (first,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(memory 5)", "262144 bytes: 327680 bytes"),
        ("(table 40000 funcref)", "262144 bytes: 320000 bytes"),
        ("(table 20000 funcref)" * 2, "262144 bytes: 320000 bytes"),
        ("(memory 1) (memory 1)", "the guest has 2"),
    ],
)
def test_a_module_that_starts_above_the_limit_is_refused(wat, text, says):
    with pytest.raises(LimitExceeded, match=says):
        bounded(wat(f"(module {text})"), LIMIT)


@pytest.mark.parametrize(
    "section",
    [b"\x05\x03\x01\x08\x01", b"\x04\x06\x01\x40\x00\x70\x00\x01", b"\x04\x05\x01\x64\x70\x00\x01"],
)
def test_a_section_of_unknown_form_is_refused(section):
    with pytest.raises(LimitExceeded, match="does not support this new kind"):
        bounded(b"\0asm\1\0\0\0" + section, LIMIT)


def test_tables_share_the_limit(host, wat):
    grows = "".join(
        f"""(func (export "grow{number}") (param i32) (result i32)
          (table.grow {number} (ref.null func) (local.get 0)))"""
        for number in range(3)
    )
    wasm = wat(f"(module (table 8 funcref) (table 0 funcref) (table 0 5 funcref) {grows})")
    with host.compile(bounded(wasm, 8 * 308)).instantiate() as guest:
        assert [guest.call(f"grow{number}", 101) for number in range(3)] == [(-1,)] * 3
        assert guest.call("grow0", 100) == (8,)
        assert guest.call("grow1", 100) == (0,)
        assert guest.call("grow2", 6) == (-1,)
        assert guest.call("grow2", 5) == (0,)


def test_bounded_guests_run_as_before(host, guests, wat):
    for name in ("hello", "echo", "classify"):
        wasm = (guests / name / f"{name}.wasm").read_bytes()
        changed = bounded(wasm, 64 << 20)
        assert wasm_module.parse(changed).imports == wasm_module.parse(wasm).imports
        assert host.run(changed).exit_code == host.run(wasm).exit_code
    plain = wat("(module)")
    assert bounded(plain, LIMIT) == plain
