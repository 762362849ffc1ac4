"""What a host counts of its runs and its models."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import threading
from pathlib import Path

import pytest
from conftest import CAT, needs, run_python

from wasi_nn import Host, Limits, Policy
from wasi_nn._cli.stats import figures
from wasi_nn.errors import LinkError, RuntimeFailure
from wasi_nn.types import Tensor, TensorType

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"
# A bound against a hang, in seconds.
_HANG = 60
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'
MISSING = '(module (import "env" "missing" (func)) (func (export "_start")))'


@pytest.fixture(scope="module")
def parrot():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "plugins")
        yield importlib.import_module("parrot")


def say(context, text):
    context.set_input(0, Tensor(TensorType.U8, (len(text),), memoryview(text)))
    context.compute()


class TestRuns:
    def test_they_are_counted_by_their_outcome(self, plugins, wat, guests):
        with Host(plugins=plugins, limits=Limits(fuel=1 << 40)) as host:
            cat, loop = host.compile(wat(CAT)), host.compile(wat(LOOP))
            cat.run(stdin=b"x")
            cat.run(stdin=b"y")
            cat.run()
            loop.run(timeout=0.05)
            loop.run(limits=Limits(fuel=1000))
            with pytest.raises(LinkError):
                host.run(wat(MISSING))
            host.run(guests / "echo/echo.wasm")
            with pytest.raises(KeyboardInterrupt):
                loop.run(on_start=lambda guest: os.kill(os.getpid(), signal.SIGINT))
            runs = host.statistics().runs
        assert dict(runs) == {
            **dict.fromkeys(("exit_code", "trap", "deadline", "limit", "interrupted"), 1),
            "ok": 2,
            "error": 0,
            "raised": 1,
        }

    def test_those_under_way_and_their_seconds_are_seen(self, host, wat):
        began = threading.Event()
        guests = []

        def on_start(guest):
            guests.append(guest)
            began.set()

        program = host.compile(wat(LOOP))
        thread = threading.Thread(target=lambda: program.run(on_start=on_start))
        thread.start()
        assert began.wait(_HANG)
        assert host.statistics().running == 1
        guests[0].interrupt()
        thread.join(_HANG)
        host.run(wat(CAT), stdin=b"x")
        now = host.statistics()
        assert now.running == 0
        assert now.runs["interrupted"] == 1
        assert list(now.durations) == sorted(now.durations)
        assert list(now.durations.values()) == sorted(now.durations.values())
        assert now.durations[math.inf] == 2
        assert 0 < now.run_seconds < _HANG

    FORK = """
import os, sys, threading, warnings
from wasi_nn import Host
warnings.simplefilter("ignore")
host, began, guests = Host(), threading.Event(), []
host.add_model("net", sys.argv[2])
host.model("net")

def on_start(guest):
    guests.append(guest)
    began.set()

thread = threading.Thread(target=lambda: host.run(sys.argv[1], on_start=on_start))
thread.start()
began.wait()
child = os.fork()
if not child:
    os._exit(host.statistics().running)
print(os.waitpid(child, 0)[1], host.statistics().running)
guests[0].interrupt()
thread.join()
"""

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_those_under_way_stay_in_the_parent_of_a_fork(self, wat, tmp_path):
        needs("onnxruntime")
        (tmp_path / "loop.wasm").write_bytes(wat(LOOP))
        ended = run_python(self.FORK, tmp_path / "loop.wasm", GRAPHS / "onnx/matmul.onnx")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0 1\n", "")

    def test_what_calls_and_rules_refuse_is_summed(self, plugins, guests, identity_model):
        with Host(plugins=plugins, policy=Policy(models={"echo"})) as host:
            host.add_model("echo", identity_model())
            host.add_model("other", identity_model("other"))
            for name in ("echo", "other", "other", "nothing"):
                host.run(guests / "echo/echo.wasm", [name, "text"])
            now = host.statistics()
        assert now.failed_calls == 3
        assert now.refused == {"models": 3}


class TestModels:
    def test_a_model_that_is_loaded_is_described(self, host, guests, identity_model):
        needs("onnxruntime")
        host.add_model("net", GRAPHS / "onnx/matmul.onnx")
        assert host.statistics().models == {}
        host.model("net")
        (model,) = host.statistics().models.values()
        assert model[:4] == ("onnx", "onnx", "cpu", "none")
        assert model.load_seconds > 0
        host.remove_model("net")
        assert host.statistics().models == {}

    def test_the_graphs_of_guests_configs_count_with_their_model(self, parrot, tmp_path):
        with parrot.new_host(tmp_path) as host, host.open_session() as session:
            for config in (None, {"a": 1}, {"a": 2}):
                graph = session.load_by_name("bird", config)
                context = session.contexts[session.init_execution_context(graph)]
                say(context, b"a b")
            assert host.statistics().models["bird"].counts == {"steps": 6, "sequences": 6}

    def test_graphs_that_share_their_memory_count_once(self, parrot, tmp_path, monkeypatch):
        shared = object()
        monkeypatch.setattr(parrot.ParrotGraph, "shared_memory", shared)
        monkeypatch.setattr(parrot.ParrotGraph, "statistics", lambda graph: {"steps": 1})
        with parrot.new_host(tmp_path, isolation="none") as host, host.open_session() as session:
            for config in (None, {"a": 1}):
                session.load_by_name("bird", config)
            assert host.statistics().models["bird"].counts == {"steps": 1}

    def test_the_deaths_of_workers_are_counted(self, parrot, tmp_path):
        with parrot.new_host(tmp_path, isolation="guest") as host, host.open_session() as session:
            before = host.statistics().worker_deaths.get("parrot", 0)
            context = parrot.opened(session)
            with contextlib.suppress(RuntimeFailure):
                say(context, b"abort")
            deaths = host.statistics().worker_deaths["parrot"] - before
            assert deaths >= 1
            context = parrot.opened(session)
            say(context, b"a")
            assert host.statistics().workers == 1
        assert host.statistics().workers == 0
        # A worker that its guest ends does not count.
        assert host.statistics().worker_deaths["parrot"] == before + deaths

    def test_generated_tokens_are_summed(self, host, guests):
        needs("xllamacpp")
        host.add_model("chat", GRAPHS / "ggml/tiny.gguf")
        args = ["--config", '{"n-predict": 4}', "chat"]
        for _ in range(2):
            host.run(guests / "chat/chat.wasm", args, stdin=b"once\n").check()
        done = host.statistics().generation
        assert done.texts >= 2
        assert done.tokens >= done.texts
        assert done.prompt_tokens > 0


def test_stats_show_means_and_units():
    counts = {
        "sequences": 2.0,
        "steps": 4.0,
        "step_tokens": 10.0,
        "queue_seconds": 0.0125,
        "kv_cells": 512.0,
        "kv_cells_used": 30.0,
        "prefix_hits": 1.0,
        "weight": 0.5,
    }
    assert figures(counts) == [
        ("tokens per step", "2.50"),
        ("kv cells", "30 of 512"),
        ("sequences", "2"),
        ("steps", "4"),
        ("step tokens", "10"),
        ("queue in all", "12.500 ms"),
        ("prefix hits", "1"),
        ("weight", "0.500"),
    ]
    assert figures({"rows": 0.0, "batches": 0.0})[0] == ("rows per batch", "0.00")
