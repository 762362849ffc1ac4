"""Many guests of one language model: what they gain together, and how little they disturb each
other."""

from __future__ import annotations

import ctypes
import statistics
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, paired_ratio
from wasi_nn import Host

if TYPE_CHECKING:
    from wasi_nn._host.model import Model
    from wasi_nn_ggml.protocol.graph import GgmlGraph

_GUESTS = (4, 8, 16)
_TOKENS = 24
_ROUNDS = 3
_LONG = "All work and no play makes Jack a dull boy. "


def figures(host: Host) -> list[Figure]:
    """The figures of guests that share a model, registered as ``default``."""
    from benchmarks.language import in_process

    model, graph = host.model("default"), in_process(host)
    alone = [_together(model, 1)[1] for _ in range(_ROUNDS)]
    one = [_bare(graph, 1) for _ in range(_ROUNDS)]
    found = [
        _batch(model, graph, count, statistics.median(alone), statistics.median(one))
        for count in _GUESTS
    ]
    return [*found, _prefix(model), _stall(model), _single(graph)]


def _batch(model: Model, graph: GgmlGraph, guests: int, alone: float, one: float) -> Figure:
    """Tokens per second of many guests over those of one after the other, beside the same ratio of
    the library's own batches."""
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(_together(model, guests)[1] / alone)
        theirs.append(_bare(graph, guests) / one)
    gain, goal = statistics.median(ours), 0.95 * statistics.median(theirs)
    note = f"{gain * alone:.0f} tokens/s; the library alone {goal / 0.95:.2f} ×"
    return Figure(f"batch_ratio/ggml-{guests}", gain, "×", goal, at_least=True, note=note)


def _together(model: Model, guests: int) -> tuple[set[bytes], float]:
    """The texts of guests that write at one time, and all their tokens per second."""
    texts: set[bytes] = set()
    ready, times = threading.Barrier(guests), []

    def write(number: int) -> None:
        with model.init_execution_context() as context:
            context.set_input("config", '{"ignore-eos": true}')
            context.set_input("prompt", f"Question {number}: why is the sky blue?")
            stream = context.stream()
            text = next(stream)
            ready.wait()
            started = time.perf_counter()
            for _ in range(_TOKENS):
                text += next(stream)
            times.append((started, time.perf_counter()))
            texts.add(text)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(guests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = max(end for _, end in times) - min(start for start, _ in times)
    return texts, guests * _TOKENS / seconds


def _bare(graph: GgmlGraph, sequences: int) -> float:
    """Tokens per second of ``llama_decode`` over as many sequences, whatever the tokens."""
    from wasi_nn_ggml.llama.bindings import Batch
    from wasi_nn_ggml.llama.native_context import NativeContext
    from wasi_nn_ggml.room.slots import COUNT
    from wasi_nn_ggml.settings import ContextSettings

    size = 512
    context = NativeContext(graph.model, ContextSettings(threads=1), 4096, COUNT)
    array = ctypes.c_int32 * size
    token, position, sequence, ones = array(), array(), array(), array(*[1] * size)
    first = ctypes.addressof(sequence)
    pointers = (ctypes.c_void_p * size)(*range(first, first + 4 * size, 4))
    wanted = (ctypes.c_int8 * size)()
    places = [ctypes.addressof(each) for each in (position, ones, pointers, wanted)]
    batch = Batch(0, ctypes.addressof(token), None, *places)
    prompt = graph.model.tokenize(b"Question 1: why is the sky blue?")
    count = 0
    for number in range(sequences):
        for at, each in enumerate(prompt):
            token[count], position[count], sequence[count] = each, at, number
            count += 1
    batch.n_tokens = count
    context.decode(batch)
    batch.n_tokens = sequences
    started = time.perf_counter()
    for turn in range(_TOKENS):
        for number in range(sequences):
            token[number], position[number] = 1000 + turn, len(prompt) + turn
            sequence[number], wanted[number] = number, 1
        context.decode(batch)
        graph.model.native.llama_get_logits_ith(context.pointer, 0)
    seconds = time.perf_counter() - started
    context.close()
    return sequences * _TOKENS / seconds


def _prefix(model: Model) -> Figure:
    """Time to first token of a second guest with the same beginning of 1,000 tokens, over that of
    the first one."""
    first: list[float] = []
    second: list[float] = []
    for turn in range(_ROUNDS):
        # (Each round begins otherwise.)
        beginning = f"<|im_start|>system\nTalk {time.time_ns()}. {_LONG * 85}<|im_end|>\n"
        for times in (first, second):
            with model.init_execution_context() as context:
                context.set_input("prompt", f"{beginning}Question {turn + len(times)}: why?")
                started = time.perf_counter()
                next(context.stream())
                times.append(time.perf_counter() - started)
    ratio = statistics.median(second) / statistics.median(first)
    note = f"{statistics.median(second) * 1e3:.0f} ms, {statistics.median(first) * 1e3:.0f} ms anew"
    return Figure("prefix_ttft_ratio/ggml", ratio, "×", 0.2, note=note)


def _stall(model: Model) -> Figure:
    """The slowest gap between two tokens of a guest while another one's prompt of 2,000 tokens is
    read, over its usual gap."""
    ratios, notes = [], []
    for _ in range(2):
        with model.init_execution_context() as context:
            context.set_input("config", '{"ignore-eos": true}')
            context.set_input("prompt", "Question 1: why is the sky blue?")
            stream = context.stream()
            usual = _gaps(stream, lambda: False, 40)
            read = threading.Event()

            def prompt(read: threading.Event = read) -> None:
                with model.init_execution_context() as other:
                    other.set_input("config", '{"ctx-size": 2304}')
                    other.set_input("prompt", f"{time.time_ns()} {_LONG * 180}")
                    next(other.stream())
                    read.set()

            thread = threading.Thread(target=prompt)
            thread.start()
            gaps = _gaps(stream, read.is_set, 300)
            thread.join()
        ratios.append(max(gaps) / statistics.median(usual))
        notes.append(f"{max(gaps) * 1e3:.0f}/{statistics.median(usual) * 1e3:.0f}")
    note = f"slowest/usual ms: {', '.join(notes)}"
    return Figure("stall_ratio/ggml", statistics.median(ratios), "×", 3.0, note=note)


def _gaps(stream: object, ended: Callable[[], bool], most: int) -> list[float]:
    gaps, last = [], time.perf_counter()
    for _ in range(most):
        if ended():
            break
        next(stream)  # type: ignore[call-overload]
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    return gaps


def _single(graph: GgmlGraph) -> Figure:
    """Seconds of a text in a llama.cpp context of its own, over those in the loop."""
    from wasi_nn.backend import unlimited
    from wasi_nn.types import Tensor, TensorType

    def text(shared: bool) -> Callable[[], float]:
        def run() -> float:
            graph.model.shares = shared
            context = graph.init_execution_context(unlimited)
            for key, value in ((1, '{"n-predict": 64, "ignore-eos": true}'), (0, "The sky is")):
                data = memoryview(value.encode())
                context.set_input(key, Tensor(TensorType.U8, (1,), data))
            started = time.perf_counter()
            context.compute()
            seconds = time.perf_counter() - started
            context.close()
            graph.model.shares = True
            return seconds

        return run

    ratio, apart, loop = paired_ratio(5, text(False), text(True))
    note = f"{64 / loop:.1f} tokens/s, {64 / apart:.1f} apart"
    return Figure("single_ratio/ggml", ratio, "×", 0.99, at_least=True, note=note)
