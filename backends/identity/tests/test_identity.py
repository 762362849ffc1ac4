"""The identity backend gives back what it is given."""

from __future__ import annotations

import pytest

from wasi_nn import Tensor, TensorType
from wasi_nn.backend import LoadOptions, StreamingContext, unlimited
from wasi_nn.errors import EndOfSequence, InvalidArgument, RuntimeFailure
from wasi_nn_identity.backend import IdentityBackend

OPTIONS = LoadOptions("identity")


def load(settings: str = "", **config):
    model = f"wasi-nn:identity {settings}\n".encode()
    return IdentityBackend().load([memoryview(model)], OPTIONS._replace(config=config))


def text(data: bytes) -> Tensor:
    return Tensor(TensorType.U8, (len(data),), memoryview(data))


def test_any_number_of_inputs_by_index_or_name():
    context = load().init_execution_context(unlimited)
    context.set_input(7, text(b"seven"))
    context.set_input("8", text(b"eight"))
    context.compute()
    assert bytes(context.get_output("7").data) == b"seven"
    assert bytes(context.get_output(8).data) == b"eight"
    with pytest.raises(InvalidArgument, match="before its input"):
        context.get_output(9)
    with pytest.raises(InvalidArgument, match="names are indexes"):
        context.set_input("x", text(b""))


def test_a_given_number_of_inputs():
    graph = load('{"inputs": 2}')
    assert [info.name for info in graph.inputs] == ["0", "1"]
    assert len(graph.outputs) == 2
    with pytest.raises(InvalidArgument, match="out of range"):
        graph.init_execution_context(unlimited).set_input(2, text(b""))


def test_a_guest_cannot_make_the_host_keep_any_number_of_inputs():
    with pytest.raises(InvalidArgument, match="1024"):
        load(inputs=2**31 - 1)
    context = load().init_execution_context(unlimited)
    context.set_input(1023, text(b""))
    for key in (1024, 2**32 - 1, "4294967295"):
        with pytest.raises(InvalidArgument, match="at most 1024"):
            context.set_input(key, text(b""))


def test_a_piece_is_bytes_whatever_the_tensor_is():
    context = load('{"stream": 2}').init_execution_context(unlimited)
    context.set_input(0, Tensor(TensorType.F32, (1,), memoryview(b"abcd")))
    context.compute_single()
    assert context.get_output_single(0) == text(b"ab")


def test_types_dimensions_and_sizes_may_change():
    context = load().init_execution_context(unlimited)
    tensors = (text(b"abc"), text(b"xyz"), text(b"longer"))
    for tensor in (*tensors, Tensor(TensorType.F32, (1, 1), memoryview(bytes(4)))):
        context.set_input(0, tensor)
        context.compute()
        assert context.get_output(0) == tensor


def test_streaming_where_the_model_says_so():
    assert not isinstance(load().init_execution_context(unlimited), StreamingContext)
    context = load('{"stream": 4}').init_execution_context(unlimited)
    assert isinstance(context, StreamingContext)
    with pytest.raises(InvalidArgument, match="not been set"):
        context.compute_single()
    context.set_input(0, text(b"abcdef"))
    with pytest.raises(InvalidArgument, match="before compute_single"):
        context.get_output_single(0)
    context.compute_single()
    assert bytes(context.get_output_single(0).data) == b"abcd"
    context.compute_single()
    assert bytes(context.get_output_single(0).data) == b"ef"
    with pytest.raises(EndOfSequence):
        context.compute_single()
    context.fini_single()


def test_the_config_is_laid_over_the_models_own():
    assert isinstance(
        load('{"stream": 4}', stream=1).init_execution_context(unlimited), StreamingContext
    )
    assert load(untyped_bytes=True).untyped_bytes


@pytest.mark.parametrize("settings", ["{", "[]", "7", "[" * 3000])
def test_settings_must_be_a_json_object(settings):
    with pytest.raises(RuntimeFailure, match=r"settings: .* not (a )?JSON"):
        load(settings)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", '"3"'])
def test_a_setting_of_the_wrong_type_is_an_error(value):
    with pytest.raises(InvalidArgument, match="must be a whole number"):
        load(f'{{"stream": {value}}}')


def test_a_graph_has_one_builder(tmp_path):
    backend = IdentityBackend()
    with pytest.raises(InvalidArgument, match="one builder"):
        backend.load([], OPTIONS)
    with pytest.raises(RuntimeFailure, match="begins with"):
        backend.load([memoryview(b"something else")], OPTIONS)
    path = tmp_path / "m"
    path.write_text("wasi-nn:identity")
    assert not backend.load([path], OPTIONS).inputs
    assert backend.sniff(b"wasi-nn:identity {}") == "identity"
    assert backend.sniff(b"GGUF") is None
