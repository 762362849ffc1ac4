"""Where a module finds what it imports."""

from __future__ import annotations

import ctypes
from typing import Any

from wasi_nn.wasm.arguments import KINDS
from wasi_nn.wasm.module import Signature
from wasi_nn_wasmtime.capi import POINTER, Extern, Vector, brief, lean
from wasi_nn_wasmtime.engine import Compiled, Engine
from wasi_nn_wasmtime.failures import raise_error

#: ``wasmtime_func_unchecked_callback_t``.
CALLBACK: Any = ctypes.CFUNCTYPE(
    POINTER, POINTER, POINTER, ctypes.POINTER(ctypes.c_uint32), ctypes.c_size_t
)

_VECTOR = ctypes.POINTER(Vector)
_NAME = ctypes.c_char_p, ctypes.c_size_t
_new = brief("wasmtime_linker_new", POINTER, POINTER)
_allow_shadowing = brief("wasmtime_linker_allow_shadowing", None, POINTER, ctypes.c_bool)
_define_wasi = lean("wasmtime_linker_define_wasi", POINTER, POINTER)
_define = lean(
    "wasmtime_linker_define_func_unchecked",
    *(POINTER, POINTER, *_NAME, *_NAME, POINTER, CALLBACK, POINTER, POINTER),
)
_get = brief(
    "wasmtime_linker_get",
    *(ctypes.c_bool, POINTER, POINTER, *_NAME, *_NAME, ctypes.POINTER(Extern)),
)
_link = lean("wasmtime_linker_instantiate_pre", POINTER, POINTER, POINTER, POINTER)
_kind_new = brief("wasm_valtype_new", POINTER, ctypes.c_uint8)
_kinds_new = brief("wasm_valtype_vec_new", None, _VECTOR, ctypes.c_size_t, POINTER)
_type_new = brief("wasm_functype_new", POINTER, _VECTOR, _VECTOR)
_type_delete = brief("wasm_functype_delete", None, POINTER)


class Linker:
    """A linker with wasmtime's WASI."""

    _delete = staticmethod(lean("wasmtime_linker_delete", None, POINTER))

    def __init__(self, engine: Engine) -> None:
        self._at: int = _new(engine.at)
        raise_error(_define_wasi(self._at))
        # What is defined from now on comes before wasmtime's own.
        _allow_shadowing(self._at, True)

    def __del__(self) -> None:
        self._delete(self._at)

    def define(self, module: str, name: str, signature: Signature, callback: Any) -> None:
        """Define a function of numbers. ``callback``, a ``CALLBACK``, must live as long as whatever
        is linked with it."""
        # A type belongs to the first engine that uses it. A second engine would abort the process,
        # so every definition makes its own.
        parameters, results = (_kinds(names) for names in signature)
        kind = _type_new(parameters, results)
        try:
            raise_error(_define(self._at, *_given(module, name), kind, callback, None, None))
        finally:
            _type_delete(kind)

    def get(self, context: int, module: str, name: str) -> Extern:
        """What a guest in the store of this context would import. Raises ``KeyError``."""
        found = Extern()
        if not _get(self._at, context, *_given(module, name), found):
            raise KeyError(f"{module}.{name}")
        return found

    def link(self, module: Compiled) -> int:
        """The address of a ``wasmtime_instance_pre_t``, for the caller to free. Raises
        ``WasmtimeError`` for an import that nothing meets."""
        linked = POINTER()
        raise_error(_link(self._at, module.at, ctypes.addressof(linked)))
        return linked.value or 0


def _given(module: str, name: str) -> tuple[bytes, int, bytes, int]:
    within, called = module.encode(), name.encode()
    return within, len(within), called, len(called)


def _kinds(names: tuple[str, ...]) -> Vector:
    """Types of numbers. Whoever gets them frees them."""
    kinds = (POINTER * len(names))(*[_kind_new(KINDS[name]) for name in names])
    vector = Vector()
    _kinds_new(vector, len(names), ctypes.addressof(kinds))
    return vector
