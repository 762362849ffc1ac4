"""A guest's calls in the log of ``-v``."""

from __future__ import annotations

import pytest

from wasi_nn._abi.core.trace import described
from wasi_nn.runtime import BufferMemory


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        ("load_by_name", (0, 3, 8), 'load_by_name("net") = graph 7'),
        ("load_by_name_with_config", (0, 3, 0, 0, 8), 'load_by_name_with_config("net") = graph 7'),
        ("load", (0, 2, 0, 0, 8), "load(builders: 2) = graph 7"),
        ("load", (0, 0, 0, 8), "load() = graph 7"),
        ("init_execution_context", (1, 8), "init_execution_context(graph 1) = context 7"),
        ("get_output", (2, 1, 0, 64, 8), "get_output(context 2, output 1) = 7 bytes"),
        ("unload", (1,), "unload(graph 1)"),
        ("compute", (2,), "compute(context 2)"),
        # A terminal obeys what is not escaped.
        ("load_by_name", (12, 3, 8), r'load_by_name("\x1b; !") = graph 7'),
        # The guest's pointers are checked again: the call may have changed its memory.
        ("load_by_name", (0, 3, 62), "load_by_name(0, 3, 62)"),
        ("load_by_name", (60, 40, 8), "load_by_name(60, 40, 8)"),
        ("get_output", (), "get_output()"),
    ],
)
def test_names_and_handles_replace_pointers(function, arguments, says):
    content = bytearray(64)
    content[:3], content[8], content[12:15] = b"net", 7, b"\x1b\n!"
    assert described(function, BufferMemory(memoryview(content)), arguments) == says
