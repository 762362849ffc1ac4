"""The configuration of WASI in wasmtime-py."""

from __future__ import annotations

import ctypes
import sys

import wasmtime
from wasmtime import _ffi as ffi

from wasi_nn.errors import UsageError
from wasi_nn.runtime import WasiConfig
from wasi_nn_wasmtime.streams import OutputStream


def configure(
    wasi: WasiConfig, failures: list[BaseException]
) -> tuple[wasmtime.WasiConfig, list[OutputStream]]:
    """wasmtime's configuration for ours, and the streams that it writes to. If the callable of an
    output raises, the exception is added to ``failures``. Raises ``UsageError`` for a directory
    that wasmtime refuses."""
    config = wasmtime.WasiConfig()
    streams: list[OutputStream] = []
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
    for stream, ours, name in (
        (wasi.stdout, sys.stdout, "stdout"),
        (wasi.stderr, sys.stderr, "stderr"),
    ):
        if stream == "inherit":
            # Python's buffered output must come before the guest's, on the same descriptor.
            if ours is not None:
                ours.flush()
            getattr(config, f"inherit_{name}")()
        elif callable(stream):
            streams.append(OutputStream(stream, failures))
            streams[-1].attach(config, name)
    return config, streams


def _stdin_bytes(config: wasmtime.WasiConfig, data: bytes) -> None:
    # wasmtime-py accepts only files. The C API accepts bytes, and frees its copy.
    vector = ffi.wasm_byte_vec_t()
    copy = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)
    ffi.wasm_byte_vec_new(ctypes.byref(vector), len(data), copy)
    ffi.wasi_config_set_stdin_bytes(config.ptr(), ctypes.byref(vector))
