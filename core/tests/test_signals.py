"""Signal handlers of a program's own while a model computes in the main thread."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import needs
from onnx import TensorProto, helper

from wasi_nn import ExecutionTarget, Host, Policy
from wasi_nn._process import signals
from wasi_nn.backend import ExecutionContext, Graph
from wasi_nn.errors import InvalidArgument
from wasi_nn_conformance.engine_tests.common import signalled

needs("onnxruntime")

GGUF = Path(__file__).parents[2] / "conformance" / "graphs" / "ggml" / "tiny.gguf"


# A handler that raises right after a socket was made leaves it to the collector, which warns.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Loss(Exception):
    """What a handler raises."""


def lose(*signal):
    pause()
    raise Loss


def long() -> bytes:
    """A loop that goes on for minutes: y = x + 1 + 1 + …."""
    number = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ],
        "body",
        [
            number("round", TensorProto.INT64, []),
            number("going", TensorProto.BOOL, []),
            number("before", TensorProto.FLOAT, [1]),
        ],
        [number("goes", TensorProto.BOOL, []), number("after", TensorProto.FLOAT, [1])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "", "x"], ["y"], body=body)],
        "g",
        [number("x", TensorProto.FLOAT, [1])],
        [number("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("rounds", TensorProto.INT64, [], [1 << 40])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("number", "handler", "kind"),
    [
        (signal.SIGTERM, lambda *a: sys.exit(7), SystemExit),
        (signal.SIGALRM, lose, Loss),
        (signal.SIGINT, lose, Loss),
    ],
)
def test_a_handler_that_raises_ends_a_computation(number, handler, kind):
    x = np.float32([1])
    heard = []
    with Host() as host:
        model = host.load(long())
        returns = signalled(
            signal.SIGUSR1, lambda *a: heard.append(threading.current_thread()), 0.1
        )
        with returns, signalled(number, handler, 0.4), pytest.raises(kind):
            model.run(x)
        with model.init_execution_context() as context:
            context.set_input(0, x)
            with signalled(number, handler, 0.2), pytest.raises(kind):
                context.compute()
    assert heard == [threading.main_thread()]


def test_a_handler_that_returns_changes_no_result():
    with Host() as host, signalled(signal.SIGUSR1, lambda *a: None, 0):
        model = host.load(b"wasi-nn:identity")
        with model.init_execution_context() as context:
            context.set_input(0, np.float32([3, 4]))
            context.compute()
            assert context.get_output(0).tolist() == [3, 4]


@contextlib.contextmanager
def ringing(handler, seconds=0.003):
    """SIGALRM comes again and again."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pause():
    """Let the next ring come in a second. Before that, the block has ended; or Python has ignored
    what the handler raised, while something was freed or in a callback of its collector."""
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.setitimer(signal.ITIMER_REAL, 1, 1)


def leave(number, frame):
    pause()
    sys.exit(7)


def forever(function):
    results = []
    while True:
        results.append(function())


@pytest.mark.parametrize("handler", [leave, lambda *a: leave(*a), lose])
def test_an_exception_of_a_handler_is_not_blamed_on_the_backend(handler):
    """Short calls stay in the main thread, where a handler raises in the backend's own code."""
    needs("xllamacpp")
    with Host() as host, host.load(GGUF).init_execution_context() as context:
        for _ in range(5):
            with pytest.raises((SystemExit, Loss)), ringing(handler):
                forever(lambda: context.set_input("prompt", "x y z " * 200))


@pytest.mark.parametrize("kind", [Loss, RuntimeError])
def test_a_handler_that_raises_leaves_no_graph_locked(monkeypatch, kind):
    def handler(number, frame):
        pause()
        raise kind

    monkeypatch.setattr(Graph, "concurrent_contexts", False)
    with Host() as host:
        context = host.load(b"wasi-nn:identity", isolation="none").init_execution_context()
        for _ in range(200):
            with pytest.raises(kind), ringing(handler):
                forever(lambda: context.set_input(0, b"x"))
            context.set_input(0, b"x")


def test_an_exception_of_a_handler_is_not_lost_while_a_context_counts(monkeypatch):
    monkeypatch.setattr(ExecutionContext, "generation", lambda context: time.sleep(5))
    policy = Policy(own_models=True, isolation="none")
    with Host(policy=policy) as host, host.open_session() as session:
        graph = session.load([memoryview(b"wasi-nn:identity")], "identity", ExecutionTarget.CPU)
        session.init_execution_context(graph)
        with pytest.raises(Loss), ringing(lose):
            assert session.generation is None


def test_an_error_of_the_backend_is_blamed_on_it():
    needs("xllamacpp")
    with Host() as host, host.load(GGUF).init_execution_context() as context:
        try:
            lose()
        except Loss:
            # It is being handled, and has nothing to do with the signal.
            with pytest.raises(InvalidArgument):
                context.set_input("prompt", b"\xff")


def test_handlers_run_while_a_model_loads():
    needs("xllamacpp")
    data, rang = GGUF.read_bytes(), []
    with Host() as host:
        with ringing(lambda *a: rang.append(1)):
            while not rang:
                host.load(data)
        for _ in range(5):
            with pytest.raises(SystemExit), ringing(leave):
                forever(lambda: host.load(data))
        assert host.load(data).inputs


def test_ctrl_c_comes_out_while_a_model_loads():
    needs("xllamacpp")
    data = GGUF.read_bytes()
    ctrl_c = signalled(signal.SIGINT, signal.default_int_handler, 0.1)
    with Host() as host, pytest.raises(KeyboardInterrupt), ctrl_c:
        forever(lambda: host.load(data))


def test_a_new_handler_is_noticed_at_once():
    for _ in range(3):
        assert not signals._handled()
        before = signal.signal(signal.SIGUSR2, lose)
        assert signals._handled()
        signal.signal(signal.SIGUSR2, before)
