"""The memory that a wasm.h library keeps after its guests are gone. This calls only wasm.h.

    python -m benchmarks.wasm_h /path/to/libwasmer.so

Each round deletes everything that it made, except an engine that is shared by the process.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

from benchmarks.figures import resident

ROUNDS = 500
# (module (memory (export "memory") 1) (func (export "_start")))
WASM = bytes.fromhex(
    "0061736d01000000010401600000030201000503010001"
    "071302066d656d6f72790200065f737461727400000a040102000b"
)


class Bytes(ctypes.Structure):
    """``wasm_byte_vec_t``, and any other vector."""

    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_void_p))


class Library:
    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(self._library, f"wasm_{name}")
        function.restype = None if name.endswith("_delete") else ctypes.c_void_p
        return lambda *given: function(
            *(ctypes.c_void_p(one) if isinstance(one, int) else one for one in given)
        )


def per_round(run: Callable[[], None]) -> float:
    """The bytes that each round leaves: the minimum of three tries."""
    grown = []
    for _ in range(4):
        before = resident()
        for _ in range(ROUNDS):
            run()
        grown.append((resident() - before) / ROUNDS)
    return max(0.0, min(grown[1:]))


def main(path: str) -> None:
    api = Library(path)
    data = ctypes.create_string_buffer(WASM, len(WASM))
    wasm = Bytes(len(WASM), ctypes.addressof(data))

    def instantiate(store: int, module: int) -> None:
        none, trap = Bytes(0, None), ctypes.c_void_p()
        api.instance_delete(api.instance_new(store, module, ctypes.byref(none), ctypes.byref(trap)))

    def compile_with(engine: int) -> None:
        store = api.store_new(engine)
        module = api.module_new(store, ctypes.byref(wasm))
        instantiate(store, module)
        api.module_delete(module)
        api.store_delete(store)

    def compile_alone() -> None:
        engine = api.engine_new()
        compile_with(engine)
        api.engine_delete(engine)

    engine = api.engine_new()
    store = api.store_new(engine)
    module = api.module_new(store, ctypes.byref(wasm))
    code = Bytes()
    api.module_serialize(module, ctypes.byref(code))

    def deserialize() -> None:
        store = api.store_new(engine)
        module = api.module_deserialize(store, ctypes.byref(code))
        instantiate(store, module)
        api.module_delete(module)
        api.store_delete(store)

    def share() -> None:
        store = api.store_new(engine)
        instantiate(store, module)
        api.store_delete(store)

    for text, run in (
        ("a guest deserialised in one engine", deserialize),
        ("a program compiled in one engine", lambda: compile_with(engine)),
        ("a program compiled in an engine of its own", compile_alone),
        ("a guest of a module that is shared", share),
    ):
        print(f"{text:44} {per_round(run) / 1024:8.1f} KiB kept")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
