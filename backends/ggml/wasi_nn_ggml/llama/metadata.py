"""Reads the GGUF header of a loaded model. A split model has its header in the first part."""

from __future__ import annotations

import ctypes
import os

from wasi_nn_ggml.llama.bindings import HeaderParams
from wasi_nn_ggml.llama.loader import Library

_ARRAY = 9
# ggml's integer types, by number.
_INTEGERS = {
    0: ctypes.c_uint8, 1: ctypes.c_int8, 2: ctypes.c_uint16, 3: ctypes.c_int16,
    4: ctypes.c_uint32, 5: ctypes.c_int32, 10: ctypes.c_uint64, 11: ctypes.c_int64,
}  # fmt: skip
# No model has more layers.
_MAX_LAYERS = 4096


class Metadata:
    """The header of a loaded model's file, for a ``with`` block. A library without gguf.h's
    functions reads no arrays."""

    def __init__(self, native: Library, pointer: int, path: str) -> None:
        self._native = native
        self._pointer = pointer
        self._header = 0
        if hasattr(native, "gguf_init_from_file"):
            params = HeaderParams(True, None)
            self._header = int(native.gguf_init_from_file(os.fsencode(path), params) or 0)
        self.architecture = self.text("general.architecture")

    @property
    def knows_arrays(self) -> bool:
        """Whether arrays can be read."""
        return bool(self._header)

    def text(self, key: str) -> str:
        """A value as text; empty for a missing key and for an array."""
        buffer = ctypes.create_string_buffer(128)
        length = self._native.llama_model_meta_val_str(
            self._pointer, key.encode(), ctypes.addressof(buffer), len(buffer)
        )
        return buffer.value.decode("utf-8", "replace") if length >= 0 else ""

    def number(self, name: str) -> int:
        """A number of the architecture; the largest if it has one per layer, 0 if it has none."""
        return max(self.numbers(name), default=0)

    def numbers(self, name: str) -> list[int]:
        """A number of the architecture, per layer; one number alone is for all layers."""
        key = f"{self.architecture}.{name}"
        try:
            return [int(self.text(key))]
        except ValueError:
            return self.array(key.encode())

    def array(self, key: bytes) -> list[int]:
        """An array of integers; empty if the key is missing or is something else."""
        native, header = self._native, self._header
        at = native.gguf_find_key(header, key) if header else -1
        if at < 0 or native.gguf_get_kv_type(header, at) != _ARRAY:
            return []
        kind = _INTEGERS.get(native.gguf_get_arr_type(header, at))
        count = native.gguf_get_arr_n(header, at)
        if kind is None or not 0 < count <= _MAX_LAYERS:
            return []
        return list((kind * count).from_address(native.gguf_get_arr_data(header, at)))

    def __enter__(self) -> Metadata:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._header:
            self._native.gguf_free(self._header)
            self._header = 0
