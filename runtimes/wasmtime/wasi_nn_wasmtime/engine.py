"""wasmtime's engine, with its configuration and the code that it has compiled."""

from __future__ import annotations

import ctypes
from typing import Any

from wasi_nn_wasmtime.capi import POINTER, Vector, brief, lean
from wasi_nn_wasmtime.failures import raise_error

_SETTINGS = {
    name: brief(f"wasmtime_config_{name}_set", None, POINTER, ctypes.c_bool)
    for name in (
        "consume_fuel",
        "epoch_interruption",
        "memory_init_cow",
        "memory_may_move",
        "signals_based_traps",
    )
}
_config_new = brief("wasm_config_new", POINTER)
_load_cache = lean("wasmtime_config_cache_config_load", POINTER, POINTER, ctypes.c_char_p)
_engine_new = lean("wasm_engine_new_with_config", POINTER, POINTER)
_clone = brief("wasmtime_engine_clone", POINTER, POINTER)
_increment_epoch = brief("wasmtime_engine_increment_epoch", None, POINTER)
_size, _data = ctypes.c_size_t, ctypes.c_char_p
_compile = lean("wasmtime_module_new", POINTER, POINTER, _data, _size, POINTER)
_restore = lean("wasmtime_module_deserialize", POINTER, POINTER, _data, _size, POINTER)
_serialize = lean("wasmtime_module_serialize", POINTER, POINTER, ctypes.POINTER(Vector))
_bytes_delete = lean("wasm_byte_vec_delete", None, ctypes.POINTER(Vector))


class Config:
    """A configuration, until an engine takes it."""

    _delete = staticmethod(lean("wasm_config_delete", None, POINTER))

    def __init__(self) -> None:
        #: The address of the ``wasm_config_t``.
        self.at: int = _config_new()

    def __del__(self) -> None:
        if self.at:
            self._delete(self.at)

    def set(self, **settings: bool) -> None:
        """Switch settings on or off, by wasmtime's names."""
        for name, value in settings.items():
            _SETTINGS[name](self.at, value)

    def load_cache(self, path: str | None) -> None:
        """Take the settings of the compile cache from a file; with None, wasmtime's own ones.
        Raises ``WasmtimeError``."""
        raise_error(_load_cache(self.at, None if path is None else path.encode()))

    def take(self) -> int:
        """The address, which is the caller's from now on."""
        at, self.at = self.at, 0
        return at


class Engine:
    """An engine, which any thread may use."""

    _delete = staticmethod(lean("wasm_engine_delete", None, POINTER))

    def __init__(self, config: Config) -> None:
        #: The address of the ``wasm_engine_t``.
        self.at: int = _engine_new(config.take())

    def __del__(self) -> None:
        self._delete(self.at)

    def increment_epoch(self) -> None:
        """Let the stores look whether their guests must stop."""
        _increment_epoch(self.at)

    def clone(self) -> int:
        """Another reference to the engine, for the caller to free."""
        at: int = _clone(self.at)
        return at


class Compiled:
    """A compiled core module."""

    _delete = staticmethod(lean("wasmtime_module_delete", None, POINTER))

    def __init__(self, make: Any, engine: Engine, data: bytes) -> None:
        made = POINTER()
        raise_error(make(engine.at, data, len(data), ctypes.addressof(made)))
        #: The address of the ``wasmtime_module_t``.
        self.at: int = made.value or 0

    def __del__(self) -> None:
        if at := getattr(self, "at", 0):
            self._delete(at)

    def on(self, engine: Engine) -> Compiled:
        """The same code on another engine. Raises ``WasmtimeError``."""
        code = Vector()
        raise_error(_serialize(self.at, code))
        try:
            return Compiled(_restore, engine, ctypes.string_at(code.data, code.size))
        finally:
            _bytes_delete(code)


def compiled(engine: Engine, wasm: bytes) -> Compiled:
    """Compile a core module. Raises ``WasmtimeError``."""
    return Compiled(_compile, engine, wasm)
