"""The code for libwasmer, with wasmtime's `wasm_*` functions and a stand-in for `wasi_*`.

Mock: the `wasi_*` and `wasmer_*` functions are written in Python, as wasmer's header describes
them. They check ownership and what is freed, and run without libwasmer. test_wasmer.py runs the
real library if WASI_NN_LIBWASMER names it.
"""

from __future__ import annotations

import ctypes
import threading
from itertools import count

import pytest

from wasi_nn import hookimpl
from wasi_nn.errors import Unavailable, UsageError
from wasi_nn.plugins import Plugins, availability
from wasi_nn.runtime import Runtime, RuntimeFeatures
from wasi_nn.runtime.library import POINTER
from wasi_nn.runtime.wasm_c_api import CALLBACK, Vector, bytes_vector
from wasi_nn.types import Availability
from wasi_nn_conformance.engine_tests import EngineTests
from wasi_nn_conformance.places import GUESTS
from wasi_nn_wasmer import library as ours

ffi = pytest.importorskip("wasmtime._ffi")


class StandIn:
    """wasmtime's library, with functions of wasmer's header added."""

    def __init__(self):
        self._real = ctypes.CDLL(str(ffi.filename))
        self._name, self._handle = self._real._name, self._real._handle
        self.calls: list[str] = []
        self.alive = 0
        self.opens = True
        self.kept = []


def stand_in(monkeypatch) -> tuple[ours.WasmerApi, StandIn]:
    """An API whose `wasi_*` functions are written in Python."""
    library = StandIn()
    real = library._real
    found = lambda name, result, *types: _typed(real, name, result, *types)  # noqa: E731
    # By environment: several threads make some at the same time.
    named: dict[int, tuple[bytes, bytes, int]] = {}
    environments, lock = count(77), threading.Lock()

    def environment(store, config):
        library.calls.append("env_new")
        with lock:
            library.alive += 1
            number = next(environments)
        # One function, for files. It reports that each write has 7 bytes.
        kind = _i32s(found, 4), _i32s(found, 1)
        functype = found("wasm_functype_new", POINTER, POINTER, POINTER)(
            *(ctypes.addressof(vector) for vector in kind)
        )

        def write(arguments, results):
            library.calls.append(f"fd_write {arguments[1][2]}")
            results[1][0], results[1][2] = 0, 0
            return

        callback = CALLBACK(write)
        library.kept.append(callback)
        func = found("wasm_func_new", POINTER, POINTER, POINTER, CALLBACK)(
            store, functype, callback
        )
        extern = found("wasm_func_as_extern", POINTER, POINTER)(func)
        named[number] = (b"wasi_snapshot_preview1", b"fd_write", extern)
        return number

    def imports(env, module, vector):
        library.calls.append("get_imports")
        items = (ctypes.c_void_p * 1)(env)
        library.kept.append(items)
        vector.contents.size, vector.contents.data = 1, ctypes.addressof(items)
        return True

    def name_of(which):
        def get(item):
            vector = bytes_vector(named[item][which])
            library.kept.append(vector)
            return ctypes.addressof(vector)

        return get

    def say(text, result):
        def called(*arguments):
            library.calls.append(text)
            return result

        return called

    def delete(env):
        with lock:
            library.alive -= 1

    functions = {
        "wasmer_version": lambda: b"0.0.0-stand-in",
        "wasi_config_new": say("config_new", 55),
        "wasi_config_mapdir": lambda *arguments: say("mapdir", library.opens)(),
        "wasi_env_new": environment,
        "wasi_env_initialize_instance": say("initialize", True),
        "wasi_get_unordered_imports": imports,
        "wasmer_named_extern_module": lambda item: _pointer(name_of(0)(item)),
        "wasmer_named_extern_name": lambda item: _pointer(name_of(1)(item)),
        "wasmer_named_extern_unwrap": lambda item: named[item][2],
        "wasmer_named_extern_vec_delete": say("imports_delete", None),
        "wasi_env_delete": delete,
    }
    lean = ours.lean

    def fetch(library, name, result, *types):
        if name not in functions:
            return lean(real, name, result, *types)
        function = functions[name]
        if ctypes.POINTER(Vector) in types:
            return lambda *arguments: function(
                *(a._obj and ctypes.pointer(a._obj) if hasattr(a, "_obj") else a for a in arguments)
            )
        return function

    monkeypatch.setattr(ours, "lean", fetch)
    return ours.WasmerApi(real), library


def _typed(library, name, result, *types):
    function = library[name]
    function.restype, function.argtypes = result, types
    return function


def _i32s(found, count):
    valtype = found("wasm_valtype_new", POINTER, ctypes.c_uint8)
    items = (ctypes.c_void_p * count)(*[valtype(0) for _ in range(count)])
    vector = Vector()
    found("wasm_valtype_vec_new", None, POINTER, ctypes.c_size_t, POINTER)(
        ctypes.addressof(vector), count, ctypes.addressof(items)
    )
    return vector


def _pointer(address):
    return ctypes.cast(address, ctypes.POINTER(Vector))


class TestLibrary(EngineTests):
    runtime = "stand-in"
    installed = False

    @pytest.fixture
    def library(self, monkeypatch):
        return stand_in(monkeypatch)

    @pytest.fixture
    def plugins(self, library):
        class StandInRuntime(Runtime):
            name = "stand-in"
            features = RuntimeFeatures()

            def availability(self):
                return Availability(True, "ready")

            def compile(self, wasm, limits):
                return ours.LibraryModule(library[0], wasm)

        class Plugin:
            @hookimpl
            def wasi_nn_runtimes(self):
                return [StandInRuntime()]

        plugins = Plugins.installed()
        plugins.register(Plugin(), "stand-in")
        return plugins

    def test_the_c_api_is_called_in_order(self, host, library, tmp_path):
        result = host.run(GUESTS / "hello/hello.wasm", dirs={"/data": tmp_path})
        assert result.stdout == b"hello, wasi-nn\n"
        assert library[1].calls == [
            "config_new",
            "mapdir",
            "env_new",
            "get_imports",
            "initialize",
            "imports_delete",
        ]
        assert library[1].alive == 0

    def test_a_directory_that_wasmer_refuses_is_explained(self, host, library, tmp_path):
        """Its configuration is freed with the environment that owns it."""
        library[1].opens = False
        with pytest.raises(UsageError, match="wasmer cannot open the directory"):
            host.run(GUESTS / "hello/hello.wasm", dirs={"/data": tmp_path})
        assert library[1].calls == ["config_new", "mapdir", "env_new"]
        assert library[1].alive == 0

    def test_calls_on_other_files_go_to_wasmers_own_functions(self, host, library, wat):
        wasm = wat(
            """(module (import "wasi_snapshot_preview1" "fd_write"
              (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
              (drop (call $write (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 64)))))"""
        )
        assert host.run(wasm).error is None
        assert "fd_write 5" in library[1].calls

    def test_a_guest_classifies_a_file(self):
        pytest.skip("the guest reads files, which the stand-in has not")

    @pytest.fixture
    def place(self):
        pytest.skip("the stand-in has no directories")

    @pytest.fixture
    def sockets(self):
        pytest.skip("the guests need functions beside sockets, which the stand-in has not")

    def test_every_wasi_function_can_be_imported(self):
        pytest.skip("the stand-in has one function")

    def test_a_guest_opens_only_so_many_files(self):
        pytest.skip("the guest opens files, which the stand-in has not")

    def test_a_closed_file_does_not_count(self):
        pytest.skip("the guest opens files, which the stand-in has not")

    def test_a_renumbered_file_counts_once(self):
        pytest.skip("the guest opens files, which the stand-in has not")

    def test_a_guest_sleeps_for_a_time(self):
        pytest.skip("the guest reads a clock, which the stand-in has not")

    def test_a_guest_sleeps_until_a_time(self):
        pytest.skip("the guest reads a clock, which the stand-in has not")

    def test_nothing_leaks_over_many_runs(self):
        pytest.skip("the stand-in keeps what it makes")


def test_without_a_library_the_runtime_is_unavailable(monkeypatch):
    monkeypatch.setenv(ours.VARIABLE, "/no/libwasmer.so")
    ours.api.forget()
    with pytest.raises(Unavailable, match=r"WASI_NN_LIBWASMER names /no/libwasmer.so"):
        ours.api()
    from wasi_nn_wasmer.runtime import WasmerRuntime

    assert "cannot be loaded" in availability(WasmerRuntime()).detail
