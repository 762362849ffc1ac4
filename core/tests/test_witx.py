"""The functions of `wasi_ephemeral_nn`, one by one, with what they owe and what they refuse."""

from __future__ import annotations

import logging
import struct

import pytest

IDENTITY = b"wasi-nn:identity"
OUTSIDE = 0xFFFFFF00
INVALID_ARGUMENT, INVALID_ENCODING, MISSING_MEMORY, RUNTIME_ERROR = 1, 2, 3, 5
UNSUPPORTED, TOO_LARGE, NOT_FOUND = 6, 7, 8


def test_a_whole_inference(caller):
    guest = caller()
    context = guest.context()
    tensor = guest.tensor(1, [2, 1], struct.pack("<2f", 1.5, -2))
    assert guest("set_input", context, 0, tensor) == 0
    assert guest("compute", context) == 0
    assert guest.output(context) == struct.pack("<2f", 1.5, -2)
    assert not guest.observer.failures


def test_a_guest_may_reuse_its_buffer_as_soon_as_set_input_returns(caller):
    guest = caller()
    context = guest.context()
    tensor = guest.tensor(3, [4], b"abcd")
    assert guest("set_input", context, 0, tensor) == 0
    at = guest.bytes.index(b"abcd")
    guest.bytes[at : at + 4] = b"zzzz"
    assert guest("compute", context) == 0
    assert guest.output(context) == b"abcd"


def test_inputs_persist_and_outputs_follow_the_last_compute(caller):
    guest = caller()
    context = guest.context()
    guest("set_input", context, 0, guest.tensor(3, [1], b"a"))
    guest("set_input", context, 1, guest.tensor(3, [1], b"b"))
    guest("compute", context)
    guest("set_input", context, 1, guest.tensor(3, [1], b"c"))
    assert guest("compute", context) == 0
    assert (guest.output(context, 0), guest.output(context, 1)) == (b"a", b"c")
    guest("set_input", context, 1, guest.tensor(3, [1], b"d"))
    guest("set_input", context, 2, guest.tensor(3, [1], b"e"))
    assert guest.output(context, 1) == b"c"
    assert guest.output(context, 2) == INVALID_ARGUMENT


def test_a_scalar_has_no_dimensions(caller):
    guest = caller()
    context = guest.context()
    assert guest("set_input", context, 0, guest.tensor(5, [], struct.pack("<q", 7))) == 0
    assert guest("compute", context) == 0
    assert guest.output(context) == struct.pack("<q", 7)


def test_an_empty_tensor_needs_no_valid_data_pointer(caller):
    guest = caller()
    context = guest.context()
    record = struct.pack("<IIB3xII", guest.put(struct.pack("<I", 0)), 1, 1, OUTSIDE, 0)
    assert guest("set_input", context, 0, guest.put(record)) == 0


class TestPointers:
    """Every pointer out of bounds is invalid_argument, and has no effect."""

    def test_load(self, caller):
        guest = caller()
        good, out = guest.builders(IDENTITY), guest.put(b"\xff" * 4)
        for arguments in (
            (OUTSIDE, 1, 5, 0, out),
            (good, 1, 5, 0, OUTSIDE),
            (good, 1, 5, 0, len(guest.bytes) - 3),
            (good, 0xFFFFFFFF, 5, 0, out),
            (guest.put(struct.pack("<II", OUTSIDE, 4)), 1, 5, 0, out),
            (guest.put(struct.pack("<II", 16, 0xFFFFFFFF)), 1, 5, 0, out),
        ):
            assert guest("load", *arguments) == INVALID_ARGUMENT
            assert guest.u32(out) == 0xFFFFFFFF, "a failed call writes no result"
        assert guest.load() == 0, "no failed load took a handle"

    @pytest.mark.parametrize(
        "record",
        [
            struct.pack("<IIB3xII", OUTSIDE, 1, 1, 16, 4),
            struct.pack("<IIB3xII", 16, 65, 1, 16, 4),
            struct.pack("<IIB3xII", 16, 0xFFFFFFFF, 1, 16, 4),
            struct.pack("<IIB3xII", 16, 0, 1, OUTSIDE, 4),
            struct.pack("<IIB3xII", 16, 0, 1, 16, 0xFFFFFFFF),
            struct.pack("<IIB3xII", 16, 0, 200, 16, 4),
        ],
        ids=["dims", "rank", "huge rank", "data", "huge length", "type"],
    )
    def test_set_input(self, caller, record):
        guest = caller()
        context = guest.context()
        assert guest("set_input", context, 0, guest.put(record)) == INVALID_ARGUMENT
        assert guest("set_input", context, 0, OUTSIDE) == INVALID_ARGUMENT

    def test_get_output(self, caller):
        guest = caller()
        context = guest.context()
        guest("set_input", context, 0, guest.tensor(3, [4], b"abcd"))
        guest("compute", context)
        out = guest.put(b"\xff" * 4)
        assert guest("get_output", context, 0, OUTSIDE, 4, out) == INVALID_ARGUMENT
        assert guest("get_output", context, 0, 64, 0xFFFFFFFF, out) == INVALID_ARGUMENT
        assert guest("get_output", context, 0, 64, 4, OUTSIDE) == INVALID_ARGUMENT
        assert guest.u32(out) == 0xFFFFFFFF

    def test_init_and_names(self, caller):
        guest = caller()
        graph = guest.load()
        assert guest("init_execution_context", graph, OUTSIDE) == INVALID_ARGUMENT
        assert guest("load_by_name", OUTSIDE, 4, 64) == INVALID_ARGUMENT
        assert guest("load_by_name", 64, 4, OUTSIDE) == INVALID_ARGUMENT
        assert guest("load_by_name_with_config", 64, 1, OUTSIDE, 4, 64) == INVALID_ARGUMENT


def test_a_guest_without_memory_gets_missing_memory(caller):
    guest = caller()
    guest.memory = None
    assert guest("compute", 0) == MISSING_MEMORY
    assert guest("load", 0, 0, 0, 0, 0) == MISSING_MEMORY


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("init_execution_context", (9, 64)),
        ("set_input", (9, 0, 64)),
        ("compute", (9,)),
        ("get_output", (9, 0, 64, 4, 128)),
        ("compute_single", (9,)),
        ("get_output_single", (9, 0, 64, 4, 128)),
        ("fini_single", (9,)),
        ("unload", (9,)),
        ("finalize_execution_context", (0xFFFFFFFF,)),
    ],
)
def test_an_unknown_handle_is_an_invalid_argument(caller, function, arguments):
    assert caller()(function, *arguments) == INVALID_ARGUMENT


def test_get_output_writes_the_needed_size_when_the_buffer_is_small(caller):
    guest = caller()
    context = guest.context()
    guest("set_input", context, 0, guest.tensor(3, [5], b"hello"))
    guest("compute", context)
    buffer, out = guest.put(b"...."), guest.put(b"\xff" * 4)
    assert guest("get_output", context, 0, buffer, 4, out) == TOO_LARGE
    assert guest.u32(out) == 5
    assert guest.bytes[buffer : buffer + 4] == b"....", "nothing is written of what does not fit"
    assert "5 bytes" in guest.reason


def test_calls_out_of_order_are_invalid(caller):
    guest = caller()
    context = guest.context()
    assert guest("compute", context) == INVALID_ARGUMENT
    assert guest.output(context) == INVALID_ARGUMENT
    guest("set_input", context, 0, guest.tensor(3, [1], b"a"))
    assert guest.output(context) == INVALID_ARGUMENT, "an input is not an output before compute"


def test_mistakes_in_load_have_their_errnos(caller):
    guest = caller()
    out = guest.put(bytes(4))
    assert guest("load", guest.builders(b"no model at all"), 1, 5, 0, out) == INVALID_ENCODING
    assert guest.reason.endswith(
        "does not recognise the model: the model is a short text, 'no model at all'. A server may "
        "have given it as its answer: check the address, the name and the login, and download it "
        "again"
    )
    assert guest("load", guest.builders(b"<html>"), 1, 1, 0, out) == RUNTIME_ERROR
    assert "the model is an HTML page" in guest.reason
    assert guest("load", guest.builders(b"\0asm\1\0\0\0"), 1, 5, 0, out) == INVALID_ENCODING
    assert "the model is a WebAssembly module. It is a guest" in guest.reason
    assert guest("load", guest.builders(IDENTITY), 1, 77, 0, out) == INVALID_ENCODING
    assert guest("load", guest.builders(b"x"), 1, 2, 0, out) == INVALID_ENCODING
    assert "no backend serves tensorflow" in guest.reason
    assert guest("load", guest.builders(b"no onnx"), 1, 1, 0, out) == RUNTIME_ERROR
    assert guest("load", guest.builders(IDENTITY), 1, 5, 9, out) == INVALID_ARGUMENT
    assert guest("load", 64, 0, 5, 0, out) == INVALID_ARGUMENT
    assert guest("load", guest.builders(IDENTITY, IDENTITY), 2, 5, 0, out) == INVALID_ARGUMENT


def test_mistakes_in_names_have_their_errnos(caller, host, identity_model):
    host.add_model("écho", identity_model())
    guest = caller()
    out = guest.put(b"\xff" * 4)
    name = "écho".encode()
    assert guest("load_by_name", guest.put(name), len(name), out) == 0
    assert guest.u32(out) == 0
    assert guest("load_by_name", guest.put(b"other"), 5, out) == NOT_FOUND
    assert "registered: écho" in guest.reason
    assert guest("load_by_name", guest.put(b"\xff\xfe"), 2, out) == INVALID_ARGUMENT
    assert guest("load_by_name", guest.put(b"/etc/passwd"), 11, out) == NOT_FOUND


def test_mistakes_in_configs_have_their_errnos(caller, host, identity_model):
    host.add_model("echo", identity_model())
    guest = caller("wasmedge")
    name, out = guest.put(b"echo"), guest.put(bytes(4))

    def load(config: bytes) -> int:
        at = guest.put(config)
        return guest("load_by_name_with_config", name, 4, at, len(config), out)

    assert load(b'{"stream": 2}') == 0
    assert load(b"") == 0
    assert load(b"{") == INVALID_ENCODING
    assert load(b"[1]") == INVALID_ARGUMENT
    assert load(b"[" * 5000) == INVALID_ENCODING
    assert load(b'{"stream": "two"}') == INVALID_ARGUMENT


def test_names_and_configs_have_a_maximum_length(caller):
    guest = caller(size=5 << 20)
    out = guest.put(bytes(4))
    assert guest("load_by_name", 0, 4096, out) == NOT_FOUND
    assert guest("load_by_name", 0, 4097, out) == INVALID_ARGUMENT
    assert "the name has 4097 bytes, and may have 4096" in guest.reason
    arguments = guest.put(b"m"), 1, 0, (4 << 20) + 1, out
    assert guest("load_by_name_with_config", *arguments) == INVALID_ARGUMENT
    assert "the config has 4194305 bytes, and may have 4194304" in guest.reason


def test_a_text_streams_piece_by_piece(caller):
    guest = caller("wasmedge")
    context = guest.context(b'wasi-nn:identity {"stream": 3}')
    guest("set_input", context, 0, guest.tensor(3, [7], b"abcdefg"))
    pieces = []
    while (errno := guest("compute_single", context)) == 0:
        pieces.append(guest.output(context, name="get_output_single"))
    assert (errno, pieces) == (100, [b"abc", b"def", b"g"])
    assert not guest.observer.failures, "the end of a stream is not a failure"
    assert guest("fini_single", context) == 0
    assert guest("compute_single", context) == 0, "a stream can be started anew"


def test_streaming_is_routed_by_what_the_backend_declares(caller):
    guest = caller("wasmedge")
    context = guest.context()
    for function, arguments in (
        ("compute_single", (context,)),
        ("get_output_single", (context, 0, 64, 4, 128)),
        ("fini_single", (context,)),
    ):
        assert guest(function, *arguments) == UNSUPPORTED


def test_an_unforeseen_exception_is_a_runtime_error(caller, monkeypatch, caplog):
    guest = caller()
    context = guest.context()
    entry = guest.session.contexts[context]
    monkeypatch.setattr(entry.context, "compute", lambda: 1 / 0)
    assert guest("compute", context) == RUNTIME_ERROR
    assert "ZeroDivisionError" in guest.reason
    assert "Traceback" in caplog.text


def test_a_log_handler_that_fails_does_not_matter_to_the_guest(caller):
    class Broken(logging.Handler):
        def emit(self, record):
            raise BrokenPipeError

    handler = Broken()
    logging.getLogger("wasi_nn").addHandler(handler)
    try:
        assert caller()("compute", 9) == INVALID_ARGUMENT
    finally:
        logging.getLogger("wasi_nn").removeHandler(handler)


def test_keyboard_interrupt_ends_the_guest(caller, monkeypatch):
    guest = caller()
    context = guest.context()

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(guest.session.contexts[context].context, "compute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        guest("compute", context)
