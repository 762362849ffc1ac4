"""The configuration of WASI in a store."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.runtime import WasiConfig
from wasi_nn_wasmtime.capi import POINTER, Vector, brief, lean

_TEXTS = ctypes.POINTER(ctypes.c_char_p)
_new = brief("wasi_config_new", POINTER)
_delete = brief("wasi_config_delete", None, POINTER)
_set_argv = brief("wasi_config_set_argv", ctypes.c_bool, POINTER, ctypes.c_size_t, _TEXTS)
_set_env = brief("wasi_config_set_env", ctypes.c_bool, POINTER, ctypes.c_size_t, _TEXTS, _TEXTS)
_preopen = lean(
    "wasi_config_preopen_dir",
    ctypes.c_bool,
    POINTER,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_bool,
)
_inherit = {
    name: brief(f"wasi_config_inherit_{name}", None, POINTER)
    for name in ("stdin", "stdout", "stderr")
}
_set_stdin_file = lean("wasi_config_set_stdin_file", ctypes.c_bool, POINTER, ctypes.c_char_p)
_set_stdin = brief("wasi_config_set_stdin_bytes", None, POINTER, ctypes.POINTER(Vector))
_bytes_new = brief(
    "wasm_byte_vec_new", None, ctypes.POINTER(Vector), ctypes.c_size_t, ctypes.c_char_p
)


def configured(wasi: WasiConfig) -> int:
    """The address of wasmtime's configuration for ours, in which outputs that go to a callable are
    missing. A store frees it. Raises ``UsageError`` for a directory that wasmtime refuses."""
    at: int = _new()
    _set_argv(at, len(wasi.args), _texts(wasi.args))
    if wasi.env:
        names, values = zip(*wasi.env, strict=True)
        _set_env(at, len(names), _texts(names), _texts(values))
    for preopen in wasi.preopens:
        given = str(preopen.host).encode(), preopen.guest.encode(), preopen.writable
        if not _preopen(at, *given):
            _delete(at)
            raise UsageError(f"wasmtime cannot open the directory {preopen.host}")
    if wasi.stdin == "inherit":
        _inherit["stdin"](at)
    elif isinstance(wasi.stdin, int):
        if not _set_stdin_file(at, f"/dev/fd/{wasi.stdin}".encode()):
            _delete(at)
            raise UsageError("wasmtime cannot open the standard input: this system has no /dev/fd")
    elif wasi.stdin:
        _stdin_bytes(at, wasi.stdin)
    if wasi.stdout == "inherit":
        _flush(sys.stdout)
        _inherit["stdout"](at)
    if wasi.stderr == "inherit":
        _flush(sys.stderr)
        _inherit["stderr"](at)
    return at


def _texts(texts: Sequence[str]) -> Any:
    return _array(len(texts))(*[text.encode() for text in texts])


# (A type that nobody keeps is made again: it takes longer than all the rest.)
@lru_cache(maxsize=64)
def _array(length: int) -> type[ctypes.Array[ctypes.c_char_p]]:
    return ctypes.c_char_p * length


def _flush(stream: Any) -> None:
    """Python's buffered output must come before the guest's, on the same descriptor."""
    if stream is not None:
        stream.flush()


def _stdin_bytes(config: int, data: bytes) -> None:
    # The C API frees its copy.
    vector = Vector()
    _bytes_new(vector, len(data), data)
    _set_stdin(config, vector)
