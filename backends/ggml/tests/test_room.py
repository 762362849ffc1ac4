"""Guests of one model in one decode loop: each gets what it would get alone."""

from __future__ import annotations

import base64
import io
import json
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from conftest import needs
from PIL import Image

from wasi_nn.backend import LoadOptions, Schedule, unlimited
from wasi_nn.errors import (
    ContextFull,
    EndOfSequence,
    InvalidArgument,
    NnError,
    OutOfTokens,
    PromptTooLong,
    RuntimeFailure,
)
from wasi_nn.types import Tensor, TensorType
from wasi_nn_conformance.engine_tests.common import together
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.grammar.matcher import Matcher
from wasi_nn_ggml.llama.native_context import NativeContext
from wasi_nn_ggml.llama.sampler import Sampler
from wasi_nn_ggml.room.pace import Pace
from wasi_nn_ggml.room.sequence import Text
from wasi_nn_ggml.settings import ContextSettings

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
#: Flash attention rounds differently in batches of different sizes.
EXACT = {"temp": 0.0, "threads": 1, "ctx-size": 512, "n-predict": 40, "flash-attn": "off"}
_RED = io.BytesIO()
Image.new("RGB", (20, 20), "red").save(_RED, "PNG")
_IMAGE = f'<img src="data:image/png;base64,{base64.b64encode(_RED.getvalue()).decode()}">'
PROMPTS = [f"guest {n} of them all says {'la ' * n}" for n in range(16)]
SYSTEM = "You are a helpful assistant who answers in a few words. " * 4


class Guest:
    def __init__(self, graph, schedule=Schedule()):
        self.graph = graph
        self.context = graph.init_execution_context(unlimited)
        self.context.schedule = schedule

    def put(self, text, key=0):
        self.context.set_input(key, Tensor(TensorType.U8, (1,), memoryview(text.encode())))

    def configure(self, **config):
        self.put(json.dumps({key.replace("_", "-"): value for key, value in config.items()}), 1)

    def text(self):
        return bytes(self.context.get_output(0).data)

    def answer(self, prompt):
        self.put(prompt)
        self.context.compute()
        return self.text()

    def next(self):
        self.context.compute_single()
        return bytes(self.context.get_output_single(0).data)

    def stream(self, most):
        pieces = []
        try:
            for _ in range(most):
                pieces.append(self.next())
        except EndOfSequence:
            pass
        return b"".join(pieces)


@pytest.fixture
def load(tmp_path):
    """Loads a model that no other test has loaded."""

    def make(**config):
        named = {key.replace("_", "-"): value for key, value in config.items()}
        path = tmp_path / "tiny.gguf"
        if not path.exists():
            path.write_bytes(TINY.read_bytes())
        return GgmlBackend().load([path], LoadOptions("ggml", config={**EXACT, **named}))

    return make


@pytest.fixture(scope="module")
def alone():
    """The text of each prompt, each in a room that nobody else is in."""
    return {prompt: _alone(prompt) for prompt in PROMPTS}


def _alone(prompt, **config):
    # No other graph has these weights.
    options = {**EXACT, **{key.replace("_", "-"): value for key, value in config.items()}}
    builders = [memoryview(TINY.read_bytes())]
    graph = GgmlBackend().load(builders, LoadOptions("ggml", config=options))
    guest = Guest(graph)
    text = guest.answer(prompt)
    guest.context.close()
    graph.close()
    return text


class TestTogether:
    def test_a_text_among_sixteen_is_the_text_alone(self, load, alone):
        graph = load()
        found = {}

        def write(prompt):
            guest = Guest(graph)
            found[prompt] = [guest.answer(prompt)]
            guest.put(prompt)
            found[prompt].append(guest.stream(40))

        together([partial(write, prompt) for prompt in PROMPTS])
        assert found == {prompt: [text, text] for prompt, text in alone.items()}
        counted = graph.statistics()
        assert counted["step_tokens"] > 1.5 * counted["steps"]

    def test_guests_may_come_and_go_at_any_time(self, load, alone):
        graph = load()

        def come_and_go(number):
            for turn in range(6):
                prompt = PROMPTS[(number + turn) % 16]
                guest = Guest(graph)
                guest.put(prompt)
                assert alone[prompt].startswith(guest.stream(1 + 7 * turn % 30))
                if (number + turn) % 3:
                    guest.context.close()

        together([partial(come_and_go, number) for number in range(8)])

    def test_a_cancelled_guest_leaves_the_others(self, load, alone):
        graph = load()
        first, second = Guest(graph), Guest(graph)
        first.put(PROMPTS[0])
        second.put(PROMPTS[1])
        begun = first.next()
        assert second.next()
        second.context.cancel()
        with pytest.raises(RuntimeFailure, match="stopped"):
            second.stream(10)
        assert begun + first.stream(39) == alone[PROMPTS[0]]

    def test_errors_concern_only_their_own_guest(self, load, alone):
        graph = load()
        steady, full, long, wrong = (Guest(graph) for _ in range(4))
        steady.put(PROMPTS[3])
        text = steady.next()
        full.configure(ctx_size=256, n_predict=-1)
        full.put("Hello")
        with pytest.raises(ContextFull, match="256"):
            full.context.compute()
        long.configure(ctx_size=256)
        with pytest.raises(PromptTooLong):
            long.answer("#" * 300)
        wrong.configure(ignore_eos=True, json_schema='{"enum": [1]}', n_predict=50)
        with pytest.raises(RuntimeFailure, match="no token"):
            wrong.answer("Hello")
        assert text + steady.stream(39) == alone[PROMPTS[3]]

    def test_a_text_that_fails_can_be_read_as_far_as_it_came(self, load, alone, monkeypatch):
        sample, tokens = Sampler.sample, []
        # (A loop of an earlier test may still be a few tokens before its guest.)
        others = {*threading.enumerate()}

        def fail(sampler, context, index):
            if threading.current_thread() in others:
                return sample(sampler, context, index)
            if len(tokens) == 5:
                raise RuntimeFailure("no more")
            tokens.append(sample(sampler, context, index))
            return tokens[-1]

        monkeypatch.setattr(Sampler, "sample", fail)
        guest = Guest(load())
        with pytest.raises(RuntimeFailure, match="no more"):
            guest.answer(PROMPTS[0])
        pieces = b"".join(guest.graph.model.piece(token) for token in tokens)
        assert alone[PROMPTS[0]].startswith(guest.text())
        assert guest.text() == pieces != b""

    def test_a_whole_text_wakes_its_guest_for_several_tokens_at_once(self, load, monkeypatch):
        flush, groups = Text.flush, []
        others = {*threading.enumerate()}

        def note(text, error=None):
            if threading.current_thread() not in others:
                groups.append(len(text.group))
            flush(text, error)

        monkeypatch.setattr(Text, "flush", note)
        guest = Guest(load(n_predict=20, ignore_eos=True))
        guest.answer(PROMPTS[0])
        # (The first one shows how long it took. A guest that is slow to wake lets the loop be 16
        # tokens before it, which are then given at once.)
        assert groups[:2] == [1, 8]
        assert sum(groups) == 20
        assert len(groups) <= 5
        groups.clear()
        guest.put(PROMPTS[0])
        guest.stream(5)
        assert set(groups) == {1}

    def test_each_guest_has_its_own_grammar(self, load, alone):
        graph = load()

        def write(number):
            guest = Guest(graph)
            guest.configure(grammar=f'root ::= "guest {number} says {"ho " * number}"')
            assert (
                guest.answer("Hello") == f"guest {number} says {'ho ' * number}<|im_end|>".encode()
            )

        def free(prompt):
            assert Guest(graph).answer(prompt) == alone[prompt]

        together([partial(write, n) for n in range(4)] + [partial(free, p) for p in PROMPTS[:4]])

    def test_a_guest_with_a_slow_grammar_holds_nobody_up(self, load, alone, monkeypatch):
        graph = load()
        guest, steady = Guest(graph), Guest(graph)
        guest.configure(grammar='root ::= "slow and steady"')
        guest.put("Hello")
        written = threading.Event()
        allowed = Matcher.allowed

        def slow(matcher):
            assert written.wait(60)
            return allowed(matcher)

        monkeypatch.setattr(Matcher, "allowed", slow)
        thread = threading.Thread(target=guest.context.compute)
        thread.start()
        assert steady.answer(PROMPTS[6]) == alone[PROMPTS[6]]
        written.set()
        thread.join()
        assert guest.text() == b"slow and steady<|im_end|>"

    def test_each_guest_has_its_own_seed(self, load):
        wanted = [_alone("Hello", temp=3.0, seed=seed) for seed in range(4)]
        assert len(set(wanted)) == 4
        graph = load(temp=3.0)

        def write(seed):
            guest = Guest(graph)
            guest.configure(seed=seed)
            assert guest.answer("Hello") == wanted[seed]

        together([partial(write, seed) for seed in range(4)])

    def test_embeddings_are_computed_beside_texts(self, load, alone):
        graph = load()
        guest, other = Guest(graph), Guest(graph)
        guest.put(PROMPTS[5])
        text = guest.next()
        other.configure(embedding=True)
        assert json.loads(other.answer("Hello"))["n_embedding"] == 64
        assert text + guest.stream(39) == alone[PROMPTS[5]]

    def test_images_are_read_beside_texts(self, load, alone, tmp_path):
        projector = tmp_path / "tiny-mmproj.gguf"
        projector.write_bytes(TINY.with_name(projector.name).read_bytes())
        # (The model's file is written by ``load``.)
        load().close()
        builders = [tmp_path / "tiny.gguf", projector]
        graph = GgmlBackend().load(builders, LoadOptions("ggml", config=EXACT))
        guest, viewer = Guest(graph), Guest(graph)
        seen = viewer.answer(f"see {_IMAGE} it")
        guest.put(PROMPTS[5])
        text = guest.next()
        assert viewer.answer(f"see {_IMAGE} it") == seen != alone[PROMPTS[5]]
        damaged = _IMAGE.replace("iVBOR", "xxxxx")
        with pytest.raises(InvalidArgument):
            viewer.answer(f"see {damaged} it")
        assert text + guest.stream(39) == alone[PROMPTS[5]]

    def test_a_prompt_without_tokens_concerns_only_its_own_guest(self, load, tmp_path):
        # (A prompt for the tiny model begins with a token of its own; for this one it does not.)
        key = b"tokenizer.ggml.add_bos_token" + (7).to_bytes(4, "little")
        weights = TINY.read_bytes()
        assert key + b"\1" in weights
        (tmp_path / "tiny.gguf").write_bytes(weights.replace(key + b"\1", key + b"\0"))
        wanted = Guest(load()).answer(PROMPTS[5])
        graph = load()
        guest, other = Guest(graph), Guest(graph)
        guest.put(PROMPTS[5])
        text = guest.next()
        for _ in range(2):
            with pytest.raises(InvalidArgument, match="no tokens"):
                other.answer("")
        assert text + guest.stream(39) == wanted
        assert other.answer(PROMPTS[5]) == wanted

    def test_a_thousand_idle_guests_do_not_stop_another(self, load, alone):
        graph = load()
        idle = [Guest(graph) for _ in range(1000)]
        for guest in idle[:100]:
            guest.put(PROMPTS[0])
            guest.next()
        assert Guest(graph).answer(PROMPTS[1]) == alone[PROMPTS[1]]
        assert all(alone[PROMPTS[0]].startswith(guest.text()) for guest in idle[:100])
        first = idle[0].text()
        assert first + idle[0].stream(39) == alone[PROMPTS[0]]

    def test_more_guests_write_than_there_are_slots(self, load, alone):
        graph = load(ctx_size=256)

        def write(number):
            assert Guest(graph).answer(PROMPTS[number % 16]) == alone[PROMPTS[number % 16]]

        together([partial(write, number) for number in range(80)])

    def test_no_more_tokens_are_counted_than_the_guest_took(self, load):
        guest = Guest(load())
        guest.put("Hello")
        for taken in range(1, 5):
            guest.next()
            assert guest.context.generation().tokens == taken
        guest.context.allow_tokens(2)
        guest.next()
        guest.context.allow_tokens(0)
        with pytest.raises(OutOfTokens):
            guest.next()
        assert guest.context.generation().tokens == 5

    def test_a_new_way_to_choose_holds_from_the_next_token_on(self, load, alone):
        guest = Guest(load())
        guest.put(PROMPTS[2])
        text = guest.stream(5)
        guest.configure(temp=0.0, top_k=1)
        assert text + guest.stream(35) == alone[PROMPTS[2]]
        guest.put(PROMPTS[2])
        guest.stream(5)
        guest.configure(grammar='root ::= "yes"')
        assert guest.stream(9) == b"yes"


class TestPrefixes:
    def kept(self, graph, prompt, tenant=""):
        guest = Guest(graph, Schedule(tenant))
        guest.answer(prompt)
        return guest, guest.context.generation().kept_tokens

    def test_a_beginning_is_computed_once_for_a_tenant(self, load):
        graph = load()
        first, kept = self.kept(graph, SYSTEM + "Who?", "a")
        assert kept == 0
        _, kept = self.kept(graph, SYSTEM + "What?", "a")
        assert kept > 150
        assert graph.statistics()["prefix_hits"] == 1
        first.context.close()

    def test_a_beginning_outlives_its_guest(self, load):
        graph = load()
        first, _ = self.kept(graph, SYSTEM + "Who?")
        first.context.close()
        second, kept = self.kept(graph, SYSTEM + "What?")
        assert kept > 150
        assert second.text() == _alone(SYSTEM + "What?")

    def test_the_same_text_is_kept_once(self, load):
        graph = load()
        used = []
        for _ in range(3):
            guest = Guest(graph)
            guest.answer("la la")
            guest.context.close()
            used.append(graph.statistics()["kv_cells_used"])
        guest = Guest(graph)
        guest.answer(PROMPTS[0])
        assert graph.statistics()["kv_cells_used"] < 2.5 * used[0]
        assert used[0] > 16

    def test_a_beginning_is_shared_with_a_guest_that_writes(self, load):
        graph = load()
        first = Guest(graph)
        first.put(SYSTEM + "Who?")
        text = first.next()
        second, kept = self.kept(graph, SYSTEM + "What?")
        assert kept > 150
        assert second.text() == _alone(SYSTEM + "What?")
        assert text + first.stream(39) == _alone(SYSTEM + "Who?")

    def test_a_beginning_is_computed_once_for_guests_that_come_together(self, load):
        graph = load()
        endings = [f"Who is number {n}?" for n in range(8)]
        texts = {}

        def ask(ending):
            guest, kept = self.kept(graph, SYSTEM + ending)
            texts[ending] = guest.text(), kept

        together([partial(ask, ending) for ending in endings])
        assert sum(kept > 150 for _, kept in texts.values()) == 7
        assert texts[endings[5]][0] == _alone(SYSTEM + endings[5])

    def test_tenants_share_no_beginnings(self, load):
        graph = load()
        guests = [self.kept(graph, SYSTEM, tenant) for tenant in "abc"]
        assert [kept for _, kept in guests] == [0, 0, 0]

    def test_the_operator_may_share_beginnings_between_tenants(self, load):
        graph = load(share_prefixes=True)
        guests = [self.kept(graph, SYSTEM, tenant) for tenant in "abc"]
        assert [kept > 150 for _, kept in guests] == [False, True, True]

    @pytest.mark.parametrize("key", ["share-prefixes", "kv-memory"])
    def test_a_guest_may_not_change_what_others_share(self, load, key):
        guest = Guest(load())
        with pytest.raises(InvalidArgument, match=f"may not set {key}"):
            guest.put(json.dumps({key: True}), 1)
        builder = memoryview(json.dumps({key: 1}).encode())
        with pytest.raises(InvalidArgument, match=f"may not set {key}"):
            GgmlBackend().load([TINY, builder], LoadOptions("ggml"))


class TestMemory:
    def test_a_loop_grows_with_its_guests(self, load):
        graph = load(ctx_size=256, n_predict=220)
        guests = [Guest(graph) for _ in range(3)]
        found = {}

        def write(number):
            found[number] = guests[number].answer(PROMPTS[number])

        together([partial(write, number) for number in range(3)])
        assert graph.statistics()["kv_cells"] == 768
        for number in range(3):
            assert found[number] == _alone(PROMPTS[number], ctx_size=256, n_predict=220)

    def test_a_loop_grows_before_its_memory_is_full(self, load, monkeypatch):
        statuses, decode = set(), NativeContext.decode

        def note(context, batch):
            for thread in threading.enumerate():
                if thread.name == "growth":
                    thread.join()
            statuses.add(decode(context, batch))
            return min(statuses)

        monkeypatch.setattr(NativeContext, "decode", note)
        graph = load(ctx_size=256, n_predict=40)
        writer, reader = Guest(graph), Guest(graph)
        writer.put(PROMPTS[0])
        text = writer.stream(20)
        long = "la " * 70
        assert reader.answer(long) == _alone(long, n_predict=40)
        assert (text + writer.stream(20), statuses) == (_alone(PROMPTS[0]), {0})
        assert graph.statistics()["kv_cells"] == 512

    def test_guests_between_two_turns_give_their_memory_up(self, load):
        size = load().model.shape.bytes(ContextSettings(flash_attention=0), 512)
        graph = load(kv_memory=size, n_predict=200)
        guests = [Guest(graph) for _ in range(4)]
        first = [guest.answer(prompt) for guest, prompt in zip(guests, PROMPTS, strict=False)]
        turns = [f"{p}{t.decode()} and?" for p, t in zip(PROMPTS, first, strict=False)]
        assert graph.statistics()["kv_cells"] <= 768
        for guest, turn in zip(guests, turns, strict=True):
            assert guest.answer(turn) == _alone(turn, n_predict=200)

    def test_guests_take_turns_if_their_texts_do_not_fit_together(self, load):
        size = load().model.shape.bytes(ContextSettings(flash_attention=0), 256)
        graph = load(kv_memory=size, ctx_size=256, n_predict=200)

        def write(number):
            wanted = _alone(PROMPTS[number], ctx_size=256, n_predict=200)
            assert Guest(graph).answer(PROMPTS[number]) == wanted

        together([partial(write, number) for number in range(4)])
        assert graph.statistics()["kv_cells"] <= 512

    @pytest.mark.parametrize("value", ["3M", 3 << 20, "3 MiB"])
    def test_a_guest_cannot_have_more_than_the_operator_gives(self, load, value):
        guest = Guest(load(kv_memory=value, ctx_size=1 << 16))
        with pytest.raises(RuntimeFailure, match="ctx-size"):
            guest.answer("Hello")

    @pytest.mark.parametrize("value", ["", "much", "-1", 0, -5, 1.5, True, "1" * 40])
    def test_a_size_that_is_none_is_rejected(self, load, value):
        with pytest.raises(InvalidArgument, match="kv-memory"):
            load(kv_memory=value)


class TestFairness:
    def test_a_prompt_that_is_read_token_by_token_is_not_a_text_that_is_written(
        self, load, monkeypatch
    ):
        notes = []
        monkeypatch.setattr(Pace, "most", lambda pace, whole, writing: 1)
        monkeypatch.setattr(Pace, "note", lambda pace, *step: notes.append(step[1:]))
        graph = load()
        writer, reader = Guest(graph), Guest(graph)
        writer.put(PROMPTS[0])
        writer.next()
        before = len(notes)
        reader.put(PROMPTS[9])
        reader.next()
        tokens = reader.context.n_prompt_tokens
        assert sum(reading for _, reading in notes[before:]) >= tokens - 1

    def test_a_higher_priority_computes_alone(self, load):
        graph = load(n_predict=-1, ctx_size=4096)
        low, high = Guest(graph, Schedule("", 0)), Guest(graph, Schedule("", 1))
        low.put("Hello")
        writing, steps = threading.Event(), []

        def note(name, begins):
            writing.set()
            if begins:
                steps.append(name)

        low.context.stepping = partial(note, "low")
        high.context.stepping = partial(note, "high")

        def write():
            # It is stopped, if its context is not full by then.
            with suppress(NnError):
                low.context.compute()

        thread = threading.Thread(target=write)
        thread.start()
        writing.wait()
        high.configure(n_predict=1)
        high.answer("a long prompt " * 200)
        low.context.cancel()
        thread.join()
        # The prompt has some 2,800 tokens, of which a step reads 512.
        first = steps.index("high")
        assert steps[first : first + 5] == ["high"] * 5

    def test_a_guest_writes_no_faster_than_it_may(self, load):
        import time

        guest = Guest(load(), Schedule("", 0, 50.0))
        guest.put("Hello")
        guest.next()
        started = time.monotonic()
        guest.stream(15)
        # (Some tokens were written ahead.)
        assert time.monotonic() - started >= 9 / 50


class TestRevival:
    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"temp": 3.0, "seed": 7},
            {"temp": 0.0, "repeat-penalty": 1.5, "dry-multipier": 0.8},
            {"grammar": 'root ::= "one two three four five six seven eight nine ten"'},
        ],
    )
    @pytest.mark.parametrize("alone", [False, True])
    def test_a_text_goes_on_where_the_lost_one_was(self, load, config, alone):
        graph = load(**{key.replace("-", "_"): value for key, value in config.items()})
        whole = Guest(graph)
        whole.put("Hello")
        text = whole.stream(30)
        lost, journal = Guest(graph), b""
        lost.put("Hello")
        for _ in range(9):
            assert lost.next()
            kept = lost.context.journal()
            journal = kept.data if kept.begins else journal + kept.data
        after = Guest(graph)
        after.put("Hello")
        after.context.resume(journal, alone)
        assert after.text() == lost.text()
        assert after.text() + after.stream(21) == text
        after.put("Hello")
        assert after.context.journal().begins

    def test_a_text_that_had_ended_can_be_read_again(self, load):
        lost = Guest(load())
        text = lost.answer("Hello")
        journal = lost.context.journal()
        assert journal.begins
        after = Guest(lost.graph)
        after.put("Hello")
        after.context.resume(journal.data, False)
        assert after.text() == text
        assert text.startswith(after.next())
        assert after.context.accumulates("config")
        assert not after.context.accumulates(0)

    def test_the_loop_says_who_is_at_work(self, load):
        guest, other = Guest(load()), None
        steps = []
        guest.context.stepping = steps.append
        guest.put("Hello")
        guest.next()
        other = Guest(guest.graph)
        other.context.stepping = steps.append
        assert steps[:3] == [False, True, False]
        guest.context.fini_single()
        other.answer("Hello")
        assert steps.count(True) >= 40
