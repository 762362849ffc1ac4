"""Batching: computations that wait at the same time become one, and nobody notices."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wasi_nn import ExecutionTarget, Host, Limits, Policy, TensorInfo, TensorType, UsageError
from wasi_nn._host.model import Model
from wasi_nn._models.batching import queue
from wasi_nn.backend import (
    Backend,
    ExecutionContext,
    Graph,
    StreamingContext,
    check_input,
    position,
)
from wasi_nn.errors import (
    ForkedProcess,
    InvalidArgument,
    NnError,
    QuotaExceeded,
    RuntimeFailure,
)
from wasi_nn.hookspecs import hookimpl
from wasi_nn.plugins import Plugins
from wasi_nn.types import Tensor

# A bound against a hang, in seconds.
_HANG = 30
F32 = TensorType.F32
#: A model that must not be computed with others in one context.
POISON = 666.0


class Rows(Backend):
    """Doubles its rows, and gives their first column. Tests decide when and how it computes."""

    name = "rows"
    encodings = ("rows",)
    config_keys = frozenset({"kind"})

    def __init__(self) -> None:
        self.graph: dict[str, Any] = {"stateless": True}
        self.infos = (
            [TensorInfo("x", F32, (-1, 2))],
            [
                TensorInfo("double", F32, (-1, 2)),
                TensorInfo("first", F32, (-1, 1)),
            ],
        )
        self.loads = 0
        #: The rows of each computation.
        self.computed: list[int] = []
        #: Closed, it keeps computations from ending.
        self.gate = threading.Event()
        self.gate.set()
        #: The rows of the computations that it keeps; none for all.
        self.held: set[int] = set()
        self.inside = self.most_inside = 0
        self.lock = threading.Lock()
        self.separable = self.cancels = True
        self.fails: Callable[[Any], bool] = lambda x: bool((x == POISON).any())

    def load(self, builders, options):
        self.loads += 1
        return RowsGraph(self)

    @hookimpl
    def wasi_nn_backends(self):
        return [self]


class RowsGraph(Graph):
    def __init__(self, backend: Rows) -> None:
        self.backend = backend
        self.inputs, self.outputs = backend.infos
        for name, value in backend.graph.items():
            setattr(self, name, value)

    def init_execution_context(self, reserve):
        return self.backend.graph.get("context", RowsContext)(self.backend)


class RowsContext(ExecutionContext):
    def __init__(self, backend: Rows) -> None:
        self.backend = backend
        self.x: Any = None
        self.outputs: dict[Any, Any] = {}
        self.cancelled = False

    def set_input(self, key, tensor):
        if self.backend.infos[0]:
            check_input(
                self.backend.infos[0][position(key, self.backend.infos[0], "input")], tensor
            )
        self.x = tensor.numpy()

    def compute(self):
        backend = self.backend
        if self.x is None:
            raise InvalidArgument("x has not been set")
        with backend.lock:
            backend.inside += 1
            backend.most_inside = max(backend.most_inside, backend.inside)
            backend.computed.append(len(self.x))
        try:
            while not backend.gate.wait(0.005) and len(self.x) in (backend.held or [len(self.x)]):
                if self.cancelled and backend.cancels:
                    raise RuntimeFailure("the library was cancelled")
            if backend.fails(self.x):
                raise RuntimeFailure("poison")
        finally:
            with backend.lock:
                backend.inside -= 1
        double = self.x * 2 if backend.separable else self.x.sum(axis=0, keepdims=True)
        self.outputs = {0: double, 1: self.x[:, :1], "named": self.x + 1}

    def get_output(self, key):
        if self.backend.infos[1]:
            key = position(key, self.backend.infos[1], "output")
        if key not in self.outputs:
            raise InvalidArgument(f"there is no output {key}")
        return Tensor.of(self.outputs[key])

    def cancel(self):
        self.cancelled = True


class Setting:
    """A host with a batched model of the backend ``Rows``, and guests as threads."""

    def __init__(self, folder: Path) -> None:
        self.backend = Rows()
        self.path = folder / "net.rows"
        self.path.write_bytes(b"rows")
        self.threads: list[threading.Thread] = []
        self.results: dict[int, Any] = {}

    def host(self, **limits: Any) -> Host:
        plugins = Plugins()
        plugins.register(self.backend, "rows")
        return Host(plugins=plugins, policy=Policy(own_models=True, limits=Limits(**limits)))

    def model(self, host: Host | None = None, **batching: Any) -> Model:
        batching = {"max_batch_size": 4, "max_queue_delay_ms": 10_000, **batching}
        host = host or self.host()
        return host.load(self.path, encoding="rows", config={"batching": batching})

    def start(self, number: int, work: Callable[[], Any]) -> None:
        """Do something in a thread, whose result or error is kept."""

        def run() -> None:
            try:
                self.results[number] = work()
            except NnError as error:
                self.results[number] = error

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def end(self) -> dict[int, Any]:
        """Open the gate, wait for the threads, and give what they have given."""
        self.backend.gate.set()
        for thread in self.threads:
            thread.join(_HANG)
            assert not thread.is_alive(), "a guest hangs"
        self.threads.clear()
        results, self.results = self.results, {}
        return results

    def block(self, model: Model) -> None:
        """Let a computation of a thread of its own wait in the library: what comes next waits."""
        self.backend.gate.clear()
        before = len(self.backend.computed)
        self.start(-1, lambda: model.run(rows(0)))
        eventually(lambda: len(self.backend.computed) > before)


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    # The batches that these tests hold are not slow ones.
    monkeypatch.setattr(queue, "_SLOW_SECONDS", 1e6)
    made = Setting(tmp_path)
    yield made
    made.end()


def rows(*numbers: float) -> Any:
    return np.array([[number, -number] for number in numbers], np.float32)


def compute_behind(setting: Setting, model: Model, count: int) -> list[Any]:
    """Contexts that wait for a batch with one row each, in their order, while another computes."""
    setting.block(model)
    contexts = [model.init_execution_context() for _ in range(count)]
    for number, context in enumerate(contexts):
        context.set_input(0, rows(number))
        setting.start(number, lambda context=context: (context.compute(), context.get_output(0)))
        waiting(model, number + 1)
    return contexts


def waiting(model: Model, count: int) -> None:
    """Wait until so many requests wait for a batch."""
    requests = model._loaded.graph.queue
    eventually(lambda: len(requests._waiting) == count)


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + _HANG
    while not true():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.001)


def same(result: dict[str, Any], given: Any) -> bool:
    """Whether a result is exactly that of a computation alone."""
    return np.array_equal(result["double"], given * 2) and np.array_equal(
        result["first"], given[:, :1]
    )


def test_computations_that_wait_together_become_one(setting):
    model = setting.model()
    setting.block(model)
    for number in range(1, 5):
        setting.start(number, lambda n=number: model.run(rows(n)))
        waiting(model, number)
    results = setting.end()
    assert setting.backend.computed == [1, 4]
    assert all(same(results[number], rows(number)) for number in range(1, 5))
    counts = dict(model._loaded.graph.statistics())
    assert counts.pop("queue_seconds") > 0
    assert counts == {"batches": 2, "requests": 5, "rows": 5}


def test_a_batch_has_at_most_its_size_and_the_oldest_come_first(setting):
    model = setting.model()
    setting.block(model)
    sizes = 2, 1, 2, 1, 3
    for number, size in enumerate(sizes):
        given = rows(*range(number, number + size))
        setting.start(number, lambda given=given: model.run(given))
        waiting(model, number + 1)
    results = setting.end()
    # (A request is never split, and none overtakes another one of the same kind.)
    assert setting.backend.computed[:3] == [1, 3, 3]
    assert sum(setting.backend.computed) == 1 + sum(sizes)
    assert all(same(results[n], rows(*range(n, n + size))) for n, size in enumerate(sizes))


def test_a_request_above_the_size_is_computed_alone(setting):
    model = setting.model()
    setting.block(model)
    setting.start(1, lambda: model.run(rows(*range(9))))
    waiting(model, 1)
    setting.start(2, lambda: model.run(rows(7)))
    waiting(model, 2)
    results = setting.end()
    assert setting.backend.computed == [1, 9, 1]
    assert same(results[1], rows(*range(9)))


def test_a_guest_that_is_alone_does_not_wait(setting):
    model = setting.model()
    # (The delay is ten seconds for each of them.)
    setting.start(0, lambda: [model.run(rows(n)) for n in range(20)])
    results = setting.end()
    assert setting.backend.computed == [1] * 20
    assert all(same(result, rows(n)) for n, result in enumerate(results[0]))


def test_two_contexts_of_one_thread_do_not_wait_for_each_other(setting):
    model = setting.model()

    def guest() -> None:
        with model.init_execution_context() as one, model.init_execution_context() as other:
            for context in (one, other, one, other):
                context.set_input(0, rows(1))
                context.compute()

    setting.start(0, guest)
    setting.end()
    assert setting.backend.computed == [1] * 4


def test_a_batch_waits_for_a_guest_that_is_about_to_come(setting):
    model = setting.model(max_batch_size=8)
    with model.init_execution_context() as context:
        context.set_input(0, rows(2))
        setting.start(1, lambda: model.run(rows(1)))
        waiting(model, 1)
        # All are there now, so the batch starts although it is not full.
        context.compute()
        assert np.array_equal(context.get_output("double"), rows(4))
    results = setting.end()
    assert setting.backend.computed == [2]
    assert same(results[1], rows(1))


def test_a_batch_waits_no_longer_than_the_delay(setting):
    model = setting.model(max_queue_delay_ms=1)
    with model.init_execution_context() as context:
        context.set_input(0, rows(2))
        setting.start(1, lambda: model.run(rows(1)))
        # The other one never computes.
        assert same(setting.end()[1], rows(1))


def test_what_differs_in_type_dimensions_or_inputs_is_in_another_batch(setting):
    setting.backend.infos = [], []
    setting.backend.fails = lambda x: False
    model = setting.model()
    setting.block(model)
    given = [
        rows(1),
        np.ones((1, 3), np.float32),
        rows(2),
        np.ones((1, 2), np.int32),
        np.ones((1, 3), np.float32),
    ]
    for number, array in enumerate(given):
        setting.start(number, lambda array=array: model.run(array))
        waiting(model, number + 1)
    results = setting.end()
    assert setting.backend.computed == [1, 2, 2, 1]
    assert all(np.array_equal(results[n]["0"], array * 2) for n, array in enumerate(given))


def test_zero_rows_and_a_scalar_are_computed_alone(setting):
    setting.backend.infos = [], []
    setting.backend.fails = lambda x: False
    model = setting.model()
    setting.block(model)
    given = [rows(1), np.zeros((0, 2), np.float32), rows(2)]
    for number, array in enumerate(given):
        setting.start(number, lambda array=array: model.run(array))
        waiting(model, number + 1)
    results = setting.end()
    assert setting.backend.computed == [1, 2, 0]
    assert results[1]["0"].shape == (0, 2)


def test_the_guest_with_a_wrong_input_gets_the_error_and_the_batch_goes_on(setting):
    model = setting.model()
    setting.block(model)
    setting.start(1, lambda: model.run(rows(1)))
    waiting(model, 1)
    with pytest.raises(InvalidArgument, match="does not take a tensor of dimensions"):
        model.run(np.ones((1, 3), np.float32))
    with pytest.raises(InvalidArgument, match="does not take i32 tensors"):
        model.run(np.ones((1, 2), np.int32))
    with pytest.raises(InvalidArgument, match="no input named 'other'"):
        model.run(other=rows(1))
    assert same(setting.end()[1], rows(1))
    assert setting.backend.computed == [1, 1]


def test_a_missing_input_is_not_completed_by_that_of_another_guest(setting):
    model = setting.model()
    model.run(rows(1))
    with model.init_execution_context() as context:
        with pytest.raises(InvalidArgument, match="x has not been set"):
            context.compute()
        with pytest.raises(InvalidArgument, match="no output before compute has succeeded"):
            context.get_output(0)
        context.set_input(0, rows(3))
        context.compute()
        assert np.array_equal(context.get_output(0), rows(6))


def test_only_the_guest_whose_input_fails_gets_the_error(setting):
    model = setting.model()
    setting.block(model)
    for number, value in ((1, 1.0), (2, POISON), (3, 3.0)):
        setting.start(number, lambda value=value: model.run(rows(value)))
        waiting(model, number)
    results = setting.end()
    assert setting.backend.computed == [1, 3, 1, 1, 1]
    assert same(results[1], rows(1))
    assert same(results[3], rows(3))
    assert isinstance(results[2], RuntimeFailure)
    assert "poison" in str(results[2])
    # The model is still batched.
    setting.block(model)
    for number in (1, 2):
        setting.start(number, lambda: model.run(rows(1)))
        waiting(model, number)
    setting.end()
    assert setting.backend.computed[-1] == 2


def test_a_model_that_fails_only_in_batches_is_reported_once_and_then_computed_singly(
    setting, caplog
):
    setting.backend.fails = lambda x: len(x) > 1
    model = setting.model()
    for _ in range(2):
        setting.block(model)
        for number in (1, 2, 3):
            setting.start(number, lambda n=number: model.run(rows(n)))
            waiting(model, number)
        results = setting.end()
        assert all(same(results[number], rows(number)) for number in (1, 2, 3))
    assert setting.backend.computed == [1, 3, 1, 1, 1, *[1] * 4]
    (record,) = [record for record in caplog.records if "separable" in record.message]
    assert str(setting.path) in record.message
    assert "poison" in record.message


def test_a_model_whose_outputs_have_other_rows_is_reported_once_and_not_batched(setting, caplog):
    setting.backend.separable = False
    model = setting.model()
    for turn in range(2):
        setting.block(model)
        for number in (1, 2):
            setting.start(number, lambda n=number: model.run(rows(n)))
            if not turn:
                waiting(model, number)
        results = setting.end()
        assert all(np.array_equal(results[n]["double"], rows(n)) for n in (1, 2))
    assert setting.backend.computed == [1, 2, 1, 1, *[1] * 3]
    (record,) = [record for record in caplog.records if "separable" in record.message]
    assert record.levelno == logging.WARNING
    assert "output 0 has the dimensions [1, 2]" in record.message


def test_a_guest_that_is_cancelled_in_the_queue_leaves_it(setting):
    model = setting.model()
    contexts = compute_behind(setting, model, 3)
    # The first one would lead the next batch.
    contexts[0].cancel()
    eventually(lambda: 0 in setting.results)
    assert "being stopped" in str(setting.results[0])
    results = setting.end()
    assert setting.backend.computed == [1, 2]
    assert all(np.array_equal(results[n][1], rows(n) * 2) for n in (1, 2))
    with pytest.raises(RuntimeFailure, match="being stopped"):
        contexts[0].compute()


@pytest.mark.parametrize("cancels", [True, False], ids=["at-once", "at-its-end"])
def test_the_others_of_a_batch_get_their_results_if_the_one_that_computes_is_cancelled(
    setting, cancels
):
    setting.backend.cancels = cancels
    model = setting.model()
    contexts = compute_behind(setting, model, 3)
    setting.backend.held = {3}
    eventually(lambda: setting.backend.computed == [1, 3])
    contexts[0].cancel()
    if cancels:
        eventually(lambda: 0 in setting.results)
    results = setting.end()
    assert setting.backend.computed == ([1, 3, 2] if cancels else [1, 3])
    assert "being stopped" in str(results[0])
    assert all(np.array_equal(results[n][1], rows(n) * 2) for n in (1, 2))


@pytest.mark.parametrize("cancels", [True, False], ids=["at-once", "at-its-end"])
def test_a_guest_that_is_cancelled_while_another_one_computes_its_batch_leaves_at_once(
    setting, cancels
):
    setting.backend.cancels = cancels
    model = setting.model(max_batch_size=2)
    contexts = compute_behind(setting, model, 2)
    setting.backend.held = {2}
    eventually(lambda: setting.backend.computed == [1, 2])
    contexts[1].cancel()
    eventually(lambda: 1 in setting.results)
    contexts[1].close()
    if cancels:
        # Its input may have been the reason why the batch took long.
        eventually(lambda: 0 in setting.results)
    results = setting.end()
    assert setting.backend.computed == ([1, 2, 1] if cancels else [1, 2])
    assert "being stopped" in str(results[1])
    assert np.array_equal(results[0][1], rows(0) * 2)


def test_a_computation_above_its_time_in_the_queue_ends_and_hurts_nobody(setting):
    model = setting.model()
    limited = setting.model(setting.host(compute_timeout=0.05))
    assert limited._loaded is model._loaded
    setting.block(model)
    setting.start(1, lambda: limited.run(rows(1)))
    setting.start(2, lambda: model.run(rows(2)))
    eventually(lambda: 1 in setting.results)
    assert isinstance(setting.results[1], QuotaExceeded)
    results = setting.end()
    assert setting.backend.computed == [1, 1]
    assert same(results[2], rows(2))


def test_a_guest_at_its_deadline_leaves_the_queue(setting):
    host = setting.host()
    host.add_model("net", setting.path, encoding="rows", config={"batching": {"max_batch_size": 4}})
    model = host.model("net")
    setting.block(model)
    with host.open_session() as session:
        context = session.contexts[session.init_execution_context(session.load_by_name("net"))]
        context.set_input(0, Tensor.of(rows(1)))
        setting.start(1, context.compute)
        waiting(model, 1)
        session.cancel()
        eventually(lambda: 1 in setting.results)
    assert "being stopped" in str(setting.results[1])
    setting.end()
    assert setting.backend.computed == [1]


def test_a_batch_that_takes_much_longer_than_usual_holds_nobody_up(setting, monkeypatch):
    model = setting.model()
    setting.block(model)
    setting.backend.held = {1}
    monkeypatch.setattr(queue, "_SLOW_SECONDS", 0.01)
    for number in (2, 3, 4):
        setting.start(number, lambda n=number: model.run(rows(*range(n))))
    eventually(lambda: setting.results.keys() == {2, 3, 4})
    assert setting.backend.inside == 1
    results = setting.end()
    assert all(same(results[n], rows(*range(n))) for n in (2, 3, 4))


def test_guests_that_come_fail_and_leave_at_random_do_not_change_the_results_of_others(setting):
    setting.backend.infos = [], []
    model = setting.model(max_batch_size=5, max_queue_delay_ms=1, instances=2)

    wrong = []

    def guest(number: int) -> None:
        choice = np.random.default_rng(number)
        context = model.init_execution_context()
        for _ in range(20):
            dims = choice.choice([0, 1, 1, 2, 3, 7]), choice.choice([2, 2, 3])
            given = np.full(dims, choice.choice([1, 2, 3, POISON]), np.float32)
            leaves = choice.random() < 0.1
            timer = threading.Timer(choice.random() / 500, context.cancel)
            if leaves:
                timer.start()
            try:
                context.set_input(0, given)
                context.compute()
                if (given == POISON).any() or not np.array_equal(context.get_output(0), given * 2):
                    wrong.append(given)
            except RuntimeFailure as error:
                if not leaves and not ((given == POISON).any() and "poison" in str(error)):
                    wrong.append(error)
            if leaves:
                timer.join()
                context.close()
                context = model.init_execution_context()
        context.close()

    for number in range(8):
        setting.start(number, lambda n=number: guest(n))
    assert setting.end() == dict.fromkeys(range(8))
    assert not wrong
    requests = model._loaded.graph.queue
    assert (len(requests._waiting), requests._running, requests._leader) == (0, [], None)


def test_a_graph_whose_contexts_compute_one_at_a_time_is_batched_too(setting):
    setting.backend.graph["concurrent_contexts"] = False
    with pytest.raises(InvalidArgument, match="one at a time: leave 'instances' out"):
        setting.model(instances=2)
    model = setting.model()
    setting.block(model)
    for number in range(1, 9):
        setting.start(number, lambda n=number: model.run(rows(n)))
    waiting(model, 8)
    results = setting.end()
    assert setting.backend.computed == [1, 4, 4]
    assert setting.backend.most_inside == 1
    assert all(same(results[number], rows(number)) for number in range(1, 9))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="instances are at most as many as cores")
def test_several_instances_compute_at_the_same_time(setting):
    model = setting.model(instances=2, max_batch_size=2)
    setting.backend.gate.clear()
    barrier = threading.Barrier(4)

    def guest(number: int) -> Any:
        with model.init_execution_context() as context:
            context.set_input(0, rows(number))
            barrier.wait()
            context.compute()
            return context.get_output(0)

    for number in range(4):
        setting.start(number, lambda n=number: guest(n))
    eventually(lambda: setting.backend.inside == 2)
    results = setting.end()
    assert setting.backend.computed == [2, 2]
    assert all(np.array_equal(results[n], rows(n) * 2) for n in range(4))


def test_sixteen_guests_get_what_each_gets_alone(setting):
    model = setting.model(max_batch_size=16, max_queue_delay_ms=2)

    def guest(number: int) -> bool:
        with model.init_execution_context() as context:
            for turn in range(50):
                given = rows(*range(number * turn, number * turn + 1 + turn % 3))
                context.set_input("x", given)
                context.compute()
                if not np.array_equal(context.get_output("double"), given * 2):
                    return False
                if not np.array_equal(context.get_output(1), given[:, :1]):
                    return False
        return True

    for number in range(16):
        setting.start(number, lambda n=number: guest(n))
    assert all(setting.end().values())
    assert len(setting.backend.computed) < 16 * 50


def test_an_output_that_the_graph_does_not_describe_is_found_by_its_name(setting):
    setting.backend.infos = setting.backend.infos[0], []
    model = setting.model()
    with model.init_execution_context() as context:
        context.set_input(0, rows(1))
        context.compute()
        assert np.array_equal(context.get_output("named"), rows(1) + 1)
        context.compute()
        assert np.array_equal(context.get_output("named"), rows(1) + 1)
        assert setting.backend.computed == [1, 1, 1]
        with pytest.raises(InvalidArgument, match="no output other"):
            context.get_output("other")


def test_inputs_stay_set_and_outputs_are_the_guests_own(setting):
    model = setting.model()
    with model.init_execution_context() as one, model.init_execution_context() as other:
        one.set_input(0, rows(1))
        one.compute()
        other.set_input(0, rows(2))
        other.compute()
        assert np.array_equal(one.get_output(0), rows(2))
        one.compute()
        assert np.array_equal(other.get_output(0), rows(4))
        assert np.array_equal(one.get_output(0), rows(2))


def test_a_guests_share_of_a_batchs_memory_counts(setting):
    host = setting.host(host_memory=2 * 800 + 2 * (800 + 400) - 1)
    model = setting.model(host)
    with model.init_execution_context() as context:
        context.set_input(0, np.zeros((100, 2), np.float32))
        with pytest.raises(QuotaExceeded):
            context.compute()
        with pytest.raises(InvalidArgument, match="no output"):
            context.get_output(0)
    small = setting.host(host_memory=1500)
    with setting.model(small).init_execution_context() as context, pytest.raises(QuotaExceeded):
        context.set_input(0, np.zeros((100, 2), np.float32))


def test_a_model_is_loaded_once_with_batching_and_without(setting):
    host = setting.host()
    plain = host.load(setting.path, encoding="rows")
    one, other = setting.model(host), setting.model(setting.host())
    assert one._loaded is other._loaded is not plain._loaded
    assert setting.model(host, max_batch_size=2)._loaded is not one._loaded
    assert setting.backend.loads == 1
    assert one.run(rows(1)).keys() == plain.run(rows(1)).keys()
    assert one.inputs == plain.inputs
    assert one.outputs == plain.outputs


def test_an_instance_is_closed_with_its_graph(setting):
    opened = []

    class Counted(RowsContext):
        def __init__(self, backend):
            super().__init__(backend)
            opened.append(self)

        def close(self):
            opened.remove(self)

    setting.backend.graph["context"] = Counted
    model = setting.model()
    model.run(rows(1))
    assert opened
    del model
    gc.collect()
    assert not opened


def test_a_model_of_bytes_can_be_batched_by_the_operator(setting):
    config = {"batching": {"max_batch_size": 4, "max_queue_delay_ms": 10_000}}
    model = setting.host().load(b"rows", encoding="rows", config=config)
    setting.block(model)
    for number in (1, 2):
        setting.start(number, lambda n=number: model.run(rows(n)))
        waiting(model, number)
    results = setting.end()
    assert setting.backend.computed == [1, 2]
    assert all(same(results[number], rows(number)) for number in (1, 2))


def test_a_guest_may_not_ask_for_batching(setting):
    host = setting.host()
    host.add_model("net", setting.path, encoding="rows")
    with host.open_session() as session:
        with pytest.raises(InvalidArgument, match="a guest's config may not set batching"):
            session.load_by_name("net", {"batching": {"max_batch_size": 4}})
        with pytest.raises(InvalidArgument, match="a guest's config may not set batching"):
            session.load([memoryview(b"rows")], "rows", ExecutionTarget.CPU, {"batching": {}})


class Stream(RowsContext, StreamingContext):
    def compute_single(self): ...

    def get_output_single(self, key): ...

    def fini_single(self): ...


@pytest.mark.parametrize(
    ("graph", "infos", "why"),
    [
        ({"untyped_bytes": True}, None, "texts or bytes"),
        ({"stateless": False}, None, "keeps something between two computations"),
        ({"context": Stream}, None, "its contexts stream"),
        (
            {},
            ([TensorInfo("x", F32, (1, 2))], []),
            r"input x: f32\[1, 2\] has a fixed first dimension",
        ),
    ],
)
def test_a_graph_that_cannot_be_batched_is_refused_with_the_reason(setting, graph, infos, why):
    setting.backend.graph |= graph
    setting.backend.infos = infos or setting.backend.infos
    with pytest.raises(InvalidArgument, match=f"config 'batching': backend rows.*{why}"):
        setting.model()


def test_an_input_with_a_fixed_first_dimension_keeps_its_computation_alone(setting, caplog):
    setting.backend.infos = (
        [
            TensorInfo("x", F32, (-1, 2)),
            TensorInfo("scale", F32, (1,)),
        ],
        setting.backend.infos[1],
    )

    class Scaled(RowsContext):
        def set_input(self, key, tensor):
            if position(key, self.backend.infos[0], "input") == 0:
                super().set_input(key, tensor)

    setting.backend.graph["context"] = Scaled
    model = setting.model()
    assert "scale: f32[1] has a fixed first dimension" in caplog.text
    setting.block(model)
    for number in (1, 2):
        setting.start(number, lambda: model.run(x=rows(1), scale=np.ones(1, np.float32)))
        waiting(model, number)
    for number in (3, 4):
        setting.start(number, lambda: model.run(x=rows(1)))
        waiting(model, number)
    results = setting.end()
    assert setting.backend.computed == [1, 1, 1, 2]
    assert all(same(results[number], rows(1)) for number in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("batching", "why"),
    [
        (8, r"config 'batching' must be an object, as in .*, not 8"),
        ({}, "'batching.max_batch_size' must be a whole number from 2, and is missing"),
        ({"max_batch_size": 1}, "a whole number from 2 to 65536, not 1"),
        ({"max_batch_size": "8"}, "'batching.max_batch_size' must be a whole number, not '8'"),
        ({"max_batch_size": True}, "must be a whole number, not True"),
        ({"max_batch_size": 8, "max_queue_delay_ms": -1}, "a number from 0 to .*, not -1"),
        ({"max_batch_size": 8, "max_queue_delay_ms": 1e9}, "from 0 to 10000, not 1e\\+09"),
        ({"max_batch_size": 8, "instances": 0}, "'batching.instances' must be .* from 1"),
        (
            {"max_batch_size": 8, "max_queue_delay": 1},
            "'batching.max_queue_delay' is unknown; known",
        ),
    ],
)
def test_a_malformed_value_is_reported_before_the_model_is_used(setting, batching, why):
    host = setting.host()
    with pytest.raises(UsageError, match=why):
        host.add_model("net", setting.path, encoding="rows", config={"batching": batching})
    with pytest.raises(InvalidArgument, match=why):
        host.load(setting.path, encoding="rows", config={"batching": batching})


def test_a_batched_graph_is_refused_in_a_child_process(setting):
    setting.backend.survives_fork = True
    host = setting.host()
    model = setting.model(host)
    model.run(rows(1))
    pid = os.fork()
    if not pid:
        code = 1
        try:
            model.run(rows(1))
        except ForkedProcess:
            code = 0 if same(setting.model(setting.host()).run(rows(2)), rows(2)) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
