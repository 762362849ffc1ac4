"""Components whose lists of bytes pass through their memory behave as they did before."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authoring.components import component
from wasi_nn import Host
from wasi_nn.errors import DeadlineExceeded, GuestTrap, LimitExceeded, OutOfFuel, UsageError
from wasi_nn.limits import Limits
from wasi_nn.runtime.component import is_wasi
from wasi_nn_conformance.engine_tests.common import together

wasmtime = pytest.importorskip("wasmtime", reason="wasmtime is not installed")
pytest.importorskip("wasmtime.component")

from wasi_nn_wasmtime import values  # noqa: E402
from wasi_nn_wasmtime.bytes_through_memory import memories  # noqa: E402
from wasi_nn_wasmtime.bytes_through_memory.component_types import NotRewritable  # noqa: E402
from wasi_nn_wasmtime.bytes_through_memory.rewriting import lower_bytes_through_memory  # noqa: E402

pytestmark = pytest.mark.skipif(not memories.SUPPORTED, reason="this system has no mmap")

SIZE = 600_000
# $t: a tensor of 600,000 changing bytes from 100,001 on.
LARGE = f"""
  (local $t i32) (local $i i32) (local $at i32)
  (loop $l
    (i32.store8 (i32.add (i32.const 100001) (local.get $i))
      (i32.mul (local.get $i) (i32.const 7)))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $l (i32.lt_u (local.get $i) (i32.const {SIZE}))))
  (i32.store (i32.const 256) (i32.const {SIZE}))
  (local.set $t (call $tensor (i32.const 256) (i32.const 1) (i32.const 4)
    (i32.const 100001) (i32.const {SIZE})))
  (call $data (local.get $t) (i32.const 64))
  (if (i32.ne (i32.load (i32.const 68)) (i32.const {SIZE})) (then unreachable))
  (local.set $at (i32.load (i32.const 64)))
  (local.set $i (i32.const 0))
  (loop $l
    (if (i32.ne (i32.load8_u (i32.add (local.get $at) (local.get $i)))
        (i32.and (i32.mul (local.get $i) (i32.const 7)) (i32.const 255)))
      (then unreachable))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br_if $l (i32.lt_u (local.get $i) (i32.const {SIZE}))))
  (i32.const 0)
"""
SMALL = """
  (local $t i32)
  (local.set $t (call $tensor (i32.const 256) (i32.const 0) (i32.const 4)
    (i32.const {address}) (i32.const {size})))
  (call $data (local.get $t) (i32.const 64))
  (i32.ne (i32.load (i32.const 68)) (i32.const {size}))
"""
SECOND_MEMORY = "(core module $more (memory 1)) (core instance (instantiate $more))"


@pytest.fixture
def host():
    with Host(runtime="wasmtime") as host:
        yield host


def built(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def goes_through_memory(program) -> bool:
    return bool(program._code.made._compiled.declarations.returns_bytes)


@pytest.mark.parametrize(("more", "through_memory"), [("", True), (SECOND_MEMORY, False)])
def test_large_lists_are_copied_in_both_directions(
    host: Host, more: str, through_memory: bool
) -> None:
    program = host.compile(built(component(LARGE, more=more)))
    assert goes_through_memory(program) is through_memory
    assert program.run().check().exit_code == 0


@pytest.mark.parametrize(("address", "size"), [(2621440, 0), (2621439, 1), (0, 0), (3, 5)])
def test_lists_may_touch_the_edges_of_memory(host: Host, address: int, size: int) -> None:
    run = SMALL.format(address=address, size=size)
    assert host.compile(built(component(run))).run().check().exit_code == 0


@pytest.mark.parametrize(
    ("address", "size"), [(2621439, 2), (2621441, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0, 0x80000000)]
)
@pytest.mark.parametrize("more", ["", SECOND_MEMORY])
def test_a_list_outside_the_memory_ends_the_guest(
    host: Host, more: str, address: int, size: int
) -> None:
    run = SMALL.format(address=address, size=size)
    result = host.compile(built(component(run, more=more))).run()
    assert isinstance(result.error, GuestTrap)


def test_builders_outside_the_memory_end_the_guest(host: Host) -> None:
    run = """(i32.store (i32.const 256) (i32.const 2621439)) (i32.store (i32.const 260)
        (i32.const 100)) (call $load (i32.const 256) (i32.const 1) (i32.const 6) (i32.const 0)
        (i32.const 64)) (i32.const 0)"""
    result = host.compile(built(component(run))).run()
    assert "a list of 100 bytes at 0x27ffff is outside" in str(result.error)


@pytest.mark.parametrize("place", ["(i32.const 2621433)", "(i32.const -4)", "unreachable"])
def test_a_realloc_that_returns_nonsense_ends_the_guest(host: Host, place: str) -> None:
    text = component(SMALL.format(address=1024, size=8))
    text = text.replace("(local.get $at)))", f"{place}))")
    result = host.compile(built(text)).run()
    assert isinstance(result.error, GuestTrap)


def test_a_function_may_be_lowered_twice(host: Host) -> None:
    text = component(LARGE)
    lowered = "(core func $data (canon lower"
    again = lowered.replace("$data", "$other")
    assert lowered in text
    text = text.replace(
        lowered, f"{again} (func $host_data) (memory $bytes) (realloc $realloc)))\n{lowered}"
    )
    wasm = built(text)
    assert (
        lower_bytes_through_memory(wasm, is_wasi).wasm.count(b"\0asm") == wasm.count(b"\0asm") + 2
    )
    assert host.compile(wasm).run().check().exit_code == 0


def test_memory_grows_while_the_guest_runs_up_to_its_limit(host: Host) -> None:
    run = """(local $t i32)
      (if (i32.ne (memory.grow (i32.const 16)) (i32.const 40)) (then (return (i32.const 1))))
      (i32.store (i32.const 3670012) (i32.const 7))
      (local.set $t (call $tensor (i32.const 256) (i32.const 0) (i32.const 4)
        (i32.const 3670012) (i32.const 4)))
      (call $data (local.get $t) (i32.const 64))
      (i32.ne (i32.load (i32.load (i32.const 64))) (i32.const 7))"""
    program = host.compile(built(component(run)))
    assert program.run().check().exit_code == 0
    assert program.run(limits=Limits(memory=56 << 16)).check().exit_code == 0
    assert program.run(limits=Limits(memory=55 << 16)).exit_code == 1
    assert isinstance(program.run(limits=Limits(memory=39 << 16)).error, LimitExceeded)


def test_deadline_and_fuel_hold_in_rewritten_components(host: Host) -> None:
    wasm = built(component("(loop $l (br $l)) (i32.const 0)"))
    program = host.compile(wasm)
    assert goes_through_memory(program)
    assert isinstance(program.run(limits=Limits(timeout=0.1)).error, DeadlineExceeded)
    with Host(runtime="wasmtime", limits=Limits(fuel=100_000)) as limited:
        program = limited.compile(wasm)
        assert goes_through_memory(program)
        assert isinstance(program.run().error, OutOfFuel)


def test_rewritten_guests_run_in_two_threads(host: Host) -> None:
    program = host.compile(built(component(LARGE)))
    codes: list[int] = []

    def work() -> None:
        codes.extend(program.run().check().exit_code for _ in range(5))

    together([work] * 2)
    assert codes == [0] * 10


def test_memories_are_freed_with_their_guests(host: Host) -> None:
    program = host.compile(built(component(SMALL.format(address=0, size=0))))
    # (Components of other tests may sleep forever.)
    others = set(memories._memories)
    for _ in range(20):
        assert program.run().exit_code == 0
    gc.collect()
    assert set(memories._memories) <= others


def test_an_access_outside_the_memory_traps(host: Host) -> None:
    for address in (40 << 16, (1 << 32) - 4):
        result = host.compile(built(component(f"(i32.load (i32.const {address}))"))).run()
        assert "out of bounds memory access" in str(result.error)


def test_interfaces_of_wasi_are_not_rewritten() -> None:
    text = component("(i32.const 0)").replace("wasi:nn/", "wasi:io/")
    assert not lower_bytes_through_memory(built(text), is_wasi).returns_bytes
    assert lower_bytes_through_memory(built(text), lambda name: False).returns_bytes


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "(result (list u8))",
            "(result (list (list u8)))",
            "returns lists of bytes inside other values",
        ),
        (
            '"[method]tensor.data" (func (param "self" (borrow $tensor))',
            '"[method]tensor.data" (func (param "self" (borrow $tensor)) (param "x" string)',
            "returns bytes and takes more than numbers",
        ),
        ("(core module $memory", f"{SECOND_MEMORY} (core module $memory", "2 memories"),
        (
            "(core module $memory",
            "(component (core module)) (core module $memory",
            "contains",
        ),
    ],
)
def test_an_unknown_construct_is_not_rewritten(old: str, new: str, reason: str) -> None:
    text = component("(i32.const 0)")
    assert old in text
    if "string" in new:
        text = text.replace("$data (param i32 i32)", "$data (param i32 i32 i32 i32)")
    with pytest.raises(NotRewritable, match=reason):
        lower_bytes_through_memory(built(text.replace(old, new)), is_wasi)


WASM = built(component(LARGE))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(8, len(WASM) - 1), st.integers(0, 255)), max_size=4),
    st.integers(8, len(WASM)),
)
def test_damaged_components_are_refused_or_not_rewritten(
    changes: list[tuple[int, int]], length: int
) -> None:
    engine = wasmtime.Engine()
    data = bytearray(WASM)
    for at, byte in changes:
        data[at] = byte
    for wasm in (bytes(data), bytes(data[:length])):
        try:
            changed = lower_bytes_through_memory(wasm, is_wasi).wasm
        except NotRewritable:
            continue
        try:
            wasmtime.component.Component(engine, changed)
        except wasmtime.WasmtimeError:
            continue
        wasmtime.component.Component(engine, wasm)


def test_a_named_list_of_bytes_is_rewritten(host: Host) -> None:
    """Tools that start from WIT write such a type."""
    kinds = '(type $t (enum "FP16"'
    named = '(type $b (list u8)) (export "tensor-data" (type $d (eq $b)))'
    text = component(LARGE).replace(kinds, f"{named} {kinds}")
    text = text.replace('(param "data" (list u8))', '(param "data" $d)')
    program = host.compile(built(text.replace("(result (list u8))", "(result $d)")))
    assert goes_through_memory(program)
    assert program.run().check().exit_code == 0


def test_a_list_of_bytes_may_be_defined_outside_its_interface(host):
    text = component(SMALL.format(address=1024, size=5))
    text = text.replace("(component\n", "(component\n (type $list (list u8))\n", 1)
    text = text.replace(
        '(type $t (enum "FP16"', '(alias outer 1 $list (type $bytes)) (type $t (enum "FP16"', 1
    )
    given = '(param "self" (borrow $tensor)) (result '
    assert given + "(list u8))" in text
    program = host.compile(built(text.replace(given + "(list u8))", given + "$bytes)")))
    assert not goes_through_memory(program)
    assert program.run().check().exit_code == 0


@pytest.mark.parametrize("size", [0, 5])
def test_a_realloc_that_returns_the_hosts_mark_ends_the_guest(host, size):
    text = component(SMALL.format(address=1024, size=size))
    assert "(local.get $at)))" in text
    program = host.compile(built(text.replace("(local.get $at)))", "(i32.const -1)))")))
    assert goes_through_memory(program)
    result = program.run(stats=True)
    assert isinstance(result.error, GuestTrap)
    assert result.calls["tensor.data"].calls == 1


def test_types_that_double_at_every_level_are_read_quickly():
    types = '(type $t0 (record (field "a" u32))) (export "e0" (type $x0 (eq $t0)))'
    for i in range(1, 90):
        types += f"(type $t{i} (tuple $x{i - 1} $x{i - 1}))"
        types += f'(export "e{i}" (type $x{i} (eq $t{i})))'
    text = f'(import "acme:x/y" (instance {types} (export "f" (func (result $x89)))))'
    with pytest.raises(NotRewritable, match="0 memories"):
        lower_bytes_through_memory(built(f"(component {text})"), is_wasi)


def test_a_type_that_equals_itself_is_refused(host):
    wasm = bytearray(
        built(
            '(component (import "wasi:nn/x" (instance (type $t (list u8)) '
            '(export "e" (type $e (eq $t))) (export "f" (func (result $e))))))'
        )
    )
    at = wasm.find(b"\x04\x00\x01e\x03\x00\x00")
    assert at > 0
    wasm[at + 6] = 1
    with pytest.raises(UsageError, match="cannot compile the component"):
        host.compile(bytes(wasm))


def test_an_alias_of_too_many_levels_is_not_rewritten(host: Host) -> None:
    levels = b"\x80" * 8 + b"\x40"  # 2^62
    alias = b"\x01\x03\x02" + levels + b"\x00"
    with pytest.raises(UsageError, match="cannot compile"):
        host.compile(b"\0asm\x0d\0\1\0\x06" + bytes((len(alias),)) + alias)


def test_names_beyond_their_section_are_not_read(host: Host) -> None:
    """Each would be kept together with the rest of the file."""
    imports = b"\x0a\x05\x01\x00\x7f" + b"a" * 127 + b"\x01\x00"
    with pytest.raises(UsageError, match="longer than it says"):
        host.compile(b"\0asm\x0d\0\1\0" + imports)
    with pytest.raises(UsageError, match="longer than it says"):
        host.compile(b"\0asm\1\0\0\0" + b"\0\x02\x7f" + b"a" * 200)


def test_a_list_that_is_too_long_for_the_c_api_ends_the_guest(host: Host, monkeypatch) -> None:
    """Each byte would take 64 bytes. wasmtime itself bounds only what a guest passes."""
    monkeypatch.setattr(values, "_MAX_BYTES", SIZE - 1)
    result = host.compile(built(component(LARGE, more=SECOND_MEMORY))).run()
    assert isinstance(result.error, LimitExceeded)
    assert f"asked for a list of {SIZE} bytes; {SIZE - 1} are the most" in str(result.error)
    assert host.compile(built(component(LARGE))).run().check().exit_code == 0


@pytest.mark.parametrize("second", ["$t", "$other"])
def test_a_type_of_two_interfaces_is_not_rewritten(second: str) -> None:
    text = f"""(component
      (type $t (instance (export "f" (func (param "x" (list u8))))))
      (alias outer 0 $t (type $other))
      (import "a:b/one" (instance (type $t)))
      (import "a:b/two" (instance (type {second})))
      (core module $m (memory (export "memory") 1)) (core instance (instantiate $m)))"""
    with pytest.raises(NotRewritable, match="one type describes two interfaces"):
        lower_bytes_through_memory(built(text), is_wasi)
