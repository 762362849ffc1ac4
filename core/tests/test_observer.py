"""What a host's observer is told, and what log records say of guests and requests."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
from conftest import needs, needs_engine

from wasi_nn import Host, Limits, Observer, Step, UsageError
from wasi_nn.errors import DeadlineExceeded, Unavailable
from wasi_nn_conformance.engine_tests.starts import NN

needs_engine("wasmtime")

LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'


class Told(Observer):
    """Keeps what it is told, by the steps within each other."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun: list[Step] = []
        self.ended: list[Step] = []

    def begin(self, step):
        with self.lock:
            self.begun.append(step)

    def end(self, step):
        with self.lock:
            self.ended.append(step)

    def names(self):
        return [f"{step.kind} {step.name}" for step in self.begun]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.identity"
    path.write_text("wasi-nn:identity {}\n")
    return path


def test_runs_calls_and_loads_are_told(wat, model):
    told = Told()
    with Host(observer=told) as host:
        host.add_model("net", model, isolation="none")
        host.run(wat(NN), request="r1").check()
        host.run(wat(NN), request="r2").check()
    first = told.names()[: told.names().index("run guest.wasm", 1)]
    assert first[:3] == ["run guest.wasm", "call load_by_name", "load net.identity"]
    assert first[3:] == [
        *("call init_execution_context", "call set_input", "call compute", "call get_output"),
    ]
    # The second run finds the model.
    assert sum(step.kind == "load" for step in told.begun) == 1
    run, opened, loaded = told.begun[:3]
    assert (run.parent, opened.parent, loaded.parent) == (None, run, opened)
    assert {(step.guest, step.request) for step in told.begun} == {
        ("guest.wasm", "r1"),
        ("guest.wasm", "r2"),
    }
    assert sorted(map(id, told.begun)) == sorted(map(id, told.ended))
    assert told.ended[0] is loaded
    assert all(step.error is None and step.seconds > 0 for step in told.begun)
    assert run.seconds > opened.seconds > loaded.seconds


def test_what_fails_has_its_error(wat):
    told = Told()
    with Host(observer=told) as host:
        host.run(wat(NN))
        host.run(wat(LOOP), timeout=0.2)
        with pytest.raises(UsageError):
            host.run(wat('(module (func (export "f")))'))
    by_name = {f"{step.kind} {step.name} {number}": step for number, step in enumerate(told.begun)}
    assert str(by_name["call load_by_name 1"].error.code) == "not_found"
    runs = [step.error for step in told.begun if step.kind == "run"]
    assert isinstance(runs[1], DeadlineExceeded)
    assert isinstance(runs[2], UsageError)


def test_the_calls_of_exports_and_of_models_are_told(wat, model):
    told = Told()
    with Host(observer=told) as host:
        with host.instantiate(wat('(module (func (export "f")))'), request="r3") as guest:
            guest.call("f")
        host.load(model, encoding="identity", isolation="none").run(b"abc")
    assert [(step.kind, step.name, step.guest, step.request) for step in told.ended] == [
        ("export", "f", "guest.wasm", "r3"),
        ("load", "net.identity", "", ""),
        ("call", "compute", "", ""),
    ]


def test_an_observer_that_raises_affects_no_guest(wat, model, caplog):
    class Broken(Observer):
        def begin(self, step):
            raise KeyError("lost")

    with Host(observer=Broken()) as host:
        host.add_model("net", model, isolation="none")
        assert host.run(wat(NN)).check().stdout == b"hello"
    assert "the observer's begin failed" in caplog.text
    with pytest.raises(UsageError, match="must be a wasi_nn"):
        Host(observer=print)  # type: ignore[arg-type]


def test_records_name_the_guest_and_the_request(wat, caplog):
    def run(name):
        host.run(wat(NN), request=name)

    with Host() as host:
        threads = [threading.Thread(target=run, args=(f"request {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(UsageError, match="the request is 7"):
            host.run(wat(NN), request=7)  # type: ignore[arg-type]
    logging.getLogger("wasi_nn").warning("of no guest")
    said = {(record.guest, record.request) for record in caplog.records}
    assert said == {("guest.wasm", f"request {n}") for n in range(4)} | {("", "")}


class TestSpans:
    @pytest.fixture
    def exported(self):
        sdk = needs("opentelemetry.sdk.trace")
        memory = needs("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        export = needs("opentelemetry.sdk.trace.export")
        exporter = memory.InMemorySpanExporter()
        provider = sdk.TracerProvider()
        provider.add_span_processor(export.SimpleSpanProcessor(exporter))
        return provider, exporter

    def test_a_run_is_a_span_with_its_calls_within(self, exported, wat, model):
        from wasi_nn.opentelemetry import Spans

        provider, exporter = exported
        with Host(observer=Spans(provider)) as host:
            host.add_model("net", model, isolation="none")
            with provider.get_tracer("test").start_as_current_span("request"):
                host.run(wat(NN), request="r1").check()
        spans = {span.name: span for span in exporter.get_finished_spans()}
        parents = {
            "run guest.wasm": "request",
            "call load_by_name": "run guest.wasm",
            "load net.identity": "call load_by_name",
            "call compute": "run guest.wasm",
        }
        for name, parent in parents.items():
            assert spans[name].parent.span_id == spans[parent].context.span_id
        assert dict(spans["call compute"].attributes) == {
            "wasi_nn.guest": "guest.wasm",
            "wasi_nn.request": "r1",
        }

    def test_a_failure_is_the_status_of_its_span(self, exported, wat):
        from wasi_nn.opentelemetry import Spans

        provider, exporter = exported
        with Host(observer=Spans(provider), limits=Limits(timeout=0.3)) as host:
            host.run(wat(NN))
            host.run(wat(LOOP))
        run = exporter.get_finished_spans()[-1]
        failed = [s for s in exporter.get_finished_spans() if s.name == "call load_by_name"]
        assert failed[0].attributes["error.type"] == "not_found"
        assert "no model is registered" in failed[0].status.description
        assert run.attributes["error.type"] == "DeadlineExceeded"


def test_without_the_package_it_says_what_to_install(monkeypatch):
    from wasi_nn.opentelemetry import Spans

    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(Unavailable, match=r'pip install "wasi-nn\[opentelemetry\]"'):
        Spans()
