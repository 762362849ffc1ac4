"""Component values between Python and wasmtime's C API.

wasmtime-py converts every value to its own Python object, even each byte of a `list<u8>`: about 700
ms for 602,112 bytes. In C, a value is a record of 32 bytes, with its kind at 0 and its content at 8
(wasmtime/crates/c-api/include/wasmtime/component/val.h). The elements of a list are adjacent. So a
list of bytes is every 32nd byte of that memory, from 8 on: one strided copy. In a rewritten
component (see bytes_through_memory), it is a pair of numbers instead: the list's address in the
guest's memory, and its length.

Each type gets a reader and a writer once, when a function is defined. They work on addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from wasi_nn.errors import LimitExceeded
from wasi_nn.runtime import component
from wasi_nn.runtime.library import view_at
from wasi_nn_wasmtime.capi import POINTER, lean

SIZE = 32
# wasmtime's C API bounds what a component passes in one call, but not what it gets. Each byte takes
# 64 bytes of memory there, so this is a gigabyte.
_MAX_BYTES = 16 << 20
_HOLDS = 8
_U8, _U32, _STRING, _LIST, _TUPLE, _ENUM, _RESULT, _RESOURCE = 2, 6, 12, 13, 15, 17, 19, 21

#: ``view(address, length)`` returns bytes of the guest's memory.
View = Callable[[int, int], memoryview]
#: ``reader(context, address)`` returns the value there.
Reader = Callable[[int, int], Any]
#: ``writer(context, address, value)`` writes the value there.
Writer = Callable[[int, int, Any], None]

_name_new = lean("wasm_byte_vec_new", None, POINTER, ctypes.c_size_t, ctypes.c_char_p)
_list_new = lean("wasmtime_component_vallist_new_uninit", None, POINTER, ctypes.c_size_t)
_tuple_new = lean("wasmtime_component_valtuple_new_uninit", None, POINTER, ctypes.c_size_t)
_value_new = lean("wasmtime_component_val_new", POINTER, POINTER)
_host_new = lean(
    "wasmtime_component_resource_host_new",
    POINTER,
    ctypes.c_bool,
    ctypes.c_uint32,
    ctypes.c_uint32,
)
_host_rep = lean("wasmtime_component_resource_host_rep", ctypes.c_uint32, POINTER)
_host_delete = lean("wasmtime_component_resource_host_delete", None, POINTER)
_any_to_host = lean("wasmtime_component_resource_any_to_host", POINTER, POINTER, POINTER, POINTER)
_host_to_any = lean("wasmtime_component_resource_host_to_any", POINTER, POINTER, POINTER, POINTER)
_error_delete = lean("wasmtime_error_delete", None, POINTER)

_byte = ctypes.c_uint8.from_address
_word = ctypes.c_uint32.from_address
_long = ctypes.c_uint64.from_address


def reader(kind: component.Type, view: View) -> Reader:
    """A function that reads values of a type."""
    if isinstance(kind, component.Bytes):
        return lambda context, at: _read_bytes(at, view)
    if isinstance(kind, (component.Own, component.Borrow)):
        return _read_resource
    if isinstance(kind, (component.Text, component.Enumeration)):
        return _read_text
    if isinstance(kind, component.U32):
        return lambda context, at: read_u32(at)
    if isinstance(kind, component.ListOf):
        element = reader(kind.element, view)

        def read_list(context: int, at: int) -> list[Any]:
            count, start = _long(at + _HOLDS).value, _long(at + 16).value
            return [element(context, start + SIZE * i) for i in range(count)]

        return read_list
    if isinstance(kind, component.TupleOf):
        elements = [reader(part, view) for part in kind.elements]

        def read_tuple(context: int, at: int) -> tuple[Any, ...]:
            start = _long(at + 16).value
            return tuple(read(context, start + SIZE * i) for i, read in enumerate(elements))

        return read_tuple
    raise NotImplementedError(f"no host function takes a {type(kind).__name__}")


def read_u32(at: int) -> int:
    """A u32 that the component passed."""
    return _word(at + _HOLDS).value


def _read_bytes(at: int, view: View) -> bytes | memoryview:
    if _byte(at).value == _TUPLE:
        start = _long(at + 16).value
        return view(read_u32(start), read_u32(start + SIZE))
    count = _long(at + _HOLDS).value
    if not count:
        return b""
    return view_at(_long(at + 16).value, SIZE * count)[_HOLDS::SIZE].tobytes()


def _read_text(context: int, at: int) -> str:
    size = _long(at + _HOLDS).value
    return ctypes.string_at(_long(at + 16).value, size).decode() if size else ""


def _read_resource(context: int, at: int) -> int:
    # Exactly once for each one passed: wasmtime ends the guest if a borrow is left over.
    host = ctypes.c_void_p()
    _check(_any_to_host(context, _long(at + _HOLDS).value, ctypes.addressof(host)))
    number: int = _host_rep(host.value)
    _host_delete(host.value)
    return number


def writer(kind: component.Type, resources: Mapping[str, int]) -> Writer:
    """A function that writes values of a type. ``resources`` maps resource types to numbers."""
    if isinstance(kind, component.Bytes):
        return _write_bytes
    if isinstance(kind, component.Text):
        return lambda context, at, value: _write_name(at, value, _STRING)
    if isinstance(kind, component.Enumeration):
        return lambda context, at, value: _write_name(at, value, _ENUM)
    if isinstance(kind, component.Own):
        number = resources[kind.resource]
        return lambda context, at, value: _write_resource(context, at, value, number)
    if isinstance(kind, component.U32):
        return _write_u32
    if isinstance(kind, component.ListOf):
        element = writer(kind.element, resources)

        def write_list(context: int, at: int, value: Any) -> None:
            start = _make_room(_list_new, at, len(value), _LIST)
            for i, item in enumerate(value):
                element(context, start + SIZE * i, item)

        return write_list
    if isinstance(kind, component.TupleOf):
        elements = [writer(part, resources) for part in kind.elements]

        def write_tuple(context: int, at: int, value: Any) -> None:
            start = _make_room(_tuple_new, at, len(elements), _TUPLE)
            for i, (write, item) in enumerate(zip(elements, value, strict=True)):
                write(context, start + SIZE * i, item)

        return write_tuple
    if isinstance(kind, component.ResultOf):
        return _result_writer(kind, resources)
    raise NotImplementedError(f"no host function returns a {type(kind).__name__}")


def _result_writer(kind: component.ResultOf, resources: Mapping[str, int]) -> Writer:
    ok = writer(kind.ok, resources) if kind.ok is not None else None
    error = writer(kind.error, resources) if kind.error is not None else None

    def write_result(context: int, at: int, value: component.Result) -> None:
        write = ok if value.ok else error
        payload = 0
        if write is not None:
            record = (ctypes.c_ubyte * SIZE)()
            write(context, ctypes.addressof(record), value.value)
            payload = _value_new(ctypes.addressof(record))
        _byte(at + _HOLDS).value = value.ok
        _long(at + 16).value = payload
        _byte(at).value = _RESULT

    return write_result


def _make_room(make: Any, at: int, count: int, kind: int) -> int:
    """Allocate the elements of a list or tuple. Each is a valid value (false) until it is written.
    Returns the address of the first."""
    make(at + _HOLDS, count)
    start = _long(at + 16).value
    if count:
        ctypes.memset(start, 0, SIZE * count)
    _byte(at).value = kind
    return start


def _write_bytes(context: int, at: int, value: Any) -> None:
    count = len(value)
    if count > _MAX_BYTES:
        raise LimitExceeded(
            f"the guest asked for a list of {count} bytes; {_MAX_BYTES} are the most that go into "
            "a component of its kind (the log says at the level DEBUG what kind that is)"
        )
    _list_new(at + _HOLDS, count)
    if count:
        records = view_at(_long(at + 16).value, SIZE * count)
        records[::SIZE] = bytes((_U8,)) * count
        records[_HOLDS::SIZE] = value
    _byte(at).value = _LIST


def write_place(at: int, address: int, count: int) -> None:
    """Write where a list of bytes is in the guest's memory."""
    start = _make_room(_tuple_new, at, 2, _TUPLE)
    _write_u32(0, start, address)
    _write_u32(0, start + SIZE, count)


def _write_name(at: int, value: str, kind: int) -> None:
    data = value.encode()
    _name_new(at + _HOLDS, len(data), data)
    _byte(at).value = kind


def _write_u32(context: int, at: int, value: int) -> None:
    _word(at + _HOLDS).value = value
    _byte(at).value = _U32


def _write_resource(context: int, at: int, value: int, number: int) -> None:
    host = _host_new(True, value, number)
    any_resource = ctypes.c_void_p()
    error = _host_to_any(context, host, ctypes.addressof(any_resource))
    _host_delete(host)
    _check(error)
    _long(at + _HOLDS).value = any_resource.value or 0
    _byte(at).value = _RESOURCE


def _check(error: int | None) -> None:
    if error:
        _error_delete(error)
        raise RuntimeError("wasmtime knows no such resource")
