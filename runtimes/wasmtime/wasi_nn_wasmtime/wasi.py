"""WASI preview 1 as wasmtime-py configures it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import UsageError
from wasi_nn.runtime import Stdout, WasiConfig


def configure(wasi: WasiConfig) -> wasmtime.WasiConfig:
    """wasmtime's configuration for ours. Raises ``UsageError`` for a directory that it refuses."""
    config = wasmtime.WasiConfig()
    config.argv = list(wasi.args)
    config.env = list(wasi.env)
    for preopen in wasi.preopens:
        try:
            config.preopen_dir(str(preopen.host), preopen.guest, preopen.writable)
        except wasmtime.WasmtimeError as error:
            raise UsageError(f"cannot open the directory {preopen.host}: {error}") from error
    if wasi.stdin == "inherit":
        config.inherit_stdin()
    elif isinstance(wasi.stdin, bytes):
        _stdin_bytes(config, wasi.stdin)
    _output(wasi.stdout, sys.stdout, config.inherit_stdout, _custom(config, "stdout_custom"))
    _output(wasi.stderr, sys.stderr, config.inherit_stderr, _custom(config, "stderr_custom"))
    return config


def _custom(config: wasmtime.WasiConfig, name: str) -> Callable[[Callable[[bytes], Any]], None]:
    return lambda callback: setattr(config, name, callback)


def _output(
    stream: Stdout,
    ours: Any,
    inherit: Callable[[], None],
    custom: Callable[[Callable[[bytes], Any]], None],
) -> None:
    if stream == "inherit":
        # What Python has buffered comes before what the guest writes to the same descriptor.
        if ours is not None:
            ours.flush()
        inherit()
    elif callable(stream):
        take = stream

        def written(piece: bytes) -> None:
            take(piece)

        custom(written)


def _stdin_bytes(config: wasmtime.WasiConfig, data: bytes) -> None:
    # wasmtime-py offers files only; the C API takes the bytes themselves, and frees its copy.
    vector = ffi.wasm_byte_vec_t()
    copy = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
    ffi.wasm_byte_vec_new(ctypes.byref(vector), len(data), copy)
    ffi.wasi_config_set_stdin_bytes(config.ptr(), ctypes.byref(vector))
