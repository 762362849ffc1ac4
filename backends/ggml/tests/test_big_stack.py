"""Texts that llama.cpp splits with a regular expression, recursing for each character."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from conftest import needs

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import InvalidArgument, PromptTooLong, RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_conformance.engine_tests.common import together
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.guard import big_stack

needs("xllamacpp")


@pytest.fixture(scope="module", params=["tekken", "deepseek-llm", "bloom", "falcon", "gpt-4o"])
def model(request, splitting, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "splitting.gguf"
    path.write_bytes(splitting(request.param.encode()))
    return GgmlBackend().load([path], LoadOptions("ggml", config={"threads": 1}))


def put(context, data):
    context.set_input(0, Tensor(TensorType.U8, (1,), memoryview(data)))


@pytest.mark.parametrize("letter", ["a", "1", " ", "!", "é", "你"])
def test_a_long_prompt_does_not_overflow_the_stack(model, letter):
    """A stack of the usual size would overflow, and the process would end."""
    context = model.init_execution_context(unlimited)
    reserved = []
    context.reserve = reserved.append
    data = letter.encode() * 50_000
    put(context, data)
    assert 25_000 < context.n_prompt_tokens <= len(data) + 1
    assert reserved == [600 * len(data), -600 * len(data)]


def test_many_threads_read_long_prompts(model):
    short = model.init_execution_context(unlimited)
    put(short, b"a" * 4000)
    counts = []

    def read():
        context = model.init_execution_context(unlimited)
        put(context, b"a" * 60_000)
        counts.append(context.n_prompt_tokens)

    before = threading.stack_size()
    together([read] * 6)
    assert len(counts) == 6
    assert len(set(counts)) == 1
    assert threading.stack_size() == before


class TestCalls:
    @pytest.mark.parametrize("length", [10, 10_000])
    def test_a_call_gives_the_result_or_the_error(self, length):
        def fail():
            raise InvalidArgument("a mistake")

        assert big_stack.call(lambda: 7, length) == 7
        with pytest.raises(InvalidArgument, match="a mistake"):
            big_stack.call(fail, length)

    def test_only_a_long_text_gets_a_thread(self):
        here = threading.get_ident()
        assert big_stack.call(threading.get_ident, 4096) == here
        assert big_stack.call(threading.get_ident, 4097) != here

    def test_a_system_without_such_a_stack_is_reported(self, monkeypatch):
        before = threading.stack_size()

        def refuse(*size):
            raise ValueError("size not valid")

        monkeypatch.setattr(threading, "stack_size", refuse)
        with pytest.raises(PromptTooLong, match="no stack"):
            big_stack.call(lambda: 7, 10_000)
        monkeypatch.undo()
        assert threading.stack_size() == before

    def test_a_stack_without_memory_is_reported(self):
        before = threading.stack_size()
        with pytest.raises((RuntimeFailure, PromptTooLong)):
            big_stack.call(lambda: 7, 1 << 40)
        assert threading.stack_size() == before

    def test_an_interrupt_waits_for_the_call(self):
        """However often it comes, and whatever its handler raises."""
        done = threading.Event()

        class Pressed(Exception):
            pass

        def press(number, frame):
            raise Pressed

        def work():
            for _ in range(5):
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.05)
            done.set()

        before = signal.signal(signal.SIGUSR1, press)
        try:
            with pytest.raises(Pressed):
                big_stack.call(work, 10_000)
            assert done.is_set()
        finally:
            # The default action would end the process, if it met a signal that is still pending.
            signal.signal(signal.SIGUSR1, signal.SIG_IGN if before is signal.SIG_DFL else before)
