"""An import that cannot be met is explained before the guest starts."""

from __future__ import annotations

import pytest

from wasi_nn.errors import LinkError


def imports(wat, module, name, kind="(func (param i32) (result i32))"):
    return wat(f'(module (import "{module}" "{name}" {kind}) (func (export "_start")))')


@pytest.mark.parametrize(
    ("module", "name", "says"),
    [
        ("wasi_ephemeral_nn", "compute_twice", "no wasi-nn host is known"),
        ("wasi_ephemeral_tensorflow", "create_session", "WasmEdge's TensorFlow plugin"),
        ("wasi_snapshot_preview1", "sock_open", "WasmEdge's socket extension"),
        ("wasi_snapshot_preview1", "fd_explode", "not a function of WASI preview 1"),
        ("env", "emscripten_sleep", "the program that the guest was made for"),
        ("my_plugin", "go", "nothing that this host knows"),
        ("wasi", "thread-spawn", "a host with wasi-threads"),
    ],
)
def test_unknown_imports(host, wat, module, name, says):
    with pytest.raises(LinkError) as error:
        host.run(imports(wat, module, name))
    assert f"{module}.{name}" in str(error.value)
    assert says in str(error.value)


def test_a_wrong_signature(host, wat):
    wasm = imports(wat, "wasi_ephemeral_nn", "compute", "(func (param i64) (result i32))")
    with pytest.raises(LinkError, match=r"compute as \(i64\) -> \(i32\); this host has \(i32\)"):
        host.run(wasm)


def test_a_wrong_kind(host, wat):
    with pytest.raises(LinkError, match="as a global"):
        host.run(imports(wat, "wasi_ephemeral_nn", "compute", "(global i32)"))
    with pytest.raises(LinkError, match=r"env\.memory, a memory, which only the program"):
        host.run(imports(wat, "env", "memory", "(memory 1)"))


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        ('(memory (export "memory") 1 2 shared)', "between threads, which wasmtime does not have"),
        ("(memory 1 2 shared)", "between threads, which wasmtime does not have"),
        ('(import "env" "memory" (memory 1 2 shared))', r"it imports env\.memory, a memory"),
    ],
)
def test_a_memory_that_is_shared_between_threads(host, wat, memory, says):
    """wasmtime itself says `Config::shared_memory`, when the guest has begun."""
    with pytest.raises(LinkError, match=says) as error:
        host.run(wat(f'(module {memory} (func (export "_start")))'))
    assert str(error.value).endswith("build it for wasm32-wasip1, without -pthread")


def test_every_problem_is_named(host, wat):
    wasm = wat(
        '(module (import "env" "a" (func)) (import "other" "b" (func)) (func (export "_start")))'
    )
    with pytest.raises(LinkError, match=r"env\.a.*other\.b"):
        host.run(wasm)


def test_imports_of_one_module_are_told_together(host, wat):
    many = [f"tensor_{number}" for number in range(24)]
    names = [("wasi_ephemeral_tensorflow", name) for name in many]
    names += [("env", "a"), ("env", "a"), ("env", "b"), ("wasi_snapshot_preview1", "sock_open")]
    names += [("wasi_snapshot_preview1", "sock_bind"), ("alone", "go"), ("{x}", "{0}")]
    text = "".join(f'(import "{module}" "{name}" (func))' for module, name in names)
    with pytest.raises(LinkError) as error:
        host.run(wat(f'(module {text} (func (export "_start")))'))
    told = str(error.value)
    first = ", ".join(many[:6])
    assert f"wasi_ephemeral_tensorflow.{first} and 18 more, which come from WasmEdge's" in told
    assert "it imports env.a, b, which come from the program" in told
    assert "preview1.sock_open, sock_bind, which are WasmEdge's socket extension" in told
    assert "it imports alone.go, which comes from nothing" in told
    assert "it imports {x}.{0}, which comes from nothing" in told
    assert len(told) < 900


def test_the_latest_function_of_preview_1(host, wat):
    kind = "(func (param i32 i32 i32) (result i32))"
    assert host.run(imports(wat, "wasi_snapshot_preview1", "sock_accept", kind)).exit_code == 0
    with pytest.raises(LinkError, match=r"sock_accept as \(i32\) -> \(i32\); this host has"):
        host.run(imports(wat, "wasi_snapshot_preview1", "sock_accept"))


def test_types_of_garbage_collection_hide_no_signature(host, wat):
    """Kotlin's guests have them, and import WASI."""
    kinds = """(rec (type $a (sub (struct (field i8) (field (mut (ref null $b))))))
        (type $b (array (mut (ref null $a)))) (type $c (sub final $a (struct (field i8)
        (field (mut (ref null $b))) (field f64)))))
        (type $f (func (param (ref null $c) i64) (result (ref null func))))"""
    imported = '(import "wasi_snapshot_preview1" "fd_write" (func (param i64)))'
    with pytest.raises(LinkError, match=r"fd_write as \(i64\) -> \(\); this host has"):
        host.run(wat(f'(module {kinds} {imported} (func (export "_start")))'))
