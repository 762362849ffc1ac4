"""Models in worker processes, driven as a guest drives them."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn import Host, Limits, Policy
from wasi_nn._session import failures
from wasi_nn.errors import InvalidArgument, NotAllowed, QuotaExceeded, RuntimeFailure
from wasi_nn.types import ExecutionTarget, Tensor

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

GRAPHS = Path(__file__).parents[2] / "conformance/graphs"
OWN = Policy(own_models=True)
ADD = memoryview((GRAPHS / "onnx/add.onnx").read_bytes())


def load(session, model=ADD, encoding="onnx"):
    return session.load([model], encoding, ExecutionTarget.CPU)


def four(*numbers: float) -> Tensor:
    import numpy as np

    return Tensor.of(np.array([numbers], np.float32))


def worker_of(session, graph=0):
    return session.graphs[graph].worker


def new_host(**rights) -> Host:
    return Host(policy=Policy(own_models=True, **rights))


@pytest.fixture
def session():
    with new_host() as host, host.open_session() as session:
        yield session


def large_model(dims, unary="Relu") -> bytes:
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    graph = helper.make_graph([helper.make_node(unary, ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def test_a_guests_own_model_runs_in_another_process(session):
    load(session)
    assert worker_of(session).process != os.getpid()
    context = session.contexts[session.init_execution_context(0)]
    for _ in range(3):
        context.set_input(0, four(1, 2, 3, 4))
        context.set_input("y", four(10, 20, 30, 40))
        context.compute()
        assert context.get_output(0).numpy().tolist() == [[11, 22, 33, 44]]


def test_a_new_input_of_the_same_look_reaches_the_next_computation(session):
    load(session)
    context = session.contexts[session.init_execution_context(0)]
    context.set_input(0, four(1, 1, 1, 1))
    context.set_input(1, four(0, 0, 0, 0))
    for number in range(5):
        context.set_input(0, four(*[number] * 4))
        context.compute()
        assert context.get_output(0).numpy().tolist() == [[number] * 4]


def test_large_tensors_go_through_shared_memory(session):
    import numpy as np

    load(session, memoryview(large_model(["n", 1000])))
    context = session.contexts[session.init_execution_context(0)]
    for rows in (20, 20, 50, 20, 1):
        given = np.random.default_rng(rows).standard_normal((rows, 1000)).astype(np.float32)
        for _ in range(2):
            given = given + 1
            context.set_input(0, Tensor.of(given))
            context.compute()
            assert np.array_equal(context.get_output(0).numpy(), np.maximum(given, 0))


def test_a_refused_tensor_leaves_the_earlier_one_set(session):
    import numpy as np

    load(session, memoryview(large_model(["n", 1000])))
    context = session.contexts[session.init_execution_context(0)]
    given = np.ones((20, 1000), np.float32)
    context.set_input(0, Tensor.of(given))
    with pytest.raises(InvalidArgument):
        context.set_input(0, Tensor.of(np.zeros((20, 999), np.float32)))
    with pytest.raises(InvalidArgument):
        context.set_input(0, Tensor.of(np.zeros((20, 1000), np.float64)))
    context.compute()
    assert np.array_equal(context.get_output(0).numpy(), given)


def test_contexts_of_a_graph_compute_in_one_worker_side_by_side(session):
    load(session)
    handles = [session.init_execution_context(0) for _ in range(4)]
    failed = []

    def work(handle: int) -> None:
        context = session.contexts[handle]
        for number in range(100):
            context.set_input(0, four(*[number] * 4))
            context.set_input(1, four(*[handle] * 4))
            context.compute()
            if context.get_output(0).numpy().tolist() != [[number + handle] * 4]:
                failed.append((handle, number))

    threads = [threading.Thread(target=work, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_worker_that_dies_costs_its_own_graph(session, caplog):
    load(session)
    context = session.contexts[session.init_execution_context(0)]
    os.kill(worker_of(session).process, signal.SIGSEGV)
    assert ended(worker_of(session).process)
    with pytest.raises(RuntimeFailure, match=r"worker of backend onnx .* has ended: SIGSEGV"):
        context.set_input(0, four(1, 2, 3, 4))
    assert "has ended: SIGSEGV" in caplog.text
    with pytest.raises(RuntimeFailure, match="has ended"):
        session.init_execution_context(0)
    again = load(session)
    assert worker_of(session, again).process != worker_of(session).process
    session.init_execution_context(again)


def test_a_model_with_an_impossible_dimension_is_refused_and_its_worker_lives(session):
    needs("ai_edge_litert")
    from authoring.flatbuffer import FlatModel

    model = FlatModel()
    x, y = (model.tensor(name, (1, 4), signature=(-1000, 4)) for name in "xy")
    model.operator("ADD", [x, x], [y])
    with pytest.raises(RuntimeFailure, match="a tensor that cannot be"):
        load(session, memoryview(model.finish([x], [y])), "tensorflowlite")
    model = FlatModel()
    x, y = (model.tensor(name, (1, 4), signature=(-1, 4)) for name in "xy")
    model.operator("ADD", [x, x], [y])
    load(session, memoryview(model.finish([x], [y])), "tensorflowlite")


def test_what_a_dead_worker_counted_is_read_without_a_failure(session, caplog):
    context = session.contexts[session.init_execution_context(load(session))]
    with pytest.raises(InvalidArgument):  # No input is set: the host must ask what was counted.
        context.compute()
    os.kill(worker_of(session).process, signal.SIGKILL)
    assert context.generation() is None
    assert "failed to count" not in caplog.text


def test_two_guests_have_two_workers_and_loads_of_one_guest_share_one():
    with new_host() as host, host.open_session() as one, host.open_session() as other:
        load(one)
        load(one)
        load(other)
        assert worker_of(one, 0) is worker_of(one, 1)
        assert worker_of(one).process != worker_of(other).process


def test_a_worker_ends_with_its_guest():
    with new_host() as host:
        with host.open_session() as session:
            load(session)
            process = worker_of(session).process
        assert ended(process)


def test_an_abandoned_session_ends_its_worker():
    with new_host() as host:
        session = host.open_session()
        load(session)
        process = worker_of(session).process
        del session
        gc.collect()
        assert ended(process)


def ended(process: int) -> bool:
    """Whether a process has ended within five seconds."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_a_cancelled_guest_ends_its_worker(session):
    load(session)
    process = worker_of(session).process
    session.init_execution_context(0)
    session.cancel()
    assert ended(process)


@pytest.mark.parametrize("isolation", ["none", "shared", "guest", None])
def test_the_operator_chooses_where_a_named_model_runs(isolation):
    with new_host() as host:
        host.add_model("add", GRAPHS / "onnx/add.onnx", isolation=isolation)
        with host.open_session() as one, host.open_session() as other:
            for session in (one, other):
                session.load_by_name("add")
                context = session.contexts[session.init_execution_context(0)]
                context.set_input(0, four(1, 2, 3, 4))
                context.set_input(1, four(1, 1, 1, 1))
                context.compute()
                assert context.get_output(0).numpy().tolist() == [[2, 3, 4, 5]]
            found = worker_of(one), worker_of(other)
            if isolation in ("none", None):
                assert found == (None, None)
            else:
                assert None not in found
                assert (found[0] is found[1]) == (isolation == "shared")


def test_a_named_model_whose_worker_ended_is_loaded_again():
    with new_host() as host:
        host.add_model("add", GRAPHS / "onnx/add.onnx", isolation="shared")
        with host.open_session() as session:
            session.load_by_name("add")
            first = worker_of(session).process
            os.kill(first, signal.SIGKILL)
            assert ended(first)
            session.init_execution_context(0)
            assert worker_of(session).process != first
            session.init_execution_context(session.load_by_name("add"))


def test_own_models_run_in_the_hosts_process_if_the_operator_says_so():
    with new_host(isolation="none") as host, host.open_session() as session:
        load(session)
        assert worker_of(session) is None


def test_models_that_are_programs_need_a_sandbox():
    needs("torch")
    model = memoryview((GRAPHS / "pytorch/add.pt").read_bytes())
    with (
        new_host(isolation="none") as host,
        host.open_session() as session,
        pytest.raises(NotAllowed, match="policy unsandboxed-programs"),
    ):
        load(session, model, "pytorch")
    rights = {"isolation": "none", "unsandboxed_programs": True}
    with new_host(**rights) as host, host.open_session() as session:
        load(session, model, "pytorch")


def test_python_can_load_a_model_in_a_worker():
    import numpy as np

    with Host() as host:
        for source in (GRAPHS / "onnx/add.onnx", bytes(ADD)):
            model = host.load(source, isolation="guest")
            assert model._loaded.worker.process != os.getpid()
            one = np.ones((1, 4), np.float32)
            assert model.run({"x": one, "y": one})["z"].tolist() == [[2, 2, 2, 2]]


@pytest.mark.parametrize("isolation", ["shared", "guest"])
def test_the_worker_of_a_named_model_on_another_device_is_not_confined(monkeypatch, isolation):
    """No such device is here: what is tested is that the worker could open one."""
    from wasi_nn._models import isolation as isolations

    monkeypatch.setattr(isolations, "_DEVICES", ("null",))
    with new_host() as host:
        for name, target in (("cpu", "cpu"), ("auto", "auto")):
            path = GRAPHS / "onnx/add.onnx"
            host.add_model(name, path, target=target, isolation=isolation)
        with host.open_session() as session:
            filtered = {}
            for name in ("cpu", "auto"):
                graph = session.load_by_name(name)
                status = Path(f"/proc/{worker_of(session, graph).process}/status").read_text()
                filtered[name] = "Seccomp:\t2" in status
            # A guest's own model has no other device.
            graph = session.load([ADD], "onnx", ExecutionTarget.AUTO)
            status = Path(f"/proc/{worker_of(session, graph).process}/status").read_text()
    assert filtered == {"cpu": True, "auto": False}
    assert "Seccomp:\t2" in status


def test_a_computation_that_is_ended_in_the_library_leaves_the_guests_other_graphs():
    with new_host(limits=Limits(compute_timeout=0.5)) as host, host.open_session() as session:
        endless = session.load([memoryview(endless_model())], "onnx", ExecutionTarget.CPU)
        other = load(session)
        context = session.contexts[session.init_execution_context(endless)]
        context.set_input(0, four(1, 1, 1, 1))
        with pytest.raises(QuotaExceeded, match="compute-timeout"):
            context.compute()
        context = session.contexts[session.init_execution_context(other)]
        for key in (0, 1):
            context.set_input(key, four(1, 2, 3, 4))
        context.compute()
        assert context.get_output(0).numpy().tolist() == [[2, 4, 6, 8]]


def endless_model() -> bytes:
    """An ONNX Loop that adds its input to itself 2^62 times."""
    from onnx import TensorProto, helper

    floats, dims = TensorProto.FLOAT, [1, 4]
    body = helper.make_graph(
        [
            helper.make_node("Add", ["before", "x"], ["after"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", floats, dims),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", floats, dims),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["count", "", "x"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("x", floats, dims)],
        [helper.make_tensor_value_info("y", floats, dims)],
        [helper.make_tensor("count", TensorProto.INT64, [], [1 << 62])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def test_the_guests_of_a_host_have_so_many_workers_together_and_no_more():
    with new_host(limits=Limits(workers=2)) as host, new_host() as neighbour:
        first, second, third = (host.open_session() for _ in range(3))
        load(first)
        load(second)
        load(first)
        with pytest.raises(QuotaExceeded, match="have 2 workers") as refused:
            load(third)
        assert refused.value.rule == "workers"
        # A guest's worker that has ended is replaced.
        worker_of(first).kill()
        while not worker_of(first).lost:
            time.sleep(0.01)
        load(first)
        second.close()
        load(third)
        with neighbour.open_session() as other:
            load(other)
        first.close()
        third.close()


def test_a_worker_that_does_not_start_is_not_counted(monkeypatch):
    from wasi_nn._worker import process

    def fails(*_):
        raise RuntimeFailure("no worker can start")

    with new_host(limits=Limits(workers=1)) as host, host.open_session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(process, "prepared", fails)
            with pytest.raises(RuntimeFailure, match="no worker can start"):
                load(session)
        load(session)


def test_an_abandoned_session_is_not_counted():
    with new_host(limits=Limits(workers=1)) as host:
        load(host.open_session())
        gc.collect()
        with host.open_session() as session:
            load(session)


def test_a_guest_waits_when_models_have_failed_and_its_neighbours_do_not(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

        def takes(self, work) -> float:
            before = self.now
            with suppress(RuntimeFailure, InvalidArgument):
                work()
            return self.now - before

    clock = Clock()
    monkeypatch.setattr(failures, "time", clock)
    monkeypatch.setattr(failures, "AT_ONCE", 3)
    monkeypatch.setattr(failures, "PER_SECOND", 4)
    broken = memoryview(bytes(ADD[:-1]))

    def end_worker(session) -> None:
        graph = load(session)
        context = session.contexts[session.init_execution_context(graph)]
        context.set_input(0, four(1, 2, 3, 4))
        os.kill(worker_of(session, graph).process, signal.SIGKILL)
        context.compute()

    with new_host() as host, host.open_session() as session:
        fails = [lambda: load(session, broken), lambda: end_worker(session)] * 2
        waited = [clock.takes(work) for work in fails]
        with host.open_session() as other:
            assert clock.takes(lambda: load(other)) == 0
            waited.append(clock.takes(lambda: load(other, broken)))
        session.cancel()
        assert waited == pytest.approx([0, 0, 0, 0.25, 0.25])
        assert clock.takes(lambda: host._workers.failures.wait(lambda: True)) == 0
        clock.now += 10
        assert clock.takes(lambda: host._workers.failures.wait(lambda: False)) == 0


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the system has no such policy")
def test_models_that_a_guest_brings_stand_back_behind_the_operators():
    host = new_host()
    host.add_model("named", GRAPHS / "onnx/add.onnx", isolation="guest")

    def standing(worker) -> tuple[int, int]:
        return os.getpriority(os.PRIO_PROCESS, worker.process), os.sched_getscheduler(
            worker.process
        )

    here = os.getpriority(os.PRIO_PROCESS, 0)
    with host, host.open_session() as session:
        own, named = load(session), session.load_by_name("named")
        assert standing(worker_of(session, named)) == (here, os.SCHED_OTHER)
        assert standing(worker_of(session, own)) == (min(here + 5, 19), os.SCHED_BATCH)
