"""Reading Wasm binaries, sound and damaged."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasi_nn.errors import UsageError
from wasi_nn.wasm import component as wasm_component
from wasi_nn.wasm import module as wasm_module

TEXT = """
(module
  (import "a" "f" (func (param i32 i64) (result f32)))
  (import "a" "m" (memory 1 2))
  (import "b" "t" (table 1 funcref))
  (import "b" "g" (global (mut i32)))
  (func (export "_start"))
  (memory (export "memory") 1))
""".replace('(memory (export "memory") 1)', "")


def test_imports_and_exports_are_read(wat):
    module = wasm_module.parse(wat(TEXT))
    kinds = [(item.module, item.name, item.kind) for item in module.imports]
    assert kinds == [
        ("a", "f", "func"),
        ("a", "m", "memory"),
        ("b", "t", "table"),
        ("b", "g", "global"),
    ]
    assert str(module.imports[0].signature) == "(i32, i64) -> (f32)"
    assert module.exports == (("_start", "func"),)
    assert module.imported("a") == {"f", "m"}


def test_signatures_of_exports_are_read(wat):
    module = wasm_module.parse(
        wat(
            """(module (type $s (struct (field i32))) (import "a" "f" (func $f (param i64)))
            (export "imported" (func $f)) (func (param i32) (result f32 f64) unreachable)
            (func (export "own") (param v128) (result externref) unreachable)
            (func (export "typed") (param (ref null $s)) (result i32) unreachable)
            (memory (export "memory") 1))"""
        )
    )
    assert {name: str(signature) for name, signature in module.signatures.items()} == {
        "imported": "(i64) -> ()",
        "own": "(v128) -> (ref)",
        "typed": "(ref) -> (i32)",
    }


def test_memories_and_tables_are_read(wat):
    module = wasm_module.parse(
        wat(
            """(module (import "a" "m" (memory 1 2)) (import "b" "t" (table 1 funcref))
            (memory 3) (memory 1 8 shared) (table 5 7 externref) (func $f) (elem declare func $f)
            (table 300 (ref func) (ref.func $f)) (table 9 funcref))"""
        )
    )
    assert module.memories == ((1, 2, False), (3, None, False), (1, 8, True))
    assert module.memory_pages == 5
    assert [table[:2] for table in module.tables] == [(1, None), (5, 7), (300, None), (9, None)]


def test_an_unreadable_table_counts_as_a_large_one(wat):
    module = wasm_module.parse(
        wat(
            """(module (type $s (struct (field i32)))
            (table 3 (ref $s) (struct.new $s (i32.const 1))) (table 9 funcref)
            (func (export "f")))"""
        )
    )
    assert [table[:2] for table in module.tables] == [(3, None), (1 << 32, None)]
    assert str(module.signatures["f"]) == "() -> ()"


def test_the_checked_in_guests_are_read(guests):
    for path in guests.glob("*/*.wasm"):
        if path.stem.endswith("-wit"):
            names = wasm_component.parse(path.read_bytes()).imports
            assert "wasi:nn/graph@0.2.0-rc-2024-10-28" in names
            continue
        module = wasm_module.parse(path.read_bytes())
        assert ("_start", "func") in module.exports
        assert ("memory", "memory") in module.exports


def test_what_is_not_a_core_module_is_refused():
    component = b"\0asm\x0d\0\x01\0"
    assert wasm_module.is_wasm(component)
    assert wasm_module.is_component(component)
    with pytest.raises(UsageError, match="component"):
        wasm_module.parse(component)
    with pytest.raises(UsageError, match="not a WebAssembly module"):
        wasm_module.parse(b"MZ something else")


@given(st.binary(max_size=200))
def test_garbage_is_a_usage_error_at_most(tail):
    with contextlib.suppress(UsageError):
        wasm_module.parse(b"\0asm\x01\0\0\0" + tail)


@given(st.data())
def test_a_damaged_module_is_a_usage_error_at_most(guests_bytes, data):
    damaged = bytearray(guests_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UsageError):
        wasm_module.parse(bytes(damaged[: data.draw(st.integers(8, len(damaged)))]))


@pytest.fixture(scope="module")
def guests_bytes():
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    return (root / "conformance/guests/hello/hello.wasm").read_bytes()


def section(number, *content):
    return b"".join(wasm_module.section_bytes(number, *content))


def vector(count, item):
    return wasm_module.leb(count) + item * count


@pytest.mark.parametrize(
    "sections",
    [
        b"\0\1\0" * 300_000,
        section(1, vector(300_000, b"\x60\0\0")),
        section(1, b"\1\x60", vector(300_000, b"\x7f"), b"\0"),
        section(1, b"\1\x5f", vector(300_000, b"\x7f\0")),
        section(2, vector(300_000, b"\0\0\0\0")),
        section(4, b"\1\x40\0\x70\0\1", b"\x6a" * 300_000, b"\x0b"),
        section(5, vector(300_000, b"\0\1")),
        section(7, vector(300_000, b"\0\0\0")),
    ],
    ids="custom types parameters fields imports constant memories exports".split(),
)
def test_a_module_lists_only_so_much(sections):
    """Each entry takes time and memory before a limit of the guest holds."""
    with pytest.raises(UsageError, match="more than 250000 types, imports, exports and sections"):
        wasm_module.parse(b"\0asm\1\0\0\0" + sections)


def test_many_functions_are_read():
    count = 300_000
    file = wasm_module.parse(
        b"\0asm\1\0\0\0"
        + section(1, b"\1\x60\0\1\x7f")
        + section(3, vector(count, b"\0"))
        + section(7, b"\1\1f\0", wasm_module.leb(count - 1))
    )
    assert file.signatures["f"] == ((), ("i32",))
