"""Named models: registered once, loaded once, freed when nobody needs them."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

from wasi_nn import ExecutionTarget, Host, Policy, UsageError
from wasi_nn._models.registry import NamedModel
from wasi_nn.backend import Backend, Graph
from wasi_nn.errors import InvalidArgument, ModelNotFound, NotFound, RuntimeFailure
from wasi_nn.hookspecs import hookimpl
from wasi_nn.plugins import Plugins
from wasi_nn_conformance.engine_tests.common import together


class Counting(Backend):
    """Counts loads, slowly, and fails on a file that says so."""

    name = "counting"
    encodings = ("counting",)
    config_keys = frozenset({"a", "b", "folder"})
    host_only_keys = frozenset({"folder"})
    loads: list[dict]
    closed = now = most = 0

    def __init__(self) -> None:
        self.loads = []

    def load(self, builders, options):
        assert all(isinstance(builder, Path) for builder in builders), "files stay paths"
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)
        self.now -= 1
        self.loads.append(dict(options.config))
        if builders[0].read_bytes() == b"bad":
            raise ValueError("this file is bad")
        return CountingGraph(self)

    @hookimpl
    def wasi_nn_backends(self):
        return [self]


class CountingGraph(Graph):
    def __init__(self, backend):
        self.backend = backend

    def init_execution_context(self, reserve):
        raise NotImplementedError

    def close(self):
        self.backend.closed += 1


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def host(counting):
    plugins = Plugins()
    plugins.register(counting, "counting")
    with Host(plugins=plugins) as made:
        yield made


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"good")
    return path


def test_nothing_is_loaded_before_it_is_used(host, counting, file):
    host.add_model("m", file, encoding="counting")
    assert counting.loads == []
    host.model("m")
    host.model("m")
    assert len(counting.loads) == 1


def test_concurrent_first_uses_load_once(host, counting, file):
    for name in "abcd":
        host.add_model(name, file, encoding="counting")
    found = []
    together([lambda n=name: found.append(host.registry.graph(n)) for name in "abcd" * 4])
    assert len(counting.loads) == 1, "four names of one file in sixteen threads"
    assert len({id(graph) for graph in found}) == 1


def test_two_hosts_share_a_loaded_model(counting, file):
    plugins = Plugins()
    plugins.register(counting, "counting")
    with Host(plugins=plugins) as first, Host(plugins=plugins) as second:
        for host in (first, second):
            host.add_model("m", file, encoding="counting")
        assert first.registry.graph("m") is second.registry.graph("m")
    assert len(counting.loads) == 1


def test_a_model_is_freed_with_its_last_holder(host, counting, file):
    host.add_model("m", file, encoding="counting")
    model = host.model("m")
    host.close()
    gc.collect()
    assert counting.closed == 0
    del model
    gc.collect()
    assert counting.closed == 1


def test_another_config_is_another_graph(host, counting, file):
    host.add_model("m", file, encoding="counting", config={"a": 1, "b": 1})
    plain = host.registry.graph("m")
    other = host.registry.graph("m", {"b": 2})
    again = host.registry.graph("m", {"b": 2})
    assert plain is not other
    assert other is again
    assert counting.loads == [{"a": 1, "b": 1}, {"a": 1, "b": 2}]
    del other, again
    gc.collect()
    assert counting.closed == 1, "a guest's own config is not kept for the next guest"


def test_unknown_keys_of_a_config_make_no_other_graph(host, counting, file, caplog):
    host.add_model("m", file, encoding="counting")
    graphs = [host.registry.graph("m", {"zz": number}) for number in range(3)]
    assert len({id(graph) for graph in graphs}) == 1
    assert "does not know the config's zz; it knows: a, b" in caplog.text


def test_a_guest_may_not_set_host_only_keys(host, counting, file):
    """A guest names no folder of the host."""
    host.add_model("net", file, encoding="counting", config={"folder": "/tmp"})
    with host.open_session(policy=Policy(own_models=True, loosen=True)) as session:
        for refused in (
            lambda: session.load_by_name("net", {"a": 1, "folder": "/etc"}),
            lambda: session.load([memoryview(b"")], "counting", ExecutionTarget.CPU, {"folder": 1}),
        ):
            with pytest.raises(InvalidArgument, match="may not set folder: give it with the model"):
                refused()
        session.load_by_name("net", {"a": 1})
    assert counting.loads == [{"a": 1, "folder": "/tmp"}]


def test_a_config_that_is_not_json_is_refused(host, file):
    host.add_model("m", file, encoding="counting", config={"a": {1}})
    with pytest.raises(InvalidArgument, match="JSON's types"):
        host.model("m")


def test_a_failed_first_load_lets_one_waiter_at_a_time_try(host, counting, file):
    file.write_bytes(b"bad")
    host.add_model("m", file, encoding="counting")
    errors = []

    def work():
        try:
            host.model("m")
        except RuntimeFailure as error:
            errors.append(error)

    together([work] * 5)
    assert (len(errors), len(counting.loads), counting.most) == (5, 5, 1)


def test_a_changed_file_is_another_model(host, counting, file, tmp_path):
    first = host.load(file, encoding="counting")
    file.write_bytes(b"longer")
    second = host.load(file, encoding="counting")
    assert len(counting.loads) == 2
    del first, second


def test_a_failed_load_is_tried_again(host, counting, file):
    file.write_bytes(b"bad")
    host.add_model("m", file, encoding="counting")
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="this file is bad"):
            host.model("m")
    assert len(counting.loads) == 2


def test_a_file_that_vanished_is_model_not_found(host, file):
    host.add_model("m", file, encoding="counting")
    file.unlink()
    with pytest.raises(ModelNotFound, match="No such file"):
        host.model("m")


def test_models_are_listed_replaced_and_removed(host, file):
    host.add_model("m", file, encoding="counting")
    host.add_model("a", file, encoding="counting")
    assert host.models == ("a", "m")
    assert repr(host) == "<Host with the models a, m>"
    other = file.with_name("other")
    other.write_bytes(b"another")
    before = host.model("m")
    host.add_model("m", other, encoding="counting", replace=True)
    assert host.model("m").backend == before.backend
    host.remove_model("a")
    assert host.models == ("m",)
    for call in (host.remove_model, host.model):
        with pytest.raises(NotFound, match="no model is registered as 'a'; registered: m"):
            call("a")


def test_an_encoding_that_nobody_serves_is_told_before_its_files(host, file, caplog):
    """WasmEdge's Burn backend takes the name of an architecture behind the file."""
    model = NamedModel("demo", (file, Path("squeezenet1")), "burn", must_exist=False)
    with pytest.raises(UsageError, match="model 'demo': no backend serves burn"):
        host.registry.add(model)
    assert caplog.text == ""


def test_mistakes_are_usage_errors_at_registration(host, file):
    host.add_model("m", file, encoding="counting")
    with pytest.raises(UsageError, match=r"given twice .*replace=True"):
        host.add_model("m", file, encoding="counting")
    with pytest.raises(UsageError, match="no file"):
        host.add_model("n", file.with_name("other"))
    with pytest.raises(UsageError, match="has no file"):
        host.add_model("n")
    with pytest.raises(UsageError, match="non-empty"):
        host.add_model("", file)
    with pytest.raises(UsageError, match="no backend serves onnx"):
        host.add_model("n", file, encoding="onnx")
    with pytest.raises(UsageError, match="not recognised"):
        host.add_model("n", file)
    with pytest.raises(UsageError, match="execution target 'gpus'"):
        host.add_model("n", file, encoding="counting", target="gpus")
    with pytest.raises(NotFound, match="registered: m"):
        host.model("n")
