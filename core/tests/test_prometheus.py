"""A host's metrics, as Prometheus reads them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CAT, needs, run_python

from wasi_nn import Host, Policy

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"


@pytest.fixture
def registry():
    return needs("prometheus_client").CollectorRegistry()


def samples(registry):
    """Numbers by name and labels, as text."""
    text = needs("prometheus_client").generate_latest(registry).decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def collected(registry, host):
    from wasi_nn.prometheus import Collector

    registry.register(Collector(host))
    return lambda: samples(registry)


def test_runs_are_counted_by_outcome_and_put_in_buckets(registry, host, wat):
    read = collected(registry, host)
    assert read()['wasi_nn_runs_total{outcome="ok"}'] == 0
    program = host.compile(wat(CAT))
    list(program.run_many([b"a", b"b", b""], jobs=2))
    found = read()
    assert found['wasi_nn_runs_total{outcome="ok"}'] == 2
    assert found['wasi_nn_runs_total{outcome="trap"}'] == 1
    assert found["wasi_nn_runs_in_progress"] == 0
    assert found["wasi_nn_run_seconds_count"] == 3
    assert found['wasi_nn_run_seconds_bucket{le="+Inf"}'] == 3
    assert found["wasi_nn_run_seconds_sum"] == host.statistics().run_seconds


def test_refusals_are_counted_by_rule(registry, plugins, guests, identity_model):
    with Host(plugins=plugins, policy=Policy(models=())) as host:
        read = collected(registry, host)
        host.add_model("echo", identity_model())
        host.run(guests / "echo/echo.wasm", ["echo", "text"])
        found = read()
    assert found["wasi_nn_failed_calls_total"] == 1
    assert found['wasi_nn_refusals_total{rule="models"}'] == 1


def test_a_model_has_its_name_and_its_backend_as_labels(registry, host, monkeypatch):
    needs("onnxruntime")
    from wasi_nn._models.loading import LoadedGraph

    read = collected(registry, host)
    counts = {"batches": 3.0, "queue_seconds": 0.25, "kv_cells_used": 7.0, "cache-hits": 5.0}
    monkeypatch.setattr(LoadedGraph, "statistics", lambda graph: counts)
    host.add_model('net "1"', GRAPHS / "onnx/matmul.onnx")
    host.model('net "1"')
    labels = r'{backend="onnx",model="net \"1\""}'
    found = read()
    assert found[f"wasi_nn_model_batches_total{labels}"] == 3
    assert found[f"wasi_nn_model_queue_seconds_total{labels}"] == 0.25
    assert found[f"wasi_nn_model_kv_cells_used{labels}"] == 7
    assert found[f"wasi_nn_model_cache_hits{labels}"] == 5
    assert found[f"wasi_nn_model_load_seconds{labels}"] > 0


def test_what_our_own_models_count_has_a_type_and_a_text(registry, host, guests, tmp_path):
    needs("onnxruntime")
    needs("xllamacpp")
    read = collected(registry, host)
    batching = {"max_batch_size": 4, "max_queue_delay_ms": 1}
    host.add_model("net", GRAPHS / "onnx/batch.onnx", config={"batching": batching})
    host.add_model("chat", GRAPHS / "ggml/tiny.gguf")
    (tmp_path / "in.raw").write_bytes(bytes(16))
    args = ["name:net", "/in/in.raw", "1,4"]
    host.run(guests / "classify/classify.wasm", args, dirs={"/in": tmp_path}).check()
    args = ["--config", '{"n-predict": 4}', "chat"]
    host.run(guests / "chat/chat.wasm", args, stdin=b"once\n").check()
    found = read()
    assert found['wasi_nn_model_requests_total{backend="onnx",model="net"}'] == 1
    assert found["wasi_nn_generation_tokens_total"] > 0
    assert [metric.name for metric in registry.collect() if metric.type == "unknown"] == []


def test_each_name_keeps_prometheus_conventions(registry, host):
    read = collected(registry, host)
    read()
    for metric in registry.collect():
        assert re.fullmatch(r"wasi_nn_[a-z_]+", metric.name)
        assert metric.documentation.endswith(".")
        for sample in metric.samples:
            assert (metric.type == "counter") == sample.name.endswith("_total")


def test_a_registry_takes_one_collector(registry, host, plugins):
    from wasi_nn.prometheus import Collector

    registry.register(Collector(host))
    with Host(plugins=plugins) as other, pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector(other))


def test_without_the_library_the_extra_is_named():
    code = """
import sys
sys.modules["prometheus_client"] = None
from wasi_nn import Host
from wasi_nn.errors import Unavailable
from wasi_nn.prometheus import Collector
try:
    Collector(Host())
except Unavailable as error:
    print(error)
"""
    said = run_python(code).stdout
    assert said == 'prometheus_client is not installed: pip install "wasi-nn[prometheus]"\n'


def test_a_host_does_not_import_it():
    code = "import sys, wasi_nn; wasi_nn.Host().statistics(); "
    code += "sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
