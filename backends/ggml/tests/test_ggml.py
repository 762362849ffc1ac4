"""llama.cpp behind the backend contract: WasmEdge's protocol, memory, errors."""

from __future__ import annotations

import gc
import json
import os
import re
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn import ExecutionTarget, Host, Limits
from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import (
    ContextFull,
    EndOfSequence,
    InvalidArgument,
    InvalidEncoding,
    ModelNotFound,
    NnError,
    PromptTooLong,
    RuntimeFailure,
    Unavailable,
    UnsupportedOperation,
)
from wasi_nn.types import Tensor, TensorType
from wasi_nn_conformance.engine_tests.common import together
from wasi_nn_ggml import keys
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.llama import bindings, loader, provider

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
# (Flash attention rounds differently in batches of different sizes.)
GREEDY = {"temp": 0.0, "threads": 1, "ctx-size": 512, "n-predict": 24, "flash-attn": "off"}
YES = 'root ::= "yes"'


class Talk:
    """A context with the calls that a test makes."""

    def __init__(self, graph):
        self.graph = graph
        self.context = graph.init_execution_context(unlimited)

    def put(self, text, key=0):
        data = text if isinstance(text, bytes) else text.encode()
        self.context.set_input(key, Tensor(TensorType.U8, (1,), memoryview(data)))

    def configure(self, **config):
        self.put(json.dumps({key.replace("_", "-"): value for key, value in config.items()}), 1)

    def text(self, key=0):
        return bytes(self.context.get_output(key).data)

    def metadata(self):
        return json.loads(self.text(1))

    def answer(self, prompt):
        self.put(prompt)
        self.context.compute()
        return self.text()

    def stream(self, most=1000):
        pieces = []
        try:
            for _ in range(most):
                self.context.compute_single()
                pieces.append(bytes(self.context.get_output_single(0).data))
        except EndOfSequence:
            pass
        return pieces


@pytest.fixture
def load():
    """Loads the tiny model with a config merged into the greedy one."""

    def make(builder=TINY, **config):
        options = {**GREEDY, **{key.replace("_", "-"): value for key, value in config.items()}}
        return GgmlBackend().load([builder], LoadOptions("ggml", config=options))

    return make


@pytest.fixture
def talk(load):
    return lambda *args, **config: Talk(load(*args, **config))


class TestProtocol:
    def test_compute_gives_a_text_and_its_counters(self, talk):
        guest = talk()
        text = guest.answer("Hello")
        assert text.isascii()
        assert guest.metadata() == {
            "input_tokens": 6,
            "output_tokens": 24,
            "llama_build_number": guest.metadata()["llama_build_number"],
            "llama_commit": guest.metadata()["llama_commit"],
        }
        assert isinstance(guest.metadata()["llama_build_number"], int)

    def test_counters_can_be_read_before_a_compute(self, talk):
        guest = talk()
        assert guest.metadata()["input_tokens"] == 0
        assert guest.text() == b""
        guest.put("Hello")
        assert guest.metadata()["input_tokens"] == 6

    def test_dimensions_of_a_prompt_are_ignored(self, load):
        context = load().init_execution_context(unlimited)
        for dims in ((1,), (5,), (7, 9)):
            context.set_input(0, Tensor(TensorType.U8, dims, memoryview(b"Hello")))
        assert json.loads(bytes(context.get_output(1).data))["input_tokens"] == 6

    def test_a_greedy_text_is_the_same_every_time(self, talk):
        guest = talk()
        first = guest.answer("Hello")
        guest.context.compute()
        assert guest.text() == first == talk().answer("Hello")

    def test_streaming_gives_the_same_text(self, talk):
        guest = talk()
        whole = guest.answer("the quick")
        guest.put("the quick")
        pieces = guest.stream(24)
        assert len(pieces) == 24
        assert b"".join(pieces) == whole
        assert guest.text() == whole
        assert json.loads(bytes(guest.context.get_output_single(1).data))["output_tokens"] == 24
        guest.context.fini_single()
        assert guest.text() == b""
        guest.context.fini_single()
        assert b"".join(guest.stream(24)) == whole

    def test_an_output_that_is_still_in_use_stays_as_it_is(self, talk):
        guest = talk()
        whole = guest.answer("the quick")
        guest.put("the quick")
        guest.stream(3)
        seen = guest.context.get_output(0)
        before = bytes(seen.data)
        guest.stream(21)
        assert bytes(seen.data) == before
        assert guest.text() == whole

    def test_a_stream_ends_with_the_text_and_can_begin_again(self, talk):
        guest = talk(grammar=YES)
        guest.put("is it")
        assert b"".join(guest.stream()) == b"yes"
        # As in WasmEdge, the whole text includes the token that ended it.
        assert guest.text() == b"yes<|im_end|>"
        guest.context.fini_single()
        assert b"".join(guest.stream()) == b"yes"

    def test_the_newest_piece_is_empty_before_there_is_one(self, talk):
        guest = talk()
        guest.put("Hello")
        assert bytes(guest.context.get_output_single(0).data) == b""

    def test_n_predict_limits_the_tokens(self, talk):
        guest = talk(n_predict=5)
        guest.answer("Hello")
        assert guest.metadata()["output_tokens"] == 5
        guest.configure(n_predict=0)
        assert guest.answer("Hello") == b""

    def test_a_reverse_prompt_ends_the_text(self, talk):
        whole = talk().answer("Hello")
        stop = whole[6:11].decode()
        text = talk(reverse_prompt=stop).answer("Hello")
        assert stop.encode() in text
        assert len(text) < len(whole)
        assert whole.startswith(text)

    def test_stream_stdout_writes_the_text_as_it_comes(self, talk):
        written = []
        guest = talk(stream_stdout=True)
        guest.context.stdout = written.append
        text = guest.answer("Hello")
        assert b"".join(written) == text
        assert len(written) > 1

    def test_context_full_leaves_what_was_written(self, talk):
        guest = talk(ctx_size=256, n_predict=-1)
        guest.put("Hello")
        with pytest.raises(ContextFull, match="256"):
            guest.context.compute()
        assert guest.metadata()["output_tokens"] == 256 - 6 + 1
        assert len(guest.text()) >= 250
        guest.put("Hello")
        with pytest.raises(ContextFull):
            guest.stream()

    def test_a_prompt_longer_than_the_context_is_rejected(self, talk):
        guest = talk(ctx_size=256)
        guest.put("#" * 251)
        guest.configure(n_predict=1)
        guest.context.compute()
        guest.put("#" * 252)
        with pytest.raises(PromptTooLong, match="253 tokens; 252 fit"):
            guest.context.compute()
        with pytest.raises(PromptTooLong):
            guest.context.compute_single()
        with pytest.raises(PromptTooLong):
            guest.put("#" * (1 << 20))

    def test_compute_needs_a_prompt(self, talk):
        guest = talk()
        with pytest.raises(InvalidArgument, match="input 0"):
            guest.context.compute()
        with pytest.raises(InvalidArgument, match="input 0"):
            guest.context.compute_single()

    def test_inputs_and_outputs_by_name(self, talk):
        guest = talk()
        assert [info.name for info in guest.graph.inputs] == ["prompt", "config"]
        guest.put("Hello", "prompt")
        guest.put('{"n-predict": 2}', "config")
        guest.context.compute()
        assert guest.text("text") == guest.text(0)
        assert json.loads(guest.text("metadata")) == guest.metadata()

    @pytest.mark.parametrize("key", [2, -1, "text", "0"])
    def test_an_unknown_input_is_an_error(self, talk, key):
        with pytest.raises(InvalidArgument):
            talk().put("Hello", key)

    @pytest.mark.parametrize("key", [2, -1, "prompt"])
    def test_an_unknown_output_is_an_error(self, talk, key):
        with pytest.raises(InvalidArgument):
            talk().text(key)

    def test_an_embedding_is_normalised_and_repeatable(self, talk):
        guest = talk(embedding=True)
        text = guest.answer("Hello")
        assert text.startswith(b'{"n_embedding": 64, "embedding": [')
        assert b", " not in text.split(b"[")[1]
        values = json.loads(text)["embedding"]
        assert len(values) == 64
        assert sum(value * value for value in values) == pytest.approx(1, abs=1e-6)
        assert json.loads(guest.answer("the quick"))["embedding"] != values
        assert json.loads(guest.answer("Hello"))["embedding"] == pytest.approx(values, abs=1e-6)
        with pytest.raises(InvalidArgument, match="use compute"):
            guest.context.compute_single()

    def test_a_text_too_long_for_an_embedding_is_rejected(self, talk):
        guest = talk(embedding=True, batch_size=32)
        guest.put("#" * 40)
        with pytest.raises(PromptTooLong, match="batch-size"):
            guest.context.compute()

    def test_embedding_can_be_turned_on_and_off(self, talk):
        guest = talk()
        text = guest.answer("Hello")
        guest.configure(embedding=True)
        guest.context.compute()
        assert json.loads(guest.text())["n_embedding"] == 64
        guest.configure(embedding=False)
        guest.context.compute()
        assert guest.text() == text

    def test_a_chat_template_renders_messages(self, talk):
        messages = [{"role": "user", "content": "you and you"}]
        guest = talk()
        text = guest.answer("<|im_start|>user\nyou and you<|im_end|>\n<|im_start|>assistant\n")
        guest.configure(enable_chat_template=True)
        assert guest.answer(json.dumps(messages)) == text
        for wrong in ("Hello", "{}", "[]", '[{"role": "user"}]', '[{"role": 1, "content": ""}]'):
            with pytest.raises(InvalidArgument):
                guest.put(wrong)
        guest.configure(chat_template="no such template")
        with pytest.raises(InvalidArgument, match="chat-template"):
            guest.put(json.dumps(messages))

    def test_a_config_may_come_after_its_prompt(self, talk):
        """Named inputs come in any order."""
        prompt = json.dumps([{"role": "user", "content": "you and you"}])
        guest = talk(enable_chat_template=True)
        text = guest.answer(prompt)
        guest = talk()
        guest.put(prompt)
        guest.configure(enable_chat_template=True)
        guest.context.compute()
        assert guest.text() == text


class TestConfig:
    def test_builder_1_is_a_config(self):
        builders = [TINY, memoryview(json.dumps({**GREEDY, "n-predict": 3}).encode())]
        guest = Talk(GgmlBackend().load(builders, LoadOptions("ggml")))
        guest.answer("Hello")
        assert guest.metadata()["output_tokens"] == 3

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (b"{", InvalidEncoding),
            (b"nonsense", InvalidEncoding),
            (b"[" * 100_000, InvalidEncoding),
            (b"\xff\xfe", InvalidArgument),
            (b"[1]", InvalidArgument),
            (b'{"n-predict": "5"}', InvalidArgument),
            (b'{"n-predict": 5.0}', InvalidArgument),
            (b'{"n-predict": true}', InvalidArgument),
            (b'{"temp": "0"}', InvalidArgument),
            (b'{"embedding": 1}', InvalidArgument),
            (b'{"grammar": 1}', InvalidArgument),
            (b'{"webui": 1}', InvalidArgument),
            (b'{"ctx-size": -1}', InvalidArgument),
            (b'{"ctx-size": 99999999999999999999}', InvalidArgument),
            (b'{"batch-size": 0}', InvalidArgument),
            (b'{"batch-size": -5}', InvalidArgument),
            (b'{"ubatch-size": 99999999999}', InvalidArgument),
            (b'{"threads": -2}', InvalidArgument),
            (b'{"temp": 1e999}', InvalidArgument),
            (b'{"temp": NaN}', InvalidArgument),
            (b'{"repeat-penalty": 0}', InvalidArgument),
            (b'{"split-mode": "diagonal"}', InvalidArgument),
            (b'{"flash-attn": "maybe"}', InvalidArgument),
            (b'{"cache-type-k": 77}', InvalidArgument),
            (b'{"tensor-split": "a,b"}', InvalidArgument),
            (b'{"pooling-type": 9}', InvalidArgument),
            (b'{"mirostat": 3}', InvalidArgument),
            (b'{"grammar": "root ::= ("}', InvalidArgument),
            (b'{"grammar": "nothing"}', InvalidArgument),
            (b'{"json-schema": "{"}', InvalidArgument),
            (b'{"tts": true}', UnsupportedOperation),
            (b'{"top-p": 1' + b"0" * 400 + b"}", InvalidArgument),
            (b'{"rope-freq-base": -1' + b"0" * 400 + b"}", InvalidArgument),
            (b'{"ctx-size": 1' + b"0" * 400 + b"}", InvalidArgument),
            (b'{"cache-type-k": 1' + b"0" * 400 + b"}", InvalidArgument),
            (b'{"tensor-split": "1e999"}', InvalidArgument),
            (b'{"reverse-prompt": "\\ud800"}', InvalidArgument),
            (b'{"chat-template": "\\ud800"}', InvalidArgument),
            (b'{"grammar": "root ::= \\"\\ud800\\""}', InvalidArgument),
            (b'{"mmproj": "a\\u0000"}', InvalidArgument),
            (b'{"image": "a\\u0000"}', InvalidArgument),
            (b'{"split-mode": "' + b"x" * 100_000 + b'"}', InvalidArgument),
        ],
    )
    def test_a_mistake_changes_nothing(self, talk, text, error):
        guest = talk()
        before = guest.answer("Hello")
        with pytest.raises(error):
            guest.put(text, 1)
        guest.context.compute()
        assert guest.text() == before
        with pytest.raises(error):
            GgmlBackend().load([TINY, memoryview(text)], LoadOptions("ggml"))

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ('{"use-mmap": false, "grammar": "root ::= ("}', InvalidArgument),
            ('{"n-predict": 2, "enable-chat-template": true}', InvalidArgument),
            ('{"use-mmap": false, "enable-chat-template": true}', InvalidArgument),
            ('{"ctx-size": 256, "temp": 5.0, "image": "a"}', InvalidArgument),
            ('{"use-mmap": false, "mmproj": "tiny-mmproj.gguf", "image": "tiny.gguf"}', NnError),
        ],
    )
    def test_a_mistake_leaves_the_prompt_as_it_was(self, talk, text, error):
        """A config is also wrong if the present prompt does not work with it."""
        guest = talk()
        reserved = []
        guest.context.reserve = reserved.append
        wanted = guest.answer("Hello")
        guest.put("Hello")
        model, counted = guest.context.model, sum(reserved)
        with pytest.raises(error):
            guest.put(text, 1)
        assert guest.context.model is model
        assert sum(reserved) == counted
        guest.context.compute()
        assert guest.text() == wanted
        assert guest.metadata()["output_tokens"] == 24
        guest.context.close()
        assert sum(reserved) == 0

    def test_an_empty_config_changes_nothing(self, talk):
        guest = talk()
        before = guest.answer("Hello")
        guest.put(b"", 1)
        guest.put(b"{}", 1)
        assert guest.answer("Hello") == before

    def test_unknown_keys_are_logged(self, talk, caplog):
        guest = talk()
        guest.configure(n_predikt=3, n_predict=2)
        guest.answer("Hello")
        assert guest.metadata()["output_tokens"] == 2
        assert "n-predikt" in caplog.text
        assert "n-predict" in caplog.text

    def test_every_key_of_wasmedge_is_known_once(self):
        """180 keys by type, the ones that have an effect among them."""
        kinds = keys.FLAGS, keys.WHOLE, keys.NUMBERS, keys.TEXTS, keys.PROGRAMS
        assert sum(map(len, kinds)) == len(keys.KEYS - keys.HOST_ONLY) >= 180
        assert {"dry-multipier", "json-schema", "n-gpu-layers", "mmproj"} <= keys.KEYS

    @pytest.mark.parametrize(
        "config",
        [
            {"top-k": 1, "temp": 1.5},
            {"top-p": 0.0, "temp": 1.5, "top-k": 0},
            {"min-p": 1.0, "temp": 1.5},
        ],
    )
    def test_samplers_that_leave_one_token_are_greedy(self, talk, config):
        assert talk(**{key.replace("-", "_"): value for key, value in config.items()}).answer(
            "Hello"
        ) == talk().answer("Hello")

    @pytest.mark.parametrize(
        "config",
        [
            {"repeat-penalty": 5.0, "temp": 0.0},
            {"frequency-penalty": 50.0},
            {"presence-penalty": 50.0},
            {"dry-multipier": 500.0, "dry-allowed-length": 0},
            {"mirostat": 1, "temp": 1.0, "seed": 1},
            {"mirostat": 2, "temp": 1.0, "seed": 1},
            {"temp": 5.0, "seed": 7},
            {"temp": 5.0, "seed": 7, "dynatemp-range": 4.0},
            {"temp": 2.0, "seed": 7, "typ-p": 0.1},
            {"temp": 2.0, "seed": 7, "xtc-probability": 1.0, "xtc-threshold": 0.01},
        ],
    )
    def test_each_sampler_changes_the_text_repeatably(self, talk, config):
        named = {key.replace("-", "_"): value for key, value in config.items()}
        long = {"n_predict": 100, **named}
        text = talk(**long).answer("Hello")
        assert text == talk(**long).answer("Hello")
        assert text != talk(n_predict=100).answer("Hello")

    def test_a_seed_makes_a_text_repeatable(self, talk):
        texts = {talk(temp=5.0, seed=seed).answer("Hello") for seed in (1, 1, 2)}
        assert len(texts) == 2
        guest = talk(temp=5.0)
        assert guest.answer("Hello") != guest.answer("Hello")

    def test_ignore_eos_continues_after_the_end(self, talk):
        guest = talk(grammar='root ::= "y" | "y" root', ignore_eos=True, n_predict=30)
        guest.answer("Hello")
        assert guest.metadata()["output_tokens"] == 30

    @pytest.mark.parametrize(
        "config",
        [
            {"use-mmap": False},
            {"check-tensors": True},
            {"flash-attn": "on"},
            {"batch-size": 8, "ubatch-size": 4},
            {"n-gpu-layers": 100},
            {"rope-freq-base": 10000.0},
            {"no-kv-offload": True},
        ],
    )
    def test_settings_of_the_computation_keep_the_text(self, talk, config):
        named = {key.replace("-", "_"): value for key, value in config.items()}
        text = talk(**named).answer("Hello, this is a prompt of some length")
        assert text == talk().answer("Hello, this is a prompt of some length")

    def test_the_type_of_the_kv_cache_can_change(self, talk):
        assert talk(cache_type_k=0, cache_type_v=0).answer("Hello") == talk().answer("Hello")
        # Blocks of 32 do not divide this model's heads of 16.
        with pytest.raises(RuntimeFailure, match="q8_0"):
            talk(cache_type_k=8, flash_attn="auto").answer("Hello")


class TestGrammar:
    def test_a_text_matches_its_grammar(self, talk):
        text = talk(grammar='root ::= [0-9]{3} "-" [a-c]+ "!"', n_predict=60).answer("Hello")
        assert re.match(rb"\d{3}-[abc]+", text)

    def test_byte_tokens_can_write_any_character(self, talk, monkeypatch):
        guest = talk(grammar='root ::= "\U0001f600"')
        # The vocabulary has a token for each byte.
        assert guest.answer("Hello").decode() == "\U0001f600<|im_end|>"

    def test_settings_that_leave_no_token_are_a_failure(self, talk):
        """llama.cpp would end the process."""
        guest = talk(ignore_eos=True, json_schema='{"enum": [1]}', n_predict=50)
        guest.put("Hello")
        with pytest.raises(RuntimeFailure, match="no token"):
            guest.context.compute()

    @pytest.mark.parametrize(
        "config",
        [
            {"typ-p": -1, "xtc-threshold": -5, "min-p": -1e30},
            {"temp": 1e9, "typ-p": -1e30},
            {"mirostat": 1},
            {"mirostat": 2},
            {"dry-multipier": 1.0, "repeat-penalty": 2.0},
            {"top-k": 1, "top-p": 0.0},
        ],
    )
    def test_a_text_matches_its_grammar_with_any_settings(self, talk, config):
        config = {key.replace("-", "_"): value for key, value in config.items()}
        guest = talk(**{"temp": 1.0, **config}, grammar='root ::= ("a" | "bc")+ "!"', n_predict=60)
        for _ in range(20):
            assert re.match(rb"((a|bc)+(b|!|<)|(a|bc)*$)", guest.answer("Hello") + b"<")

    def test_a_grammar_can_be_removed(self, talk):
        guest = talk(grammar=YES)
        assert guest.answer("Hello") == b"yes<|im_end|>"
        guest.configure(grammar="")
        assert guest.answer("Hello") == talk().answer("Hello")

    @pytest.mark.parametrize("text", ["root ::= " + "(" * 100_000, "root ::= x" * 100_000])
    def test_a_hostile_grammar_is_rejected(self, talk, text):
        with pytest.raises(InvalidArgument, match="grammar"):
            talk(grammar=text)

    def test_a_text_matches_its_json_schema(self, talk):
        schema = {
            "type": "object",
            "properties": {"name": {"enum": ["a", "b"]}, "old": {"type": "boolean"}},
            "required": ["name", "old"],
        }
        text = talk(json_schema=json.dumps(schema), n_predict=200).answer("Hello")
        answer = json.loads(text.removesuffix(b"<|im_end|>"))
        assert answer.keys() == {"name", "old"}
        assert answer["name"] in "ab"


class TestMemory:
    TURN = "the first turn of a talk that is long enough to see what it costs. " * 4

    def test_a_longer_prompt_costs_only_its_new_tokens(self, talk):
        guest = talk()
        first = guest.answer(self.TURN)
        done = guest.context.generation()
        second = guest.answer(self.TURN + first.decode() + " and you?")
        more = guest.context.generation()
        assert more.kept_tokens >= done.prompt_tokens
        assert more.prompt_tokens - done.prompt_tokens < 40
        fresh = talk()
        assert fresh.answer(self.TURN + first.decode() + " and you?") == second

    def test_a_reused_cache_does_not_change_a_text(self, talk):
        guest = talk()
        for prompt in ("Hello", "Hello you", "Help", "the", "Hello", "x" + self.TURN, self.TURN):
            assert guest.answer(prompt) == talk().answer(prompt)

    def test_an_abandoned_stream_does_not_change_the_next_text(self, talk):
        guest = talk()
        guest.put("Hello")
        guest.stream(3)
        guest.context.fini_single()
        assert guest.answer("Hello you") == talk().answer("Hello you")

    def test_contexts_do_not_overwrite_each_other(self, load):
        graph = load()
        one, two = Talk(graph), Talk(graph)
        alone = [talk.answer(prompt) for talk, prompt in ((one, "Hello"), (two, "the quick"))]
        one.put("Hello")
        two.put("the quick")
        texts = [b"", b""]
        for _ in range(24):
            for index, guest in enumerate((one, two)):
                guest.context.compute_single()
                texts[index] += bytes(guest.context.get_output_single(0).data)
        assert texts == alone

    def test_contexts_compute_in_parallel_threads(self, load):
        graph = load()
        prompts = ["Hello", "the quick", "you and", "it was"]
        wanted = [Talk(graph).answer(prompt) for prompt in prompts]
        found = [b""] * len(prompts)

        def work(index):
            guest = Talk(graph)
            for _ in range(5):
                found[index] = guest.answer(prompts[index])

        together([partial(work, i) for i in range(len(prompts))])
        assert found == wanted

    def test_graphs_share_a_model(self, load):
        one, two = load(), load(n_predict=3)
        assert one.model is two.model
        assert load(use_mmap=False).model is not one.model

    @pytest.mark.skipif(
        provider.find() is not None and loader.library().llama_supports_gpu_offload(),
        reason="with a GPU, its settings load another model",
    )
    def test_settings_of_a_gpu_load_no_model_without_a_gpu(self, load, talk):
        one = load(main_gpu=3, n_gpu_layers=5, split_mode="row", tensor_split="3,2")
        assert one.model is load().model
        guest = talk()
        guest.configure(main_gpu=7)
        assert guest.context.model is guest.graph.model

    def test_a_second_model_counts_against_the_guests_limit(self, host: Host):
        host.add_model("tiny", TINY)
        size = TINY.stat().st_size
        apart = Tensor(TensorType.U8, (1,), memoryview(b'{"use-mmap": false}'))
        again = Tensor(TensorType.U8, (1,), memoryview(b'{"use-mmap": true}'))
        # (Beside it, a worker reserves blocks ahead, and the host remembers configs.)
        with host.open_session(Limits(host_memory=size + 20_000)) as session:
            graph = session.load_by_name("tiny")
            first, second = (session.init_execution_context(graph) for _ in range(2))
            session.contexts[first].set_input(1, apart)
            with pytest.raises(RuntimeFailure, match="above its limit"):
                session.contexts[second].set_input(1, apart)
            session.contexts[first].set_input(1, again)
            session.contexts[second].set_input(1, apart)
            session.finalize_execution_context(second)
            session.contexts[first].set_input(1, apart)

    def test_a_projector_lives_as_long_as_a_context_uses_it(self, talk, tmp_path):
        needs("PIL.Image").new("RGB", (20, 20)).save(tmp_path / "black.png")
        for name in ("tiny.gguf", "tiny-mmproj.gguf"):
            (tmp_path / name).write_bytes(TINY.with_name(name).read_bytes())
        guest = talk(tmp_path / "tiny.gguf", mmproj="tiny-mmproj.gguf", image="black.png")
        reserved = []
        guest.context.reserve = reserved.append
        guest.answer("see <image> it")
        (projector,) = guest.graph.projectors.values()
        guest.answer("again <image> it")
        assert list(guest.graph.projectors.values()) == [projector]
        assert reserved[0] == TINY.with_name("tiny-mmproj.gguf").stat().st_size
        del projector
        guest.configure(use_mmap=False)
        gc.collect()
        assert not guest.graph.projectors
        guest.context.close()
        assert sum(reserved) == 0

    def test_model_settings_can_change(self, talk):
        guest = talk()
        before = guest.answer("Hello")
        guest.configure(use_mmap=False)
        guest.context.compute()
        assert guest.text() == before

    def test_cancel_stops_a_compute_and_every_later_one(self, talk):
        guest = talk(ctx_size=512, n_predict=-1, grammar='root ::= "y" root')
        guest.put("Hello")
        ended = []

        def run():
            with pytest.raises(RuntimeFailure, match="stopped"):
                guest.context.compute()
            ended.append(time.monotonic())

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.05)
        guest.context.cancel()
        thread.join(10)
        assert ended
        with pytest.raises(RuntimeFailure, match="stopped"):
            guest.context.compute()

    def test_cancel_stops_a_context_before_its_first_compute(self, talk):
        guest = talk()
        guest.put("Hello")
        guest.context.cancel()
        with pytest.raises(RuntimeFailure, match="stopped"):
            guest.context.compute()

    def test_a_context_that_does_not_fit_is_a_failure(self, talk):
        guest = talk(ctx_size=1 << 26)
        guest.put("Hello")
        with pytest.raises(RuntimeFailure, match="ctx-size"):
            guest.context.compute()
        guest.configure(ctx_size=256)
        guest.context.compute()

    def test_200_loads_leak_no_memory_and_no_file(self, load):
        def once():
            graph = load()
            guest = Talk(graph)
            guest.answer("Hello")
            guest.context.close()
            graph.close()

        for _ in range(20):
            once()
        gc.collect()
        before, files = _resident(), len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            once()
        gc.collect()
        assert _resident() - before < 4 << 20
        assert len(os.listdir("/proc/self/fd")) == files


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestModels:
    def test_a_model_from_bytes_gives_the_same_text(self, load, talk):
        graph = load(memoryview(TINY.read_bytes()))
        assert graph.source.path is None
        assert Talk(graph).answer("Hello") == talk().answer("Hello")
        guest = Talk(graph)
        guest.configure(use_mmap=False)
        assert guest.answer("Hello") == talk().answer("Hello")
        graph.close()

    def test_a_missing_file_is_an_error(self, load):
        with pytest.raises(ModelNotFound):
            load(Path("no-such-file.gguf"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: b"",
            lambda data: data[:10],
            lambda data: data[:1000],
            lambda data: data[:8000],
            lambda data: data[: len(data) // 2],
            lambda data: data[:-1],
            lambda data: b"GGML" + data[4:],
            lambda data: b"GGUF" + b"\x09" + data[5:],
            lambda data: data[:8] + b"\xff" * 8 + data[16:],
            lambda data: data[:16] + b"\xff" * 8 + data[24:],
            lambda data: data.replace(b"llama.block_count", b"llama.block_cound", 1),
        ],
    )
    def test_a_damaged_model_is_rejected(self, load, tmp_path, change):
        data = change(TINY.read_bytes())
        path = tmp_path / "damaged.gguf"
        path.write_bytes(data)
        for builder in (path, memoryview(data)):
            with pytest.raises(RuntimeFailure, match=r"\w{4}"):
                load(builder)

    def test_a_model_that_ends_llama_cpp_ends_only_its_worker(self, tmp_path):
        path = tmp_path / "twice.gguf"
        path.write_bytes(TINY.read_bytes().replace(b"<0x41>", b"<0x42>", 1))
        with Host() as host, host.load(TINY).init_execution_context() as context:
            context.set_input("prompt", "Hello")
            stream = context.stream()
            next(stream)
            for builder in (path, path.read_bytes()):
                with pytest.raises(RuntimeFailure, match="SIGABRT"):
                    host.load(builder)
            next(stream)

    @pytest.mark.parametrize("count", [0, 3])
    def test_a_graph_has_one_or_two_builders(self, count):
        with pytest.raises(InvalidArgument, match=f"{count} builders"):
            GgmlBackend().load([TINY] * count, LoadOptions("ggml"))

    @pytest.mark.parametrize("has_gpu", [False, True])
    def test_a_target_is_never_replaced(self, monkeypatch, has_gpu):
        native = loader.library()
        monkeypatch.setattr(native, "llama_supports_gpu_offload", lambda: has_gpu)
        backend, options = GgmlBackend(), LoadOptions("ggml", config={"n-gpu-layers": 5})
        tpu = options._replace(target=ExecutionTarget.TPU)
        with pytest.raises(UnsupportedOperation, match="execution target tpu is not available"):
            backend.load([TINY], tpu)
        for target, gpu in (("cpu", False), ("auto", has_gpu)):
            graph = backend.load([TINY], options._replace(target=ExecutionTarget.named(target)))
            assert graph.model.settings.gpu == gpu
            assert (graph.model.settings.n_gpu_layers == 5) == gpu
        assert not backend.load([TINY], tpu._replace(allow_fallback=True)).model.settings.gpu

    def test_a_gpu_needs_a_library_built_for_it(self):
        assert GgmlBackend().load([TINY], LoadOptions("ggml", ExecutionTarget.AUTO))
        if not loader.library().llama_supports_gpu_offload():
            with pytest.raises(UnsupportedOperation, match="gpu"):
                GgmlBackend().load([TINY], LoadOptions("ggml", ExecutionTarget.GPU))
            options = LoadOptions("ggml", ExecutionTarget.GPU, allow_fallback=True)
            assert GgmlBackend().load([TINY], options)

    def test_a_prompt_must_be_utf8(self, talk):
        for wrong in (b"\xff", b"ab\xc3", b"\xed\xa0\x80"):
            with pytest.raises(InvalidArgument, match="UTF-8"):
                talk().put(wrong)

    def test_any_utf8_prompt_is_accepted(self, talk):
        guest = talk(n_predict=2)
        for prompt in ("a\0b", "\U0001f600", "é" * 60, " ", "\n", "<|im_start|>", "<s><unk>"):
            guest.answer(prompt)
        guest.answer("")

    def test_an_image_needs_a_projector(self, talk):
        guest = talk()
        with pytest.raises(InvalidArgument, match="mmproj"):
            guest.put('<img src="data:image/png;base64,AAAA">')
        guest.configure(mmproj="missing.gguf")
        with pytest.raises(ModelNotFound):
            guest.put('<img src="data:image/png;base64,AAAA">')
        guest.configure(mmproj="/etc/passwd")
        with pytest.raises(InvalidArgument, match="outside"):
            guest.put('<img src="data:image/png;base64,AAAA">')

    @pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "..", "/"])
    @pytest.mark.parametrize("key", ["mmproj", "image"])
    def test_a_name_that_is_not_a_file_is_an_error(self, talk, name, key):
        guest = talk()
        guest.configure(**{"mmproj": "tiny-mmproj.gguf", "image": "x.png", key: name})
        with pytest.raises((InvalidArgument, ModelNotFound)):
            guest.put("Hello <image>")

    def test_half_a_character_in_a_message_is_an_error(self, talk):
        guest = talk(enable_chat_template=True)
        for role, content in (("user", "\\ud800"), ("\\udfff", "Hello")):
            with pytest.raises(InvalidArgument):
                guest.put(f'[{{"role": "{role}", "content": "{content}"}}]')

    def test_a_long_mistake_has_a_short_reason(self, talk):
        guest = talk(enable_chat_template=True)
        for message in ("a" * 5000, ["a" * 5000] * 50, {"role": "user", "kontent": "a" * 5000}):
            with pytest.raises(InvalidArgument, match="a message is") as raised:
                guest.put(json.dumps([message]))
            assert len(str(raised.value)) < 300

    def test_a_large_image_file_is_rejected(self, talk, tmp_path):
        for name in ("tiny.gguf", "tiny-mmproj.gguf"):
            (tmp_path / name).write_bytes(TINY.with_name(name).read_bytes())
        with (tmp_path / "large.png").open("wb") as file:
            file.truncate((32 << 20) + 1)
        guest = talk(tmp_path / "tiny.gguf", mmproj="tiny-mmproj.gguf", image="large.png")
        with pytest.raises(InvalidArgument, match="at most 33554432"):
            guest.put("see <image> it")

    def test_a_missing_projector_is_an_error(self, tmp_path):
        gone = tmp_path / "gone.gguf"
        with pytest.raises(ModelNotFound, match="gone"):
            GgmlBackend().load([TINY, gone], LoadOptions("ggml", config=GREEDY))


class TestLibrary:
    def test_a_different_layout_is_detected(self):
        native = loader.library()
        params = native.llama_context_default_params()
        assert bindings.mismatch(params) is None
        params.n_batch = 3
        assert "n_batch" in bindings.mismatch(params)
        model = native.llama_model_default_params()
        model.split_mode = 9
        assert "split_mode" in bindings.mismatch(model)

    def test_a_library_that_is_not_llama_cpp_is_rejected(self, monkeypatch, tmp_path):
        with pytest.raises(Unavailable, match="cannot be loaded"):
            loader.Library(provider.Provider(tmp_path / "libllama.so", "", None))
        libc = Path("/lib/x86_64-linux-gnu/libm.so.6")
        if libc.exists():
            with pytest.raises(Unavailable, match="no function llama_"):
                loader.Library(provider.Provider(libc, "", None))

    def test_a_missing_library_names_what_to_install(self, monkeypatch):
        monkeypatch.setattr(provider, "_folder", lambda package: None)
        monkeypatch.delenv(provider.VARIABLE, raising=False)
        assert "wasi-nn[ggml-prebuilt]" in GgmlBackend().availability().detail
        monkeypatch.setenv(provider.VARIABLE, "/somewhere/libllama.so")
        assert provider.find().path == Path("/somewhere/libllama.so")

    def test_llama_cpp_writes_nothing_to_stderr(self, talk, capfd):
        talk().answer("Hello")
        with pytest.raises(NnError):
            talk(grammar="root ::= (")
        assert capfd.readouterr() == ("", "")


class TestHost:
    def test_one_model_can_be_loaded_with_two_configs(self, host: Host):
        host.add_model("tiny", TINY)
        session = host.open_session()
        with session:
            graph = session.load_by_name("tiny", {**GREEDY, "n-predict": 2})
            other = session.load_by_name("tiny", {**GREEDY, "n-predict": 3})
            counts = []
            for handle in (graph, other):
                context = session.init_execution_context(handle)
                session.contexts[context].set_input(
                    0, Tensor(TensorType.U8, (1,), memoryview(b"Hello"))
                )
                session.contexts[context].compute()
                data = bytes(session.contexts[context].get_output(1).data)
                counts.append(json.loads(data)["output_tokens"])
            assert counts == [2, 3]
            session.unload(graph)
            assert session.contexts[0].get_output(0).data
            with pytest.raises(InvalidArgument, match="unloaded"):
                session.contexts[0].compute()
            assert session.generation.tokens == 5

    def test_only_a_second_model_counts_against_the_limit(self, host: Host):
        host.add_model("tiny", TINY)
        with host.open_session(Limits(host_memory=1 << 18)) as session:
            graph = session.load_by_name("tiny", {"temp": 0.5})
            session.load_by_name("tiny", {"temp": 0.6})
            with pytest.raises(RuntimeFailure, match="above its limit"):
                session.load_by_name("tiny", {"use-mmap": False})
            session.unload(graph)
            session.load_by_name("tiny")

    def test_the_kv_cache_counts_against_the_guests_limit(self, host: Host):
        host.add_model("tiny", TINY)
        prompt = Tensor(TensorType.U8, (1,), memoryview(b"Hello"))
        with host.open_session(Limits(host_memory=8 << 20)) as session:
            # (Without flash attention, one context takes more than that.)
            graph = session.load_by_name("tiny", {**GREEDY, "flash-attn": "auto"})
            first, second = (session.init_execution_context(graph) for _ in range(2))
            for context in (first, second):
                session.contexts[context].set_input(0, prompt)
            session.contexts[first].compute()
            with pytest.raises(RuntimeFailure, match="above its limit of 8388608"):
                session.contexts[second].compute()
            # Another config takes another cache, and a closed context none.
            session.contexts[first].set_input(
                1, Tensor(TensorType.U8, (1,), memoryview(b'{"ctx-size": 256}'))
            )
            session.contexts[first].compute()
            session.finalize_execution_context(first)
            session.contexts[second].compute()
