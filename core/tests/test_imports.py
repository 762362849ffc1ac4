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
        ("wasi_snapshot_preview1", "sock_lookup_ip", "WasmEdge's older sockets"),
        ("wasi_snapshot_preview1", "fd_explode", "not in WASI preview 1"),
        ("env", "emscripten_sleep", "the program that the guest was made for"),
        ("my_plugin", "go", "nothing that this host knows"),
        ("wasi", "thread-spawn", "a host with wasi-threads"),
    ],
)
def test_an_unknown_import_is_explained_before_the_start(host, wat, module, name, says):
    with pytest.raises(LinkError) as error:
        host.run(imports(wat, module, name))
    assert f"{module}.{name}" in str(error.value)
    assert says in str(error.value)


def test_a_wrong_signature_is_explained_before_the_start(host, wat):
    wasm = imports(wat, "wasi_ephemeral_nn", "compute", "(func (param i64) (result i32))")
    with pytest.raises(LinkError, match=r"compute as \(i64\) -> \(i32\); this host has \(i32\)"):
        host.run(wasm)


def test_an_import_of_the_wrong_kind_is_explained(host, wat):
    with pytest.raises(LinkError, match="as a global"):
        host.run(imports(wat, "wasi_ephemeral_nn", "compute", "(global i32)"))
    with pytest.raises(LinkError, match=r"the memory env\.memory"):
        host.run(imports(wat, "env", "memory", "(memory 1)"))


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        ('(memory (export "memory") 1 2 shared)', "between threads, which wasmtime does not have"),
        ("(memory 1 2 shared)", "between threads, which wasmtime does not have"),
        ('(import "env" "memory" (memory 1 2 shared))', r"it imports the memory env\.memory"),
    ],
)
def test_a_shared_memory_is_explained_before_the_start(host, wat, memory, says):
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


def test_missing_imports_are_grouped_by_who_provides_them(host, wat):
    """A guest of another host can have dozens of its imports; the reason comes once."""
    names = [("my_plugin", "go"), ("env", "a"), ("my_plugin", "stop"), ("env", "b"), ("env", "a")]
    imported = "".join(f'(import "{module}" "{name}" (func))' for module, name in names)
    more = '(import "env" "table" (table 1 funcref)) (import "env" "g" (global i32))'
    with pytest.raises(LinkError) as error:
        host.run(wat(f'(module {imported} {more} (func (export "_start")))'))
    assert str(error.value) == (
        "the guest cannot start: "
        "it imports my_plugin.go, my_plugin.stop, which come from nothing that this host knows; "
        "it imports env.a, env.b, which come from the program that the guest was made for (an "
        "Emscripten or embedder import); "
        "it imports the table env.table, the global env.g, which only the program that it was made "
        "for has"
    )


def test_a_thousand_missing_imports_are_not_all_listed(host, wat):
    imported = "".join(f'(import "env" "f{number}" (func))' for number in range(1000))
    with pytest.raises(LinkError, match=r"env\.f0, .*env\.f99 and 900 more, which come") as error:
        host.run(wat(f'(module {imported} (func (export "_start")))'))
    assert len(str(error.value)) < 2000


def test_the_newest_function_of_preview_1_is_known(host, wat):
    kind = "(func (param i32 i32 i32) (result i32))"
    assert host.run(imports(wat, "wasi_snapshot_preview1", "sock_accept", kind)).exit_code == 0
    with pytest.raises(LinkError, match=r"sock_accept as \(i32\) -> \(i32\); this host has"):
        host.run(imports(wat, "wasi_snapshot_preview1", "sock_accept"))


def test_types_of_the_gc_proposal_do_not_hide_signatures(host, wat):
    """Kotlin's guests have them, and import WASI."""
    kinds = """(rec (type $a (sub (struct (field i8) (field (mut (ref null $b))))))
        (type $b (array (mut (ref null $a)))) (type $c (sub final $a (struct (field i8)
        (field (mut (ref null $b))) (field f64)))))
        (type $f (func (param (ref null $c) i64) (result (ref null func))))"""
    imported = '(import "wasi_snapshot_preview1" "fd_write" (func (param i64)))'
    with pytest.raises(LinkError, match=r"fd_write as \(i64\) -> \(\); this host has"):
        host.run(wat(f'(module {kinds} {imported} (func (export "_start")))'))
