"""Embeddings and scores: how many numbers, of which models."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn.backend import LoadOptions
from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml import embedding, metadata
from wasi_nn_ggml.backend import GgmlBackend

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"


def variant(**numbers: int | bool) -> bytes:
    """The tiny model with more keys (``__`` stands for a dot)."""
    data = TINY.read_bytes()
    pairs = b""
    for name, value in numbers.items():
        key = "llama." + name.replace("__", ".")
        kind = struct.pack("<I?", 7, value) if isinstance(value, bool) else struct.pack(
            "<II", 4, value
        )  # fmt: skip
        pairs += struct.pack("<Q", len(key)) + key.encode() + kind
    # A key of the length that keeps the tensors aligned.
    short = -(len(pairs) + 8 + 4 + 4) % 32 or 32
    pairs += struct.pack("<Q", short) + b"x" * short + struct.pack("<II", 4, 0)
    count = struct.unpack_from("<Q", data, 16)[0]
    return data[:16] + struct.pack("<Q", count + len(numbers) + 1) + pairs + data[24:]


@pytest.fixture
def load():
    """Loads the tiny model, or bytes, with a config."""
    graphs = []

    def make(builder: Path | bytes = TINY, **config: object):
        data = builder if isinstance(builder, Path) else memoryview(builder)
        options = {"ctx-size": 256, "threads": 1, "temp": 0.0, "n-predict": 4}
        options.update({key.replace("_", "-"): value for key, value in config.items()})
        graphs.append(GgmlBackend().load([data], LoadOptions("ggml", config=options)))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.close()


def put(context, text, key=0):
    context.set_input(key, Tensor(TensorType.U8, (1,), memoryview(text.encode())))


def answer(graph, prompt="a b", **config):
    context = graph.init_execution_context()
    if config:
        put(context, json.dumps({k.replace("_", "-"): v for k, v in config.items()}), 1)
    put(context, prompt)
    context.compute()
    return bytes(context.get_output(0).data)


@pytest.mark.parametrize("pooling", [0, 1, 2, 3])
def test_as_many_numbers_as_the_model_gives_out(load, pooling):
    narrow = load(variant(embedding_length_out=4), embedding=True, pooling_type=pooling)
    values = json.loads(answer(narrow))
    assert values["n_embedding"] == len(values["embedding"]) == 4
    whole = json.loads(answer(load(embedding=True, pooling_type=pooling)))["embedding"]
    assert len(whole) == 64
    if pooling == 0:
        return  # this model's rows are wider than it says
    # The same beginning, but for the length.
    ratio = whole[0] / values["embedding"][0]
    assert [ratio * value for value in values["embedding"]] == pytest.approx(whole[:4], abs=1e-6)


def test_a_model_that_claims_more_numbers_than_it_computes(load):
    """llama.cpp would end the process."""
    model = load(variant(embedding_length_out=4096))
    assert answer(model)
    with pytest.raises(RuntimeFailure, match="4096 numbers"):
        answer(model, embedding=True)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_a_failure(load, monkeypatch, wrong):
    model = load(embedding=True, pooling_type=0)
    row = (embedding.ctypes.c_float * 64)(*[0.5] * 63, wrong)
    address = embedding.ctypes.addressof(row)
    monkeypatch.setattr(
        model.weights.native, "llama_get_embeddings_ith", lambda context, at: address
    )
    with pytest.raises(RuntimeFailure, match="no finite number"):
        answer(model)


@pytest.mark.parametrize("config", [{"reranking": True}, {"embedding": True, "pooling-type": 4}])
def test_a_score_needs_a_model_that_ranks(load, config):
    with pytest.raises(InvalidArgument, match="no head that ranks"):
        GgmlBackend().load([TINY], LoadOptions("ggml", config=config))
    context = load().init_execution_context()
    put(context, "Hello")
    context.compute()
    text = bytes(context.get_output(0).data)
    with pytest.raises(InvalidArgument, match="no head that ranks"):
        put(context, json.dumps(config), 1)
    context.compute()
    assert bytes(context.get_output(0).data) == text


def test_a_model_that_ranks_gives_a_score(load):
    values = json.loads(answer(load(variant(pooling_type=4), reranking=True)))
    assert values["n_embedding"] == len(values["embedding"]) == 1


def test_a_head_that_the_model_does_not_speak_of(load, tmp_path):
    """Files that were made before there was a key for it."""
    path = tmp_path / "model.gguf"
    path.write_bytes(TINY.read_bytes().replace(b"output_norm.weight", b"cls.output.weightx"))
    weights = load().weights
    with metadata.Metadata(weights.native, weights.model, str(path)) as header:
        assert header.has_tensor("cls.weight", "cls.output.weightx")
        assert not header.has_tensor("cls.weight", "cls.output.weight")
        assert header.numbers("no such key") == []
        assert header.number("block_count") == 2
