"""The configuration of WASI in a store."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import UsageError
from wasi_nn.runtime import WasiConfig
from wasi_nn_wasmtime.capi import POINTER, address, lean

_TEXTS = ctypes.POINTER(ctypes.c_char_p)
_set_argv = lean("wasi_config_set_argv", ctypes.c_bool, POINTER, ctypes.c_size_t, _TEXTS)
_set_env = lean("wasi_config_set_env", ctypes.c_bool, POINTER, ctypes.c_size_t, _TEXTS, _TEXTS)


def configured(wasi: WasiConfig) -> wasmtime.WasiConfig:
    """wasmtime's configuration for ours, in which outputs that go to a callable are missing. Raises
    ``UsageError`` for a directory that wasmtime refuses."""
    config = wasmtime.WasiConfig()
    at = address(config.ptr())
    _set_argv(at, len(wasi.args), _texts(wasi.args))
    if wasi.env:
        names, values = zip(*wasi.env, strict=True)
        _set_env(at, len(names), _texts(names), _texts(values))
    for preopen in wasi.preopens:
        try:
            config.preopen_dir(str(preopen.host), preopen.guest, preopen.writable)
        except wasmtime.WasmtimeError as error:
            raise UsageError(f"cannot open the directory {preopen.host}: {error}") from error
    if wasi.stdin == "inherit":
        config.inherit_stdin()
    elif isinstance(wasi.stdin, bytes):
        _stdin_bytes(config, wasi.stdin)
    if wasi.stdout == "inherit":
        _flush(sys.stdout)
        config.inherit_stdout()
    if wasi.stderr == "inherit":
        _flush(sys.stderr)
        config.inherit_stderr()
    return config


def _texts(texts: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(texts))(*[text.encode() for text in texts])


def _flush(stream: Any) -> None:
    """Python's buffered output must come before the guest's, on the same descriptor."""
    if stream is not None:
        stream.flush()


def _stdin_bytes(config: wasmtime.WasiConfig, data: bytes) -> None:
    # wasmtime-py accepts only files. The C API accepts bytes, and frees its copy.
    vector = ffi.wasm_byte_vec_t()
    copy = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
    ffi.wasm_byte_vec_new(ctypes.byref(vector), len(data), copy)
    ffi.wasi_config_set_stdin_bytes(config.ptr(), ctypes.byref(vector))
