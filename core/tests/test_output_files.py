"""Guests that write to file objects."""

from __future__ import annotations

import io

import pytest
from conftest import CAT

from wasi_nn import UsageError

# A character of two bytes, at every offset within a large output.
TEXT = "aü€" * 50_000


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_text_file_gets_whole_characters(host, wat, stream):
    """As a notebook's cell, which has no bytes below it."""
    number = {"stdout": 1, "stderr": 2}[stream]
    guest = CAT.replace("$write (i32.const 1)", f"$write (i32.const {number})")
    file = io.StringIO()
    host.run(wat(guest), stdin=TEXT.encode(), **{stream: file})
    assert file.getvalue() == TEXT


def test_a_binary_file_gets_the_bytes(host, wat, tmp_path):
    data = bytes(range(256)) * 10
    memory = io.BytesIO()
    assert host.run(wat(CAT), stdin=data, stdout=memory).stdout == b""
    with (tmp_path / "out").open("wb") as file:
        host.run(wat(CAT), stdin=data, stdout=file)
    assert memory.getvalue() == (tmp_path / "out").read_bytes() == data


def test_text_that_was_written_before_comes_first(host, wat, tmp_path):
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        file.write("before ")
        host.run(wat(CAT), stdin=b"guest\xff", stdout=file)
        file.write(" after")
    assert (tmp_path / "out").read_bytes() == b"before guest\xff after"


def test_the_failure_of_a_file_is_raised(host, wat):
    file = io.StringIO()
    file.close()
    with pytest.raises(ValueError, match="closed file"):
        host.run(wat(CAT), stdin=b"text", stdout=file)


def test_something_else_is_refused(host, wat):
    with pytest.raises(UsageError, match="'inherit', a file or a callable"):
        host.run(wat(CAT), stdout="out.txt")
