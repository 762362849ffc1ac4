"""Handles, lifetimes, and which call is legal when."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

from wasi_nn import Limits, Policy, Tensor, TensorType, limits
from wasi_nn._host.model import Context
from wasi_nn._models.registry import NamedModel, Registry
from wasi_nn._session.session import Session
from wasi_nn.backend import Backend, ExecutionContext, Graph, Reserve, Schedule, memory
from wasi_nn.backend.config import known_config
from wasi_nn.errors import InvalidArgument, InvalidEncoding, NnError, RuntimeFailure, Unavailable
from wasi_nn.hookspecs import hookimpl
from wasi_nn.plugins import Plugins
from wasi_nn.types import ExecutionTarget
from wasi_nn_conformance.engine_tests.common import together

ONE = Tensor(TensorType.U8, (1,), memoryview(b"x"))


class Recorder(Backend):
    """A backend of the tests' own, which writes down what core asks of it."""

    name = "recorder"
    encodings = ("recorder",)
    config_keys = frozenset({"weights", "other", "reserves"})

    def __init__(self, concurrent: bool = True) -> None:
        self.weights = {"one": object(), "two": object()}
        self.events: list[str] = []
        self.inside = 0
        self.most_inside = 0
        self.concurrent = concurrent
        self.lock = threading.Lock()

    def load(self, builders, options):
        if not isinstance(builders[0], Path) and bytes(builders[0]) == b"missing":
            raise Unavailable('recorder is not installed; pip install "wasi-nn[recorder]"')
        self.events.append("load")
        memory = self.weights.get(options.config.get("weights"))
        return RecorderGraph(self, memory, options.config.get("reserves", 0))

    @hookimpl
    def wasi_nn_backends(self):
        return [self]


class RecorderGraph(Graph):
    def __init__(self, backend: Recorder, weights: object = None, reserves: int = 0) -> None:
        self.backend = backend
        self.shared_memory = weights
        self.reserves = reserves
        self.concurrent_contexts = backend.concurrent

    def init_execution_context(self, reserve):
        return RecorderContext(self.backend, reserve, self.reserves)

    def close(self):
        self.backend.events.append("graph closed")


class RecorderContext(ExecutionContext):
    def __init__(self, backend: Recorder, reserve: Reserve, reserves: int = 0) -> None:
        self.backend = backend
        self.reserve = reserve
        reserve(reserves)

    def set_input(self, key, tensor):
        pass

    def compute(self):
        with self.backend.lock:
            self.backend.inside += 1
            self.backend.most_inside = max(self.backend.most_inside, self.backend.inside)
        threading.Event().wait(0.02)
        with self.backend.lock:
            self.backend.inside -= 1

    def get_output(self, key):
        return ONE

    def close(self):
        self.backend.events.append("context closed")


def open_session(backend: Recorder, *models: NamedModel, **limits) -> Session:
    plugins = Plugins()
    plugins.register(backend, "recorder")
    registry = Registry(plugins)
    for model in models:
        registry.add(model)
    policy = Policy(own_models=True, limits=Limits(**limits))
    return Session(plugins, registry, policy)


def load(session: Session, model: bytes = b"m") -> int:
    return session.load([memoryview(model)], "recorder", ExecutionTarget.CPU)


def test_a_context_whose_counting_is_interrupted_is_closed(monkeypatch):
    backend = Recorder()
    session = open_session(backend)
    context = session.init_execution_context(load(session))
    before = session.ledger.reserved
    session.contexts[context].set_input(0, ONE)

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(RecorderContext, "generation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.finalize_execution_context(context)
    assert backend.events == ["load", "context closed"]
    assert session.ledger.reserved == before


def test_handles_start_at_0_and_are_never_reused():
    session = open_session(Recorder())
    graphs = [load(session) for _ in range(2)]
    session.unload(0)
    assert [*graphs, load(session)] == [0, 1, 2]
    contexts = [session.init_execution_context(1) for _ in range(2)]
    session.finalize_execution_context(0)
    assert [*contexts, session.init_execution_context(1)] == [0, 1, 2]
    for operation in (session.unload, session.finalize_execution_context):
        with pytest.raises(InvalidArgument):
            operation(0)


def test_after_unload_a_context_can_be_drained_and_nothing_else():
    session = open_session(Recorder())
    graph = load(session)
    context = session.init_execution_context(graph)
    session.contexts[context].compute()
    session.unload(graph)
    assert session.contexts[context].get_output(0) is ONE
    for operation in (
        lambda: session.contexts[context].set_input(0, ONE),
        lambda: session.contexts[context].compute(),
        lambda: session.contexts[context].compute_single(),
        lambda: session.init_execution_context(graph),
    ):
        with pytest.raises(InvalidArgument):
            operation()
    session.finalize_execution_context(context)


def test_a_context_keeps_its_graph_alive():
    backend = Recorder()
    session = open_session(backend)
    context = session.init_execution_context(load(session))
    session.unload(0)
    gc.collect()
    assert backend.events == ["load"]
    session.finalize_execution_context(context)
    gc.collect()
    assert backend.events == ["load", "context closed", "graph closed"]


def test_close_frees_what_the_guest_left_behind():
    backend = Recorder()
    session = open_session(backend)
    for _ in range(3):
        session.init_execution_context(load(session))
    session.close()
    gc.collect()
    assert backend.events.count("context closed") == 3
    assert backend.events.count("graph closed") == 3


def test_a_context_that_fails_to_close_stops_no_other(monkeypatch, caplog):
    backend = Recorder()
    session = open_session(backend)
    graph = load(session)
    handles = [session.init_execution_context(graph) for _ in range(3)]

    def fail():
        raise RuntimeError("no")

    monkeypatch.setattr(session.contexts[handles[1]].context, "close", fail)
    session.close()
    assert backend.events.count("context closed") == 2
    assert "failed to close a context" in caplog.text


@pytest.mark.parametrize(("concurrent", "most"), [(False, 1), (True, 4)])
def test_contexts_take_turns_unless_the_backend_says_otherwise(concurrent, most):
    backend = Recorder(concurrent)
    session = open_session(backend)
    graph = load(session)
    contexts = [session.init_execution_context(graph) for _ in range(4)]
    together([session.contexts[c].compute for c in contexts])
    assert backend.most_inside == most


def test_a_cancelled_session_refuses_what_comes_next():
    session = open_session(Recorder())
    graph = load(session)
    context = session.init_execution_context(graph)
    session.cancel()
    for operation in (
        lambda: load(session),
        lambda: session.load_by_name("m"),
        lambda: session.init_execution_context(graph),
        lambda: session.contexts[context].set_input(0, ONE),
        lambda: session.contexts[context].compute(),
    ):
        with pytest.raises(RuntimeFailure, match="being stopped"):
            operation()


def test_a_context_that_cannot_be_cancelled_does_not_keep_the_others_going(caplog):
    backend = Recorder()
    session = open_session(backend)
    first, second = (session.init_execution_context(load(session)) for _ in range(2))
    cancelled = []

    def fail() -> None:
        raise RuntimeError("not now")

    session.contexts[first].context.cancel = fail
    session.contexts[second].context.cancel = lambda: cancelled.append(second)
    session.cancel()
    assert cancelled == [second]
    assert "recorder failed to cancel" in caplog.text


def test_a_cancelled_session_does_not_wait_for_its_turn():
    backend = Recorder(concurrent=False)
    session = open_session(backend)
    context = session.init_execution_context(load(session))
    locked, over = threading.Event(), threading.Event()

    def another() -> None:
        with session.graphs[0].lock:
            locked.set()
            over.wait()

    threading.Thread(target=another).start()
    locked.wait()
    threading.Timer(0.1, session.cancel).start()
    try:
        with pytest.raises(RuntimeFailure, match="stopped while it waited"):
            session.contexts[context].compute()
    finally:
        over.set()


def test_limits_on_what_the_host_holds():
    session = open_session(Recorder(), host_memory=10)
    graph = load(session, b"12345678")
    with pytest.raises(RuntimeFailure, match="8 bytes of models"):
        load(session, b"123")
    context = session.init_execution_context(graph)
    session.contexts[context].set_input(0, ONE)
    session.contexts[context].set_input(0, ONE)
    session.contexts[context].set_input(1, ONE)
    with pytest.raises(RuntimeFailure, match="above its limit of 10"):
        session.contexts[context].set_input(2, ONE)
    session.finalize_execution_context(context)
    session.unload(graph)
    load(session, b"1234567890")


@pytest.fixture
def named(tmp_path):
    """A named model of 8 bytes."""
    path = tmp_path / "model"
    path.write_bytes(b"12345678")
    return NamedModel("m", (path,), "recorder")


def test_a_config_costs_nothing_if_the_models_memory_is_shared(named):
    session = open_session(Recorder(), named, host_memory=7)
    graphs = [session.load_by_name("m", {"weights": "one", "other": number}) for number in range(3)]
    # The operator offered one model, not two.
    with pytest.raises(RuntimeFailure, match="8 more would be above its limit of 7"):
        session.load_by_name("m", {"weights": "two"})
    context = session.init_execution_context(graphs[0])
    for graph in graphs:
        session.unload(graph)
    with pytest.raises(RuntimeFailure, match="above its limit"):
        session.load_by_name("m", {"weights": "two"})
    session.finalize_execution_context(context)
    session.load_by_name("m", {"weights": "two"})


def test_every_further_model_under_a_name_counts(named):
    session = open_session(Recorder(), named, host_memory=8)
    session.load_by_name("m")
    graph = session.load_by_name("m", {"other": 1})
    again = session.load_by_name("m", {"other": 1})
    with pytest.raises(RuntimeFailure, match="8 more would be above its limit of 8"):
        session.load_by_name("m", {"other": 2})
    session.unload(graph)
    with pytest.raises(RuntimeFailure):
        session.load_by_name("m", {"other": 2})
    session.unload(again)
    session.load_by_name("m", {"other": 2})


def test_a_model_counts_as_long_as_a_context_uses_it():
    session = open_session(Recorder(), host_memory=8)
    graph = load(session, b"12345678")
    context = session.init_execution_context(graph)
    session.unload(graph)
    with pytest.raises(RuntimeFailure, match="above its limit"):
        load(session, b"1")
    session.finalize_execution_context(context)
    load(session, b"12345678")


def test_limits_on_what_a_context_takes():
    session = open_session(Recorder(), host_memory=10)
    graph = load(session, b"1234")
    first = session.init_execution_context(graph)
    second = session.init_execution_context(graph)
    contexts = [session.contexts[handle].context for handle in (first, second)]
    contexts[0].reserve(6)
    with pytest.raises(RuntimeFailure, match="above its limit of 10"):
        contexts[1].reserve(1)
    contexts[0].reserve(-2)
    contexts[1].reserve(2)
    session.finalize_execution_context(first)
    session.finalize_execution_context(second)
    # A context that is late, or mistaken, gives back no more than it has.
    contexts[0].reserve(-6)
    with pytest.raises(RuntimeFailure, match="above its limit"):
        load(session, b"1234567")
    load(session, b"123456")


def test_a_context_reserves_memory_while_it_is_made():
    session = open_session(Recorder(), host_memory=10)
    config = {"reserves": 8}
    graph = session.load([memoryview(b"m")], "recorder", ExecutionTarget.CPU, config)
    context = session.init_execution_context(graph)
    assert session.ledger.reserved == 9
    with pytest.raises(RuntimeFailure, match="8 more would be above its limit of 10"):
        session.init_execution_context(graph)
    session.finalize_execution_context(context)
    assert session.ledger.reserved == 1


def test_a_context_that_fails_gives_its_reservation_back():
    class Failing(RecorderGraph):
        def init_execution_context(self, reserve):
            reserve(8)
            reserve(8)

    backend = Recorder()
    backend.load = lambda builders, options: Failing(backend)
    session = open_session(backend, host_memory=10)
    graph = load(session)
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match=r"holds 9 bytes .* 8 more would be above"):
            session.init_execution_context(graph)
        assert session.ledger.reserved == 1


def test_a_graph_has_any_attributes_beside_those_of_the_contract():
    class Weighing(RecorderGraph):
        @property
        def weights(self):
            return [1.0, 2.0]

        @property
        def shared_memory(self):
            return object()

        @shared_memory.setter
        def shared_memory(self, memory): ...

    backend = Recorder()
    backend.load = lambda builders, options: Weighing(backend)
    session = open_session(backend, host_memory=1)
    graph = load(session)
    context = session.init_execution_context(graph)
    session.unload(graph)
    assert session.ledger.reserved == 1
    session.finalize_execution_context(context)
    assert session.ledger.reserved == 0


def test_limits_on_handles():
    session = open_session(Recorder(), graphs=2, contexts=1)
    load(session)
    load(session)
    with pytest.raises(RuntimeFailure, match="2 graphs, the most"):
        load(session)
    session.unload(0)
    load(session)
    session.init_execution_context(1)
    with pytest.raises(RuntimeFailure, match="1 execution contexts"):
        session.init_execution_context(1)


def test_a_missing_library_is_an_encoding_that_is_not_served():
    with pytest.raises(InvalidEncoding, match="pip install"):
        load(open_session(Recorder()), b"missing")


def test_every_session_error_can_be_told_to_a_guest():
    session = open_session(Recorder())
    with pytest.raises(NnError):
        session.load([], "autodetect", ExecutionTarget.CPU)
    with pytest.raises(InvalidEncoding):
        session.load([memoryview(b"?")], "autodetect", ExecutionTarget.CPU)


def test_many_unknown_keys_are_not_all_looked_at(caplog):
    """Likenesses cost a millisecond each."""
    looked = []

    class Key(str):
        def __getitem__(self, part):
            looked.append(self)
            return str(self)[part]

    config = {Key(f"othe{number:05}"): 1 for number in range(5000)}
    assert known_config(Recorder(), config) == {}
    assert len(set(looked)) == 8
    assert "othe00007 and 4992 more; it knows: other" in caplog.text
    known_config(Recorder(), {"x" * 100_000: 1, "\ud800": 1})
    assert caplog.text.encode()
    assert len(caplog.text) < 2000


@pytest.fixture
def system(tmp_path):
    """Writes a system's files."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


class TestMemoryOfControlGroups:
    STAT = "anon 5\ninactive_file 100\nactive_file 50\n"

    def test_the_tightest_group_counts(self, system):
        group = "sys/fs/cgroup/a/b"
        root = system(**{
            "proc/self/cgroup": "0::/a/b\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "300\n",
            f"{group}/memory.stat": self.STAT,
            "sys/fs/cgroup/a/memory.max": "1000\n",
            "sys/fs/cgroup/a/memory.current": "400\n",
            "sys/fs/cgroup/a/memory.stat": self.STAT,
        })  # fmt: skip
        # What the system caches of files can be had.
        assert memory.group_memory(root) == (1000, 750)
        system(**{f"{group}/memory.max": "500\n"})
        assert memory.group_memory(root) == (500, 350)
        system(**{f"{group}/memory.current": "5000\n"})
        assert memory.group_memory(root) == (500, 0)

    def test_control_groups_of_version_1_are_read(self, system):
        group = "sys/fs/cgroup/memory"
        root = system(**{
            "proc/self/cgroup": "9:name=systemd:/x\n4:cpu,memory:/host/path\n0::/\n",
            f"{group}/memory.limit_in_bytes": "2000\n",
            f"{group}/memory.usage_in_bytes": "1000\n",
            f"{group}/memory.stat": "total_inactive_file 100\ntotal_active_file 0\n",
        })  # fmt: skip
        assert memory.group_memory(root) == (2000, 1100)
        system(**{f"{group}/memory.limit_in_bytes": "9223372036854771712\n"})
        assert memory.group_memory(root) is None

    @pytest.mark.parametrize("text", ["", "0::/\n", "4:memory:/x\n"])
    def test_groups_without_a_limit_give_none(self, system, text):
        assert memory.group_memory(system(**{"proc/self/cgroup": text})) is None

    def test_a_system_without_control_groups_gives_none(self, tmp_path):
        assert memory.group_memory(tmp_path) is None

    def test_the_default_of_host_memory_is_at_most_the_groups(self, monkeypatch):
        assert Limits().host_memory_bytes() >= 1
        monkeypatch.setattr(memory, "group_memory", lambda: memory.GroupMemory(1000, 10))
        assert limits._default_host_memory.__wrapped__() == 1000


def test_a_cancelled_context_of_a_model_can_only_be_closed():
    backend = Recorder()
    session = open_session(backend)
    with Context(session.graphs[load(session)], Limits(), Schedule()) as context:
        context.set_input(0, ONE)
        context.cancel()
        for operation in (lambda: context.set_input(0, ONE), context.compute):
            with pytest.raises(RuntimeFailure, match="being stopped"):
                operation()
    assert backend.events[-1] == "context closed"
