"""Trap 8: WAMR's legacy module `wasi_nn`, with structs by pointer and sizes in f32 elements."""

from __future__ import annotations

import struct

import pytest

IDENTITY = b"wasi-nn:identity"
OUTSIDE = 0xFFFFFF00
FLOATS = struct.pack("<3f", 1, 2, 3)


@pytest.fixture
def guest(caller):
    return caller("wamr-legacy")


def load(guest, model=IDENTITY, encoding=6, target=0):
    pairs = guest.builders(model)
    array = guest.put(struct.pack("<II", pairs, 1))
    out = guest.put(b"\xff" * 4)
    return guest("load", array, encoding, target, out), guest.u32(out)


def context(guest):
    errno, graph = load(guest)
    assert errno == 0
    out = guest.put(bytes(4))
    assert guest("init_execution_context", graph, out) == 0
    return guest.u32(out)


def tensor(guest, kind, dims, data):
    dims_at = guest.put(struct.pack(f"<{len(dims)}I", *dims))
    dims_struct = guest.put(struct.pack("<II", dims_at, len(dims)))
    return guest.put(struct.pack("<IB3sI", dims_struct, kind, b"\xaa\xbb\xcc", guest.put(data)))


def test_a_whole_inference(guest):
    handle = context(guest)
    assert guest("set_input", handle, 0, tensor(guest, 1, [1, 3], FLOATS)) == 0
    assert guest("compute", handle) == 0
    buffer, size = guest.put(bytes(16)), guest.put(struct.pack("<I", 4))
    assert guest("get_output", handle, 0, buffer, size) == 0
    assert guest.u32(size) == 3, "the size counts f32 elements"
    assert guest.bytes[buffer : buffer + 12] == FLOATS


def test_a_small_buffer_gets_the_number_of_needed_elements(guest):
    handle = context(guest)
    guest("set_input", handle, 0, tensor(guest, 1, [3], FLOATS))
    guest("compute", handle)
    size = guest.put(struct.pack("<I", 2))
    assert guest("get_output", handle, 0, guest.put(bytes(8)), size) == 7
    assert guest.u32(size) == 3


def test_the_size_of_an_output_is_rounded_up_to_elements(guest):
    handle = context(guest)
    guest("set_input", handle, 0, tensor(guest, 2, [5], b"abcde"))
    guest("compute", handle)
    buffer, size = guest.put(bytes(8)), guest.put(struct.pack("<I", 2))
    assert guest("get_output", handle, 0, buffer, size) == 0
    assert guest.u32(size) == 2
    assert guest.bytes[buffer : buffer + 5] == b"abcde"


def test_wrong_pointers_are_invalid_arguments(guest):
    handle = context(guest)
    out = guest.put(bytes(4))
    assert guest("load", OUTSIDE, 6, 0, out) == 1
    assert guest("load", guest.put(struct.pack("<II", OUTSIDE, 1)), 6, 0, out) == 1
    assert guest("load", guest.put(struct.pack("<II", 64, 0xFFFFFFFF)), 6, 0, out) == 1
    assert guest("set_input", handle, 0, OUTSIDE) == 1
    assert guest("set_input", handle, 0, guest.put(struct.pack("<IB3xI", OUTSIDE, 1, 64))) == 1
    for dims in ([0xFFFFFFFF] * 4, [1] * 65):
        assert guest("set_input", handle, 0, tensor(guest, 1, dims, b"")) == 1
    assert guest("set_input", handle, 0, tensor(guest, 9, [1], FLOATS)) == 1
    guest("set_input", handle, 0, tensor(guest, 1, [3], FLOATS))
    guest("compute", handle)
    assert guest("get_output", handle, 0, 64, OUTSIDE) == 1
    assert guest("get_output", handle, 0, OUTSIDE, guest.put(struct.pack("<I", 3))) == 1


def test_models_are_loaded_by_name(guest, host, identity_model):
    host.add_model("m", identity_model())
    out = guest.put(bytes(4))
    assert guest("load_by_name", guest.put(b"m"), 1, out) == 0
    assert guest("load_by_name", guest.put(b"n"), 1, out) == 8


def test_encoding_5_is_ggml(guest):
    assert load(guest, encoding=5)[0] != 0
    assert "GGUF" in guest.reason or "llama.cpp is not installed" in guest.reason
