"""A state machine over the core ABI, on real engines, and the tables of calls."""

from __future__ import annotations

import pytest
from conftest import needs
from fuzz import chance
from fuzz.calls import vocabulary
from fuzz.calls.driver import CONTEXT, GRAPH, VALUE, Call
from fuzz.calls.running import Finding, Table, batch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn.errors import Unavailable
from wasi_nn.plugins import Plugins

ENGINES = ["wasmtime", "v8", "wasmer", "wamr", "wasmedge"]
_DEAD = 1 << 16
_OUT, _BUFFER, _SIZE_AT = 64, 3 << 16, 72


@pytest.fixture(scope="module")
def tables():
    needs("wasmtime")
    needs("onnxruntime")
    made = {}
    plugins = Plugins.installed()

    def table(engine: str) -> Table:
        if engine not in made:
            try:
                made[engine] = Table(engine, plugins)
            except Unavailable as reason:
                pytest.skip(str(reason))
        return made[engine]

    yield table
    for one in made.values():
        one.close()


class Machine(RuleBasedStateMachine):
    """A guest, and what it must be told, with garbage between.

    The garbage names no handle that lives, so it changes nothing of what the machine expects."""

    table: Table

    @initialize(dialect=st.sampled_from(sorted(DIALECTS)))
    def begin(self, dialect):
        self.opened = self.table.guest(DIALECTS[dialect])
        self.driver, self.functions, self.image = self.opened.__enter__()
        self.legacy = self.image.legacy
        #: Live graphs, and live contexts with their graph and the calls that succeeded.
        self.graphs: list[int] = []
        self.contexts: dict[int, tuple[int, set[str]]] = {}
        #: Graphs that came of garbage.
        self.others: set[int] = set()

    def teardown(self):
        if hasattr(self, "opened"):
            self.opened.__exit__(None, None, None)

    def make(self, function, *values):
        # Garbage may have overwritten the memory.
        self.driver.write(1024, bytes(self.image.bytes))
        return self.driver.make(Call(function, values))

    def some(self, items, data):
        return data.draw(st.sampled_from(sorted(items)))

    @rule(name=st.sampled_from(range(len(vocabulary.NAMES))))
    def load_by_name(self, name):
        before = self.driver.number("graph")
        errno = self.make("load_by_name", *self.image.names[name], _OUT)
        full = len(self.graphs) + len(self.others) >= self.table.host.limits.graphs
        known = vocabulary.NAMES[name] in (b"echo", b"net", b"stream", b"text")
        assert (errno == 0) == (known and not full)
        if not errno:
            handle = self.driver.number("graph")
            assert handle == before + 1
            self.graphs.append(handle)

    @precondition(lambda self: self.graphs)
    @rule(data=st.data())
    def init_execution_context(self, data):
        graph = self.some(self.graphs, data)
        errno = self.make("init_execution_context", graph, _OUT)
        assert (errno == 0) == (len(self.contexts) < self.table.host.limits.contexts)
        if not errno:
            self.contexts[self.driver.number("context")] = graph, set()

    @precondition(lambda self: self.contexts)
    @rule(data=st.data())
    def set_input(self, data):
        context = self.some(self.contexts, data)
        graph, done = self.contexts[context]
        errno = self.make("set_input", context, 0, self.image.row)
        assert (errno == 0) == (graph in self.graphs)
        if not errno:
            done.add("set_input")

    @precondition(lambda self: self.contexts)
    @rule(data=st.data())
    def compute(self, data):
        context = self.some(self.contexts, data)
        graph, done = self.contexts[context]
        errno = self.make("compute", context)
        assert (errno == 0) == (graph in self.graphs and "set_input" in done)
        if not errno:
            done.add("compute")

    @precondition(lambda self: self.contexts)
    @rule(data=st.data())
    def get_output(self, data):
        context = self.some(self.contexts, data)
        if self.legacy:
            self.driver.write(_SIZE_AT, (16).to_bytes(4, "little"))
            errno = self.make("get_output", context, 0, _BUFFER, _SIZE_AT)
        else:
            errno = self.make("get_output", context, 0, _BUFFER, 64, _OUT)
        assert (errno == 0) == ("compute" in self.contexts[context][1])

    @precondition(lambda self: self.graphs and not self.legacy)
    @rule(data=st.data())
    def unload(self, data):
        graph = self.some(self.graphs, data)
        assert self.make("unload", graph) == 0
        self.graphs.remove(graph)
        assert self.make("unload", graph) != 0

    @precondition(lambda self: self.contexts and not self.legacy)
    @rule(data=st.data())
    def finalize_execution_context(self, data):
        context = self.some(self.contexts, data)
        assert self.make("finalize_execution_context", context) == 0
        del self.contexts[context]
        assert self.make("compute", context) != 0

    @rule(seed=st.integers(0, 1 << 30), name=st.sampled_from(["load", "set_input", "get_output"]))
    def garbage(self, seed, name):
        choices = chance.of(seed)
        made = vocabulary.sensible(name, self.image, choices)
        at = choices.randrange(len(made.values))
        values = [
            _DEAD | value if kind in (GRAPH, CONTEXT) else value
            for value, kind in zip(made.values, made.kinds, strict=True)
        ]
        values[at] = vocabulary.garbage(choices)
        if made.kinds[at] != VALUE:
            values[at] |= _DEAD
        self.make(name, *values)
        # It may have been a sound model in spite of it.
        graph = self.driver.number("graph")
        if graph >= 0 and graph not in self.graphs and name == "load":
            self.others.add(graph)

    @invariant()
    def errnos_are_known_and_handles_new(self):
        if hasattr(self, "driver"):
            assert self.driver.number("unknown") == 0
            assert self.driver.number("reused") == 0

    @invariant()
    def the_witness_computes_the_same(self):
        self.table.check_witness()


@pytest.mark.fuzz
@pytest.mark.parametrize("engine", ENGINES)
def test_every_sequence_of_calls_gives_what_the_specification_says(tables, engine):
    class OnEngine(Machine):
        table = tables(engine)

    run_state_machine_as_test(
        OnEngine,
        settings=settings(
            max_examples=40 if engine == "wasmtime" else 8,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_table_of_calls_gives_known_errnos_and_new_handles(tables, engine):
    opened = 0
    for number, dialect in enumerate((DIALECTS["wasmedge"], DIALECTS["wamr-legacy"])):
        _, more = batch(tables(engine), dialect, chance.of("test", number), 400)
        opened += more
    assert opened > 10


def test_an_errno_that_the_dialect_does_not_have_is_noticed(tables):
    with tables("wasmtime").guest(DIALECTS["witx"]) as (driver, _, image):
        driver.write(1024, bytes(image.bytes))
        driver.make(Call("compute", (7,)))
        assert driver.number("unknown") == 0
        driver._known = 1
        driver.make(Call("compute", (7,)))
        assert driver.number("unknown") == 1


def test_a_handle_that_is_given_again_is_noticed(tables):
    with tables("wasmtime").guest(DIALECTS["witx"]) as (driver, _, image):
        echo = Call("load_by_name", (*image.names[0], _OUT))
        assert driver.make(echo, echo) == 0
        assert driver.number("reused") == 0
        driver.guest._session.graphs._next = 1
        assert driver.make(echo) == 0
        assert driver.number("reused") == 1


def test_another_result_of_the_witness_is_noticed(tables, monkeypatch):
    table = tables("wasmtime")
    table.check_witness()
    monkeypatch.setattr(table, "expected", bytes(12))
    with pytest.raises(Finding, match="the witness computed"):
        table.check_witness()
