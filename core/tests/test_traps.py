"""What a host must handle to run guests that were compiled for other versions and other hosts.

Command lines, language models and components have tests of their own.
"""

from __future__ import annotations

import struct
from pathlib import Path

import onnx
import pytest
from conftest import needs
from onnx import TensorProto, helper

from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn.encodings import recognise
from wasi_nn.errors import ErrorCode

IDENTITY = b"wasi-nn:identity"
GGUF = Path(__file__).parents[2] / "conformance" / "graphs" / "ggml" / "tiny.gguf"


def onnx_add(kind: int = TensorProto.FLOAT) -> bytes:
    """y = x + x on [1, 2]."""
    x = helper.make_tensor_value_info("x", kind, [1, 2])
    y = helper.make_tensor_value_info("y", kind, [1, 2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def onnx_identity(kind: int) -> bytes:
    x = helper.make_tensor_value_info("x", kind, [1, 2])
    y = helper.make_tensor_value_info("y", kind, [1, 2])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class TestEncodingsFiveAndSix:
    @pytest.mark.parametrize("number", [5, 6])
    def test_gguf_is_ggml_by_either_number(self, caller, number):
        needs("xllamacpp")
        guest = caller(size=1 << 20)
        guest.load(GGUF.read_bytes(), encoding=number)
        assert guest.session.graphs[0].backend.name == "ggml"

    @pytest.mark.parametrize("number", [5, 6])
    def test_autodetect_by_either_number(self, caller, number):
        guest = caller()
        assert guest.load(onnx_add(), encoding=number) == 0

    def test_a_dialect_that_is_given_is_taken_at_its_word(self, caller):
        guest = caller("wamr")
        out = guest.put(bytes(4))
        assert guest("load", guest.builders(onnx_add()), 1, 5, 0, out) != 0, "5 is ggml in WAMR"
        assert "GGUF" in guest.reason or "llama.cpp is not installed" in guest.reason
        assert guest.load(onnx_add(), encoding=6) == 0


class TestOldEncodings:
    @pytest.mark.parametrize("number", [1, 2])
    def test_onnx_is_recognised_by_either_number(self, caller, number):
        guest = caller()
        assert guest.load(onnx_add(), encoding=number) == 0

    @pytest.mark.parametrize(("number", "encoding"), [(1, "pytorch"), (3, "tensorflowlite")])
    def test_wasmedges_of_2022_are_recognised(self, caller, number, encoding):
        head = {
            "pytorch": b"PK\x03\x04" + bytes(22) + b"\x0a\0\0\0net/data/0",
            "tensorflowlite": b"\x1c\0\0\0TFL3",
        }[encoding]
        guest = caller()
        assert guest.reading.encoding(number, lambda: recognise(head)) == encoding

    def test_the_old_dialect_can_be_given(self, caller):
        guest = caller("witx-2022-04")
        assert guest.load(onnx_add(), encoding=2) == 0
        out = guest.put(bytes(4))
        assert guest("load", guest.builders(onnx_add()), 1, 1, 0, out) == 1
        assert "no backend serves tensorflow" in guest.reason


class TestTensorTypes:
    @pytest.mark.parametrize(
        ("number", "kind", "data", "dialect"),
        [
            (2, TensorProto.UINT8, b"ab", "witx-2022"),
            (2, TensorProto.DOUBLE, struct.pack("<2d", 1, 2), "witx"),
            (3, TensorProto.UINT8, b"ab", "witx"),
            (3, TensorProto.INT32, struct.pack("<2i", 1, 2), "witx-2022"),
            (3, TensorProto.BFLOAT16, b"abcd", "wamr-2.1"),
            (4, TensorProto.INT32, struct.pack("<2i", 1, 2), "witx"),
            (4, TensorProto.UINT8, b"ab", "wamr-2.1"),
            (5, TensorProto.INT64, struct.pack("<2q", 1, 2), "witx"),
            (5, TensorProto.INT32, struct.pack("<2i", 1, 2), "wamr-2.1"),
            (6, TensorProto.INT64, struct.pack("<2q", 1, 2), "wamr-2.1"),
            (0, TensorProto.FLOAT16, b"abcd", "witx"),
            (1, TensorProto.FLOAT, struct.pack("<2f", 1, 2), "witx"),
        ],
    )
    def test_the_length_of_the_data_decides_the_tensor_type(
        self, caller, number, kind, data, dialect
    ):
        guest = caller()
        context = guest.context(onnx_identity(kind))
        assert guest("set_input", context, 0, guest.tensor(number, [1, 2], data)) == 0, guest.reason
        assert guest("compute", context) == 0
        assert guest.output(context) == data
        assert guest.reading.dialect.name == dialect

    def test_one_accepted_tensor_decides_for_the_whole_guest(self, caller):
        guest = caller()
        context = guest.context()
        assert guest("set_input", context, 0, guest.tensor(2, [2], b"ab")) == 0
        assert [d.name for d in guest.reading.candidates] == ["witx-2022"]
        double = guest.tensor(2, [2], struct.pack("<2d", 1, 2))
        assert guest("set_input", context, 0, double) == 1, "2 is u8 for this guest from now on"

    def test_a_refused_tensor_decides_nothing(self, caller):
        guest = caller()
        context = guest.context(onnx_identity(TensorProto.INT32))
        assert guest("set_input", context, 0, guest.tensor(2, [1, 2], b"ab")) == 1
        right = guest.tensor(4, [1, 2], struct.pack("<2i", 1, 2))
        assert guest("set_input", context, 0, right) == 0, guest.reason

    def test_a_given_dialect_is_not_guessed_away(self, caller):
        guest = caller("witx")
        context = guest.context()
        assert guest("set_input", context, 0, guest.tensor(2, [2], b"ab")) == 1
        assert "a f64 tensor of dimensions [2] takes 16 bytes" in guest.reason


@pytest.mark.parametrize("padding", [b"\xff\xff\xff", b"\x01\x02\x03"])
def test_padding_may_hold_garbage(caller, padding):
    guest = caller()
    context = guest.context()
    assert guest("set_input", context, 0, guest.tensor(3, [2], b"ab", padding)) == 0


class TestDimensionsOfText:
    def test_dimensions_are_ignored_for_untyped_bytes(self, caller):
        guest = caller("wasmedge")
        context = guest.context(b'wasi-nn:identity {"untyped_bytes": true}')
        assert guest("set_input", context, 0, guest.tensor(3, [1], b"a long prompt")) == 0
        guest("compute", context)
        assert guest.output(context) == b"a long prompt"

    def test_dimensions_must_fit_for_all_other_graphs(self, caller):
        guest = caller("wasmedge")
        context = guest.context()
        assert guest("set_input", context, 0, guest.tensor(3, [1], b"a long prompt")) == 1
        assert "a u8 tensor of dimensions [1] takes 1 bytes, not 13" in guest.reason


class TestBufferOfUnknownSize:
    MODEL = b'wasi-nn:identity {"untyped_bytes": true}'

    def get(self, guest, model, buffer):
        context = guest.context(model)
        guest("set_input", context, 0, guest.tensor(3, [5], b"hello"))
        guest("compute", context)
        out = guest.put(bytes(4))
        return guest("get_output", context, 0, buffer, 0, out), guest.u32(out)

    def test_size_0_means_unknown_for_wasmedges_texts(self, caller):
        guest = caller("wasmedge")
        buffer = guest.put(bytes(16))
        assert self.get(guest, self.MODEL, buffer) == (0, 5)
        assert guest.bytes[buffer : buffer + 5] == b"hello"

    def test_linear_memory_bounds_a_write_of_unknown_size(self, caller):
        guest = caller("wasmedge")
        assert self.get(guest, self.MODEL, len(guest.bytes) - 4)[0] == 1

    @pytest.mark.parametrize(("dialect", "model"), [("witx", MODEL), ("wasmedge", IDENTITY)])
    def test_for_all_other_guests_size_0_is_too_small(self, caller, dialect, model):
        guest = caller(dialect)
        assert self.get(guest, model, 64) == (7, 5)


class TestErrnos:
    def test_wasmedges_end_of_sequence_is_100(self):
        assert DIALECTS["wasmedge"].errnos[ErrorCode.END_OF_SEQUENCE] == 100

    def test_the_errnos_of_2020(self):
        errnos = DIALECTS["witx-2020"].errnos
        assert (errnos[ErrorCode.MISSING_MEMORY], errnos[ErrorCode.BUSY]) == (2, 3)

    def test_the_errnos_of_wamr_2_1_to_2_3(self):
        errnos = DIALECTS["wamr-2.1"].errnos
        assert errnos[ErrorCode.RUNTIME_ERROR] == 4
        assert errnos[ErrorCode.NOT_FOUND] == 7


@pytest.mark.parametrize("name", sorted(DIALECTS.keys() - {"wamr-legacy", "wasmedge-2022"}))
def test_every_dialect_accepts_the_target_auto(caller, name):
    numbers = {encoding: number for number, encoding in DIALECTS[name].encodings.items()}
    assert caller(name).load(onnx_add(), encoding=numbers["onnx"], target=3) == 0


def test_handles_start_at_0_grow_and_are_not_reused(caller):
    guest = caller("wasmedge")
    assert [guest.load() for _ in range(3)] == [0, 1, 2]
    assert guest("unload", 2) == 0
    assert guest("unload", 2) == 1
    assert guest.load() == 3


def test_load_by_name_ignores_the_guests_encoding_and_target(caller, host, tmp_path):
    path = tmp_path / "add.onnx"
    path.write_bytes(onnx_add())
    host.add_model("m", path)
    guest = caller()
    out = guest.put(bytes(4))
    assert guest("load_by_name", guest.put(b"m"), 1, out) == 0
    assert guest("init_execution_context", guest.u32(out), out) == 0


def test_unknown_numbers_give_an_errno_and_never_raise(caller):
    guest = caller()
    out = guest.put(bytes(4))
    for encoding in (7, 255, 256, 0x7FFFFFFF, 0xFFFFFFFF):
        assert guest("load", guest.builders(IDENTITY), 1, encoding, 0, out) == 2
    for target in (4, 255, 0xFFFFFFFF):
        assert guest("load", guest.builders(IDENTITY), 1, 5, target, out) == 1


@pytest.mark.parametrize("name", ["witx", "witx-2022", "witx-2022-04", "witx-2020"])
def test_generated_bindings_get_no_errno_above_8(name):
    assert max(DIALECTS[name].errnos.values()) <= 8
