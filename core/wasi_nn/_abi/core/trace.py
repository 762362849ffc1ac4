"""A guest's calls as its operator reads them: names, handles and lengths in place of pointers."""

from __future__ import annotations

from struct import error as StructError
from struct import unpack

from wasi_nn.errors import NnError
from wasi_nn.escaping import visible
from wasi_nn.runtime import GuestMemory

# What a number is a handle of, by function.
_OF_GRAPHS = frozenset({"init_execution_context", "unload"})
_OPENS = {"load": "graph", "load_by_name": "graph", "load_by_name_with_config": "graph"}
_OPENS["init_execution_context"] = "context"
_MAX_NAME = 80


def described(function: str, memory: GuestMemory, arguments: tuple[int, ...]) -> str:
    """A call that has succeeded, such as ``load_by_name("net") = graph 0``. What the guest has
    overwritten by then, and what is not known, is shown as the numbers that it passed."""
    plain = f"{function}({', '.join(map(str, arguments))})"
    try:
        return _described(function, memory, arguments) or plain
    except (NnError, StructError, IndexError):
        return plain


def _described(function: str, memory: GuestMemory, arguments: tuple[int, ...]) -> str:
    number = len(arguments)
    opens = _OPENS.get(function)
    if opens is not None:
        if function.startswith("load_by_name"):
            name = bytes(memory.read(arguments[0], arguments[1])).decode(errors="replace")
            short = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
            given = f'"{visible(short)}"'
        elif function in _OF_GRAPHS:
            given = f"graph {arguments[0]}"
        else:
            # (The older ABI passes one pointer for both.)
            given = f"builders: {arguments[1]}" if number == 5 else ""
        return f"{function}({given}) = {opens} {_number(memory, arguments[-1])}"
    if function in _OF_GRAPHS:
        return f"{function}(graph {arguments[0]})"
    if function == "set_input":
        return f"{function}(context {arguments[0]}, input {arguments[1]})"
    if function.startswith("get_output"):
        length = _number(memory, arguments[-1])
        return f"{function}(context {arguments[0]}, output {arguments[1]}) = {length} bytes"
    return f"{function}(context {arguments[0]})" if number == 1 else ""


def _number(memory: GuestMemory, pointer: int) -> int:
    (number,) = unpack("<I", memory.read(pointer, 4))
    return int(number)
