"""Embeddings and scores: how many numbers, of which models."""

from __future__ import annotations

import base64
import io
import json
import struct
import tempfile
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import InvalidArgument, PromptTooLong, RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.guard.gguf import Contents
from wasi_nn_ggml.llama import metadata
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.protocol import embedding
from wasi_nn_ggml.settings import ModelSettings

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
    context = graph.init_execution_context(unlimited)
    if config:
        put(context, json.dumps({k.replace("_", "-"): v for k, v in config.items()}), 1)
    put(context, prompt)
    context.compute()
    return bytes(context.get_output(0).data)


@pytest.mark.parametrize("pooling", [0, 1, 2, 3])
def test_an_embedding_has_as_many_numbers_as_the_model_gives_out(load, pooling):
    narrow = load(variant(embedding_length_out=4), embedding=True, pooling_type=pooling)
    values = json.loads(answer(narrow))
    assert values["n_embedding"] == len(values["embedding"]) == 4
    whole = json.loads(answer(load(embedding=True, pooling_type=pooling)))["embedding"]
    assert len(whole) == 64
    if pooling == 0:
        return  # the rows of this model are wider than it says
    # The first numbers are the same, apart from the normalisation.
    ratio = whole[0] / values["embedding"][0]
    assert [ratio * value for value in values["embedding"]] == pytest.approx(whole[:4], abs=1e-6)


def test_a_model_that_claims_more_numbers_than_it_computes_is_rejected(load):
    """llama.cpp would end the process."""
    graph = load(variant(embedding_length_out=4096))
    assert answer(graph)
    with pytest.raises(RuntimeFailure, match="4096 numbers"):
        answer(graph, embedding=True)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_a_failure(load, monkeypatch, wrong):
    graph = load(embedding=True, pooling_type=0)
    row = (embedding.ctypes.c_float * 64)(*[0.5] * 63, wrong)
    address = embedding.ctypes.addressof(row)
    monkeypatch.setattr(graph.model.native, "llama_get_embeddings_ith", lambda context, at: address)
    with pytest.raises(RuntimeFailure, match="not a finite number"):
        answer(graph)


@pytest.mark.parametrize("config", [{"reranking": True}, {"embedding": True, "pooling-type": 4}])
def test_a_score_needs_a_model_that_ranks(load, config):
    with pytest.raises(InvalidArgument, match="no head that ranks"):
        GgmlBackend().load([TINY], LoadOptions("ggml", config=config))
    context = load().init_execution_context(unlimited)
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


def test_a_ranking_head_without_its_key_is_found(load):
    """Files that are older than the key."""
    model = load().model
    assert not model.ranks
    head = Contents(tensors=frozenset({b"cls.output.weight"}))
    assert Model(str(TINY), ModelSettings(), head).ranks
    with metadata.Metadata(model.native, model.pointer, str(TINY)) as header:
        assert header.numbers("no such key") == []
        assert header.number("block_count") == 2


LONG = "hello " * 30


class TestTokensThatSeeLaterOnes:
    """llama.cpp needs their prompt in one part; otherwise it ends the process."""

    def test_a_config_can_ask_for_it(self, load):
        graph = load(attention_type=1, ubatch_size=16)
        text = answer(graph, LONG)
        assert text == answer(graph, LONG, batch_size=256)
        assert text != answer(load(), LONG)
        with pytest.raises(PromptTooLong, match="100 can see each other"):
            answer(graph, LONG, batch_size=100)

    @pytest.mark.parametrize("attention", [-1, 1])
    def test_a_model_can_ask_for_it(self, load, attention):
        graph = load(variant(attention__causal=False), ubatch_size=256, attention_type=attention)
        assert answer(graph, LONG) == answer(load(attention_type=1), LONG)
        with pytest.raises(PromptTooLong):
            answer(graph, LONG, ubatch_size=16, batch_size=64)
        assert answer(graph, LONG, ubatch_size=16, batch_size=64, attention_type=0) == answer(
            load(), LONG
        )

    def test_a_longer_prompt_is_computed_anew(self, load):
        graph = load(attention_type=1)
        context = graph.init_execution_context(unlimited)
        for prompt in ("hello", "hello you", "hello you and"):
            put(context, prompt)
            context.compute()
            assert bytes(context.get_output(0).data) == answer(graph, prompt)

    def test_an_image_may_be_in_the_prompt(self, tmp_path):
        """llama.cpp makes batches of the configured size, of text and of images."""
        image = needs("PIL.Image")
        file = io.BytesIO()
        image.new("RGB", (20, 20), "red").save(file, "PNG")
        url = base64.b64encode(file.getvalue()).decode()
        prompt = f'{LONG} <img src="data:image/png;base64,{url}"> {LONG}'
        for more in ({"attention-type": 1}, {"batch-size": 16}):
            config = {"ubatch-size": 2, "ctx-size": 512, "n-predict": 2, "threads": 1, **more}
            projector = TINY.with_name("tiny-mmproj.gguf")
            graph = GgmlBackend().load([TINY, projector], LoadOptions("ggml", config=config))
            assert answer(graph, prompt)

    def test_a_library_without_llama_get_causal_attn_is_supported(self, load, monkeypatch):
        graph = load(attention_type=1)
        monkeypatch.delattr(graph.model.native, "llama_get_causal_attn")
        with pytest.raises(PromptTooLong):
            answer(graph, LONG, batch_size=64)
        assert answer(graph, LONG, attention_type=0) == answer(load(), LONG)


def encoder() -> bytes:
    """A BERT of one layer and 40 positions."""
    gguf, np = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    width, positions = 16, 40
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(9601) + c for c in "abcdef")]
    with tempfile.TemporaryDirectory() as folder:
        writer = gguf.GGUFWriter(Path(folder) / "bert.gguf", "bert")
        writer.add_context_length(positions)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(32)
        writer.add_head_count(2)
        writer.add_layer_norm_eps(1e-5)
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_vocab_size(len(tokens))
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("jina-v2-en")
        writer.add_token_list(tokens)
        writer.add_token_types([3] * 5 + [1] * 6)
        writer.add_token_type_count(2)
        writer.add_bos_token_id(2)
        writer.add_eos_token_id(3)
        writer.add_sep_token_id(3)
        random = np.random.Generator(np.random.PCG64(3))

        def tensor(name, *shape):
            writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))

        tensor("token_embd.weight", len(tokens), width)
        tensor("token_types.weight", 2, width)
        tensor("position_embd.weight", positions, width)
        norms = ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm")
        for name in (*norms, *(f"blk.0.attn_{part}" for part in ("q", "k", "v", "output"))):
            if name not in norms:
                tensor(f"{name}.weight", width, width)
            else:
                tensor(f"{name}.weight", width)
            tensor(f"{name}.bias", width)
        for name, rows, columns in (("ffn_up", 32, width), ("ffn_down", width, 32)):
            tensor(f"blk.0.{name}.weight", rows, columns)
            tensor(f"blk.0.{name}.bias", rows)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return (Path(folder) / "bert.gguf").read_bytes()


def test_an_encoder_gives_embeddings_and_no_text(load):
    graph = load(encoder(), ubatch_size=8, ctx_size=256)
    short, long, longer = "a b c", "a b c d e " * 6, "a b c d e " * 20
    for prompt in (short, long, longer):
        with pytest.raises(RuntimeFailure, match="for embeddings"):
            answer(graph, prompt)
    for prompt in (short, long):
        assert len(json.loads(answer(graph, prompt, embedding=True))["embedding"]) == 16
    # It has learned 40 positions, whatever the config says.
    with pytest.raises(PromptTooLong, match="takes 40"):
        answer(graph, longer, embedding=True)
