"""The memory of contexts: estimates, what they really take, and what counts against a limit."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from conftest import needs
from hypothesis import given
from hypothesis import strategies as st

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import ContextFull, InvalidArgument, PromptTooLong, RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.guard import estimates
from wasi_nn_ggml.guard.estimates import Shape, fitting
from wasi_nn_ggml.llama.kv_cache import common_prefix
from wasi_nn_ggml.llama.metadata import Metadata
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.native_context import c_library
from wasi_nn_ggml.llama.vision import Picture
from wasi_nn_ggml.settings import ContextSettings, ModelSettings

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
#: Of a model with a billion parameters.
SHAPE = Shape(16 * 8 * 64, 16 * 8 * 64, 0, 40_000, 16, 32, 128_000, False)
SIZES = ContextSettings(n_ctx=4096)
MEASURE = """
import json, sys
from wasi_nn_ggml.llama.kv_cache import KvCache
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.settings import ContextSettings, ModelSettings

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

model = Model(sys.argv[1], ModelSettings())
reserved = []
def fill(settings):
    cache = KvCache(model, settings, reserved.append)
    tokens = [7 + at % 50 for at in range(cache.n_ctx - 8)]
    cache.evaluate(tokens if not settings.at_once else tokens[: cache.n_batch])
    return cache
fill(ContextSettings(n_ctx=256, threads=1)).close()
reserved.clear()
before = resident()
cache = fill(ContextSettings(threads=1, **json.loads(sys.argv[2])))
print(json.dumps([resident() - before, sum(reserved)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/statm is Linux's")
@pytest.mark.parametrize(
    "config",
    [
        {"n_ctx": 300},
        {"n_ctx": 16384},
        {"n_ctx": 4096, "flash_attention": 0},
        {"n_ctx": 4096, "cache_type_k": 0, "cache_type_v": 0, "n_ubatch": 64},
        {"n_ctx": 2048, "embedding": True, "flash_attention": 0},
    ],
)
def test_an_estimate_covers_the_memory_that_is_taken(config):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(TINY), json.dumps(config)],
        capture_output=True,
        check=True,
        timeout=120,
    )
    taken, counted = json.loads(done.stdout)
    assert taken <= counted
    # In a small model, the fixed part weighs most.
    assert counted <= 4 * taken + (20 << 20)


@pytest.fixture(scope="module")
def model():
    return Model(str(TINY), ModelSettings())


class Header(Metadata):
    """A header with the numbers of a test."""

    def __init__(self, **values):
        self.values = {key.replace("__", "."): value for key, value in values.items()}
        self.architecture = "llama"

    knows_arrays = True

    def numbers(self, name):
        value = self.values.get(name, [])
        return value if isinstance(value, list) else [value]


def shape(model, **values):
    return Shape.of(model.native, model.pointer, Header(**values), model.n_vocab)


class TestShape:
    """The tiny model has two layers of four heads of 16 numbers, two of them cached."""

    def test_a_shape_has_the_numbers_of_the_library(self, model):
        assert (model.shape.keys, model.shape.values) == (64, 64)
        assert shape(model).keys == 64

    def test_a_shape_has_heads_of_another_size(self, model):
        wide = shape(
            model, attention__key_length=4096, attention__value_length=512,
            attention__key_length_swa=256,
        )  # fmt: skip
        assert (wide.keys, wide.values) == (2 * 2 * 4096, 2 * 2 * 512)
        assert wide.width > 4 * 4 * 4096

    def test_layers_may_cache_different_numbers_of_heads(self, model):
        assert shape(model, attention__head_count_kv=[1, 7]).keys == 8 * 16
        assert shape(model, attention__head_count_kv=[0, 2]).keys == 2 * 16
        assert shape(model, attention__head_count_kv=3).keys == 2 * 3 * 16

    def test_every_head_counts_if_arrays_cannot_be_read(self, model, monkeypatch):
        monkeypatch.setattr(Header, "knows_arrays", False)
        assert shape(model).keys == 2 * 4 * 16

    def test_experts_and_states_count(self, model):
        plain = shape(model, feed_forward_length=[100, 1000])
        experts = shape(model, expert_feed_forward_length=1000, expert_used_count=8)
        assert experts.width - plain.width >= 4 * 7 * 1000
        assert shape(model, ssm__inner_size=10, ssm__state_size=16, ssm__conv_kernel=4).states

    def test_integer_arrays_of_a_header_are_read(self, model, tmp_path):
        def text(value):
            return struct.pack("<Q", len(value)) + value

        pairs = text(b"llama.attention.head_count_kv") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 9)
        pairs += text(b"llama.odd") + struct.pack("<IIQ", 9, 8, 1) + text(b"a")
        pairs += text(b"llama.floats") + struct.pack("<IIQf", 9, 6, 1, 1.0)
        path = tmp_path / "header.gguf"
        path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 3) + pairs + bytes(64))
        with Metadata(model.native, model.pointer, str(path)) as header:
            assert header.knows_arrays
            assert header.array(b"llama.attention.head_count_kv") == [1, 2, 9]
            assert header.array(b"llama.odd") == header.array(b"llama.floats") == []
            assert header.array(b"llama.none") == []
        assert not header.knows_arrays


class TestSize:
    def test_an_estimate_grows_with_each_setting(self):
        plain = SHAPE.bytes(SIZES, 4096)
        cache = 4096 * 2 * (SHAPE.keys + SHAPE.values)
        assert cache < plain < 3 * cache
        for more in (
            {"flash_attention": 0}, {"n_ubatch": 2048}, {"embedding": True}, {"cache_type_k": 0},
            {"attention_type": 1},
        ):  # fmt: skip
            assert SHAPE.bytes(SIZES._replace(**more), 4096) > plain
        assert SHAPE._replace(full_attention=True).bytes(SIZES, 4096) > plain
        assert SHAPE.bytes(SIZES._replace(n_ubatch=1 << 20), 4096) == SHAPE.bytes(
            SIZES._replace(n_ubatch=4096), 4096
        )

    def test_a_context_has_whole_blocks_of_256_tokens(self):
        assert SHAPE.bytes(SIZES, 1) == SHAPE.bytes(SIZES, 256) < SHAPE.bytes(SIZES, 257)

    def test_a_context_that_does_not_fit_is_rejected_or_made_smaller(self, monkeypatch):
        monkeypatch.setattr(estimates, "available", lambda: 1 << 30)
        assert fitting(SHAPE, SIZES, 8192)[0] == 4096
        with pytest.raises(RuntimeFailure, match="ctx-size"):
            fitting(SHAPE, SIZES._replace(n_ctx=1 << 20), 8192)
        # Without a size, the context gets what fits.
        n_ctx, size = fitting(SHAPE, SIZES._replace(n_ctx=0), 1 << 17)
        assert 4096 <= n_ctx < 1 << 17
        assert size < 1 << 29
        monkeypatch.setattr(estimates, "available", lambda: 1 << 28)
        with pytest.raises(RuntimeFailure, match="no memory"):
            fitting(SHAPE, SIZES._replace(n_ctx=0), 1 << 17)

    def test_a_containers_limit_counts(self, monkeypatch):
        free = estimates.available()
        monkeypatch.setattr(estimates, "group_memory", _Group)
        assert estimates.available() == 1000 < free


class _Group:
    left = 1000


class TestPrompts:
    def context(self, **config):
        graph = GgmlBackend().load([TINY], LoadOptions("ggml", config={"threads": 1, **config}))
        return graph.init_execution_context(unlimited)

    @staticmethod
    def put(context, data, key=0):
        context.set_input(key, Tensor(TensorType.U8, (1,), memoryview(data)))

    def test_a_prompt_has_a_maximum_whatever_the_config_says(self):
        context = self.context(**{"ctx-size": 1 << 26})
        with pytest.raises(PromptTooLong, match="at most 16777216"):
            self.put(context, b"a" * ((16 << 20) + 1))
        with pytest.raises(InvalidArgument, match="prompt"):
            self.put(context, bytes(80 << 20))
        with pytest.raises(InvalidArgument, match="config"):
            self.put(context, b" " * (2 << 20), 1)
        context = self.context(**{"ctx-size": 2})
        with pytest.raises(PromptTooLong):
            self.put(context, b"a" * 3000)

    def test_the_memory_of_tokenising_counts(self):
        context = self.context(**{"ctx-size": 4096})
        reserved = []
        context.reserve = reserved.append
        self.put(context, b"a" * 1000)
        assert reserved == [64_000, -64_000]

        def refuse(size):
            raise RuntimeFailure("above its limit")

        context.reserve = refuse
        with pytest.raises(RuntimeFailure, match="limit"):
            self.put(context, b"a" * 1000)

    def test_the_output_counts(self):
        context = self.context(**{"ctx-size": 256, "n-predict": 50, "temp": 0.0})
        reserved = []
        context.reserve = reserved.append
        self.put(context, b"Hello")
        context.compute()
        written = len(context.get_output(0).data)
        before = sum(reserved)
        self.put(context, b"Hello")
        assert before - sum(reserved) == written > 40
        context.compute_single()
        assert sum(reserved) == before - written + len(context.get_output(0).data)
        most = before + 10

        def limited(size):
            if size > 0 and sum(reserved) + size > most:
                raise RuntimeFailure("above its limit")
            reserved.append(size)

        context.reserve = limited
        self.put(context, b'{"n-predict": 200}', 1)
        with pytest.raises(RuntimeFailure, match="limit"):
            context.compute()
        assert written < len(context.get_output(0).data) <= written + 10
        context.close()
        assert sum(reserved) == 0

    def test_a_token_takes_four_bytes(self, model):
        tokens = model.tokenize(b"a" * 10_000)
        assert len(tokens) == 10_001
        assert sys.getsizeof(tokens) < 4 * len(tokens) + 200

    @given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
    def test_common_prefix_is_the_number_of_equal_tokens(self, one, two):
        wanted = 0
        while wanted < min(len(one), len(two)) and one[wanted] == two[wanted]:
            wanted += 1
        assert common_prefix(array("i", one), array("i", two)) == wanted
        assert common_prefix(array("i", one + two), array("i", one)) == len(one)


LOOKING_BACK = {"last-n-penalty": 1 << 20, "dry-multipier": 1.0, "repeat-penalty": 1.1}


class TestSamplers:
    def test_penalties_look_at_no_more_tokens_than_the_context(self):
        context = TestPrompts().context(**{"ctx-size": 300})
        reserved = []
        context.reserve = reserved.append
        TestPrompts.put(context, json.dumps(LOOKING_BACK).encode(), 1)
        assert reserved == [16 * 512]
        TestPrompts.put(context, json.dumps({**LOOKING_BACK, "ctx-size": 1 << 16}).encode(), 1)
        TestPrompts.put(context, b'{"temp": 0.5}', 1)
        assert sum(reserved) == 16 << 16
        TestPrompts.put(context, b'{"grammar": "root ::= [a-z]"}', 1)
        assert sum(reserved) > 16 << 16
        small = sum(reserved)
        TestPrompts.put(context, json.dumps({"grammar": "root ::= " + "[a-z]" * 900}).encode(), 1)
        assert sum(reserved) - small > 100 * 5 * 900
        context.close()
        assert sum(reserved) == 0

    def test_that_limit_does_not_change_a_text(self):
        texts = set()
        for last_n in (512, 1 << 20):
            config = {**LOOKING_BACK, "last-n-penalty": last_n, "temp": 0.0, "n-predict": 200}
            context = TestPrompts().context(**{"ctx-size": 512, **config})
            TestPrompts.put(context, b"the quick")
            context.compute()
            texts.add(bytes(context.get_output(0).data))
        assert len(texts) == 1


def test_an_image_takes_as_many_cells_as_tokens(monkeypatch, tmp_path):
    """In some models, the tokens of an image share positions."""
    needs("PIL.Image").new("RGB", (20, 20)).save(tmp_path / "black.png")
    for name in ("tiny.gguf", "tiny-mmproj.gguf"):
        (tmp_path / name).write_bytes(TINY.with_name(name).read_bytes())
    evaluate = Picture.evaluate

    def with_one_position(picture, cache):
        evaluate(picture, cache)
        cache.mark_filled(1)

    monkeypatch.setattr(Picture, "evaluate", with_one_position)
    config = {"ctx-size": 256, "threads": 1, "mmproj": "tiny-mmproj.gguf", "image": "black.png"}
    model = GgmlBackend().load([tmp_path / "tiny.gguf"], LoadOptions("ggml", config=config))
    context = model.init_execution_context(unlimited)
    TestPrompts.put(context, b"see <image> it")
    # llama.cpp would fail without a reason that a guest could understand.
    with pytest.raises(ContextFull):
        context.compute()


def test_the_c_library_has_a_name_on_windows():
    assert c_library("nt") == "msvcrt"
    assert c_library("posix") is None
