"""Our declarations of wasmtime's C library, beside the bindings of the installed package."""

from __future__ import annotations

import ctypes

import pytest
from conftest import needs_engine, run_python

needs_engine("wasmtime")

from wasmtime import _bindings as theirs  # noqa: E402
from wasmtime import _ffi as ffi  # noqa: E402

from wasi_nn_wasmtime import (  # noqa: E402
    capi,
    components,
    functions,
    instance,
    streams,
    values,
    versions,
)
from wasi_nn_wasmtime.failures import Trap  # noqa: E402
from wasi_nn_wasmtime.runtime import WasmtimeRuntime  # noqa: E402

# They declare functions when they are imported.
DECLARING = (components, instance, streams, values)


def shape(kind: object) -> object:
    """What a C function's caller has to know of a type: pointers are all alike."""
    if kind is None:
        return None
    assert isinstance(kind, type)
    if issubclass(kind, (ctypes._Pointer, ctypes._CFuncPtr, ctypes.c_void_p, ctypes.c_char_p)):
        return "pointer"
    code = str(kind._type_)  # type: ignore[attr-defined]
    return code, ctypes.sizeof(kind)


def test_every_function_is_declared_as_in_the_installed_package():
    assert len(capi.declared) > 50, DECLARING
    for name, (result, parameters) in capi.declared.items():
        function = getattr(theirs, f"_{name}")
        wanted = shape(function.restype), [shape(kind) for kind in function.argtypes]
        assert (shape(result), [shape(kind) for kind in parameters]) == wanted, name


@pytest.mark.parametrize(
    ("ours", "package"),
    [
        (capi.Extern, ffi.wasmtime_extern_t),
        (capi.Instance, ffi.wasmtime_instance_t),
        (capi.Vector, ffi.wasm_byte_vec_t),
        (functions.Value, ffi.wasmtime_val_t),
    ],
)
def test_the_structures_have_the_packages_sizes(ours, package):
    assert ctypes.sizeof(ours) == ctypes.sizeof(package)
    assert ctypes.alignment(ours) == ctypes.alignment(package)


def test_the_offsets_and_numbers_are_the_packages():
    assert capi.Extern.holds.offset == ffi.wasmtime_extern_t.of.offset
    assert functions.Value.raw.offset == ffi.wasmtime_val_t.of.offset
    assert ffi.WASMTIME_EXTERN_FUNC.value == capi.Extern.FUNCTION
    assert ffi.WASMTIME_EXTERN_MEMORY.value == capi.Extern.MEMORY
    code = ffi.wasmtime_trap_code_enum.WASMTIME_TRAP_CODE_OUT_OF_FUEL
    assert code.value == Trap.OUT_OF_FUEL


def test_the_installed_version_is_known():
    assert WasmtimeRuntime().availability().usable


@pytest.mark.parametrize("version", ["47.0.1", "51.0.0", "dev", ""])
def test_another_version_is_refused_with_what_to_install(monkeypatch, version):
    monkeypatch.setattr("wasi_nn_wasmtime.runtime.installed_version", lambda name: version)
    found = WasmtimeRuntime().availability()
    assert not found.usable
    assert "known here from 48 to 50" in found.detail
    assert 'pip install "wasmtime>=48,<51"' in found.detail
    assert (version or "without its version") in found.detail


@pytest.mark.parametrize("version", ["48.0.0", "49.0.0", "50.0.1"])
def test_a_known_version_is_not_refused(version):
    assert versions.refusal(version) is None


def test_a_core_module_runs_without_the_package(guests):
    code = (
        "import sys; from wasi_nn import Host\n"
        "with Host(runtime='wasmtime') as host:\n"
        f"    print(host.run({str(guests / 'hello/hello.wasm')!r}).check().stdout)\n"
        "print('wasmtime' in sys.modules)"
    )
    assert run_python(code, check=True).stdout.splitlines()[-1] == "False"
