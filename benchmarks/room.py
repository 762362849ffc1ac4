"""Many guests of one language model: what they gain together, and how little they disturb each
other."""

from __future__ import annotations

import ctypes
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, paired_ratio
from wasi_nn import Host
from wasi_nn.errors import WasiNnError

if TYPE_CHECKING:
    from wasi_nn._host.model import Context, Model
    from wasi_nn_ggml.protocol.graph import GgmlGraph

_GUESTS = (4, 8, 16)
_TOKENS = 10
_ROUNDS, _TURNS = 3, 4
_REQUESTS = 6
_FLOOD = 4
_LONG = "All work and no play makes Jack a dull boy. "
_SHORT = "Question {}: why?"
_ENDLESS = '{"ignore-eos": true}'


def figures(host: Host) -> list[Figure]:
    """The figures of guests that share a model, registered as ``default``."""
    from benchmarks.language import in_process

    model, graph = host.model("default"), in_process(host)
    found = [*_batches(model, graph), _prefix(model), _priority(host)]
    return [*found, _stall(), _single(graph)]


def _batches(model: Model, graph: GgmlGraph) -> list[Figure]:
    """Tokens per second of many guests over those of one after the other, beside the same ratio of
    the library's own batches."""
    ours: dict[int, list[float]] = {count: [] for count in (1, *_GUESTS)}
    theirs: dict[int, list[float]] = {count: [] for count in ours}
    library = _Library(graph)
    contexts = [model.init_execution_context() for _ in range(_GUESTS[-1])]
    _together(contexts)
    for turn in range(_TURNS):
        for count in (number for guests in _GUESTS for number in (1, guests)):
            sides = [
                lambda count=count: theirs[count].append(library.rate(count)),
                lambda count=count: ours[count].append(_together(contexts[:count])),
            ]
            for side in sides if turn % 2 else reversed(sides):
                side()
    for context in contexts:
        context.close()
    # The two sides of a pair were measured one after the other.
    pairs = {
        count: statistics.median(a / b for a, b in zip(ours[count], theirs[count], strict=True))
        for count in ours
    }
    found = []
    for count in _GUESTS:
        most = statistics.median(theirs[count]) / statistics.median(theirs[1])
        gain = most * pairs[count] / pairs[1]
        note = f"{statistics.median(ours[count]):.0f} tokens/s; the library alone {most:.2f} ×"
        name, goal = f"batch_ratio/ggml-{count}", 0.95 * most
        found.append(Figure(name, gain, "×", goal, at_least=True, note=note))
    return found


def _together(contexts: list[Context]) -> float:
    """The tokens per second of guests that write at one time."""
    ready, times = threading.Barrier(len(contexts)), []

    def write(number: int) -> None:
        context = contexts[number]
        context.set_input("config", json.dumps({"n-predict": _TOKENS, "ignore-eos": True}))
        context.set_input("prompt", _SHORT.format(number))
        ready.wait()
        started = time.perf_counter()
        context.compute()
        times.append((started, time.perf_counter()))

    threads = [threading.Thread(target=write, args=(each,)) for each in range(len(contexts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = max(end for _, end in times) - min(start for start, _ in times)
    return len(contexts) * _TOKENS / seconds


class _Library:
    """``llama_decode`` over many sequences, each with a prompt."""

    def __init__(self, graph: GgmlGraph) -> None:
        from wasi_nn_ggml.llama.bindings import Batch
        from wasi_nn_ggml.llama.native_context import NativeContext
        from wasi_nn_ggml.room.slots import COUNT
        from wasi_nn_ggml.settings import ContextSettings

        self._native = graph.model.native
        self._context = NativeContext(graph.model, ContextSettings(threads=1), 1024, COUNT)
        prompt = graph.model.tokenize(_SHORT.format(1).encode())
        size = _GUESTS[-1]
        numbers = ctypes.c_int32 * size
        self._position, self._start = numbers(), len(prompt)
        token, ones, sequence = numbers(), numbers(*[1] * size), numbers(*range(size))
        first = ctypes.addressof(sequence)
        pointers = (ctypes.c_void_p * size)(*range(first, first + 4 * size, 4))
        wanted = (ctypes.c_int8 * size)(*[1] * size)
        # (They live as long as the batch that points to them.)
        self._arrays = ones, pointers, wanted, token, sequence
        places = [
            ctypes.addressof(self._position),
            ctypes.addressof(ones),
            ctypes.addressof(pointers),
            ctypes.addressof(wanted),
        ]
        self._batch = Batch(size, ctypes.addressof(token), None, *places)
        for at, each in enumerate(prompt):
            token[:], self._position[:] = [each] * size, [at] * size
            self._context.decode(self._batch)

    def rate(self, sequences: int) -> float:
        """The tokens per second of so many sequences, whatever the tokens."""
        memory, pointer = self._context.memory, self._context.pointer
        for number in range(sequences):
            self._native.llama_memory_seq_rm(memory, number, self._start, -1)
        self._batch.n_tokens = sequences
        started = time.perf_counter()
        for turn in range(_TOKENS):
            self._position[:sequences] = [self._start + turn] * sequences
            self._context.decode(self._batch)
            self._native.llama_get_logits_ith(pointer, 0)
        return sequences * _TOKENS / (time.perf_counter() - started)


def _prefix(model: Model) -> Figure:
    """Time to first token of a second guest with the same beginning of 1,000 tokens, over that of
    the first one."""
    times = []
    beginning = f"<|im_start|>system\nTalk {time.time_ns()}. {_LONG * 85}<|im_end|>\n"
    for turn in range(2):
        with model.init_execution_context() as context:
            context.set_input("prompt", beginning + _SHORT.format(turn))
            started = time.perf_counter()
            next(context.stream())
            times.append(time.perf_counter() - started)
    first, second = times
    note = f"{second * 1e3:.0f} ms, {first * 1e3:.0f} ms anew"
    return Figure("prefix_ttft_ratio/ggml", second / first, "×", 0.2, note=note)


def _priority(host: Host) -> Figure:
    """The p95 of short answers to a guest of high priority beside many of low priority, over that
    of the same answers alone."""
    from benchmarks.language import of_tenant

    high, low = of_tenant(host, "high", 1), of_tenant(host, "low")
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(2 * _ROUNDS):
        alone += _answers(high)
        with ExitStack() as stack:
            for number in range(_FLOOD):
                stack.enter_context(_flood(low, number))
            beside += _answers(high)
    p95 = [sorted(times)[int(0.95 * (len(times) - 1))] for times in (beside, alone)]
    note = f"{p95[0] * 1e3:.0f} ms, {p95[1] * 1e3:.0f} ms alone"
    return Figure("priority_p95_ratio/ggml", p95[0] / p95[1], "×", 1.1, note=note)


def _answers(model: Model) -> list[float]:
    times = []
    with model.init_execution_context() as context:
        context.set_input("config", '{"ignore-eos": true, "n-predict": 4}')
        for number in range(_REQUESTS):
            context.set_input("prompt", _SHORT.format(number))
            started = time.perf_counter()
            context.compute()
            times.append(time.perf_counter() - started)
    return times


@contextmanager
def _flood(model: Model, number: int) -> Iterator[None]:
    """A guest that writes all the time."""
    context, writing = model.init_execution_context(), threading.Event()
    context.set_input("config", _ENDLESS)
    context.set_input("prompt", _SHORT.format(number))

    def write() -> None:
        with suppress(WasiNnError):
            for _ in context.stream():
                writing.set()

    with _stopping(context, write):
        writing.wait()
        yield


@contextmanager
def _stopping(context: Context, work: Callable[[], None]) -> Iterator[None]:
    """Work in a thread, until the context is cancelled."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        context.cancel()
        thread.join()
        context.close()


def _stall() -> Figure:
    """The slowest gap between two tokens of a guest while another one's prompt of 2,000 tokens is
    read, over its usual gap."""
    rounds = [_gaps() for _ in range(_ROUNDS)]
    note = "slowest/usual ms: "
    note += ", ".join(f"{slowest * 1e3:.0f}/{usual * 1e3:.0f}" for slowest, usual in rounds)
    ratio = statistics.median(slowest / usual for slowest, usual in rounds)
    return Figure("stall_ratio/ggml", ratio, "×", 3.0, note=note)


def _gaps() -> tuple[float, float]:
    """The slowest gap beside the first parts of a prompt, and the usual one before."""
    from benchmarks.language import CONFIG, MODEL

    # In a new loop. Its memory has to grow for the prompt.
    with Host() as host:
        host.add_model("default", MODEL, config=CONFIG)
        model = host.model("default")
        with model.init_execution_context() as context:
            context.set_input("config", _ENDLESS)
            context.set_input("prompt", _SHORT.format(1))
            stream = context.stream()
            usual = _each(stream, 30)
            other = model.init_execution_context()
            other.set_input("config", '{"ctx-size": 2304}')
            other.set_input("prompt", _LONG * 180)

            def read() -> None:
                with suppress(WasiNnError):
                    next(other.stream())

            with _stopping(other, read):
                return max(_each(stream, 60)), statistics.median(usual)


def _each(stream: Iterator[bytes], count: int) -> list[float]:
    times = [time.perf_counter()]
    for _ in range(count):
        next(stream)
        times.append(time.perf_counter())
    return [end - start for start, end in pairwise(times)]


def _single(graph: GgmlGraph) -> Figure:
    """CPU seconds of a text in a llama.cpp context of its own, over those in the loop."""
    from wasi_nn.backend import unlimited
    from wasi_nn.types import Tensor, TensorType

    config = json.dumps({"n-predict": _TOKENS, "ignore-eos": True})

    def text(shared: bool) -> Callable[[], float]:
        context = graph.init_execution_context(unlimited)

        def run() -> float:
            graph.model.shares = shared
            for key, value in ((1, config), (0, _SHORT.format(1))):
                data = memoryview(value.encode())
                context.set_input(key, Tensor(TensorType.U8, (1,), data))
            started = time.process_time()
            context.compute()
            seconds = time.process_time() - started
            graph.model.shares = True
            return seconds

        # It makes its memory, and reads the prompt.
        run()
        return run

    ratio, apart, loop = paired_ratio(20, text(False), text(True))
    note = f"{_TOKENS / loop:.1f} tokens/s, {_TOKENS / apart:.1f} apart"
    return Figure("single_ratio/ggml", ratio, "×", 0.99, at_least=True, note=note)
