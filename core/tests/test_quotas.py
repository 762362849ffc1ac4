"""Quotas of what a guest takes and computes, in sessions and in Python's own contexts."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from wasi_nn import ExecutionTarget, Host, Limits, Policy, Tensor, TensorType, hookimpl
from wasi_nn._session import meter
from wasi_nn._session.meter import Meter
from wasi_nn.backend import Backend, Generation, Graph, StreamingContext
from wasi_nn.errors import (
    InvalidArgument,
    NotAllowed,
    OutOfTokens,
    QuotaExceeded,
    RuntimeFailure,
    UsageError,
)
from wasi_nn.plugins import Plugins

CPU = ExecutionTarget.CPU
IDENTITY = b"wasi-nn:identity"


class Writer(Backend):
    """Writes a token in each step, and ten in each compute; an input ``wait`` computes until it is
    cancelled."""

    name = "writer"
    encodings = ("writer",)

    @hookimpl
    def wasi_nn_backends(self):
        return [self]

    def load(self, builders, options):
        return WriterGraph()


class WriterGraph(Graph):
    untyped_bytes = True

    def init_execution_context(self, reserve):
        return WriterContext()


class WriterContext(StreamingContext):
    def __init__(self):
        self.tokens, self.allowed, self.waits = 0, 1 << 30, False
        self.cancelled = threading.Event()

    def set_input(self, key, tensor):
        self.waits = bytes(tensor.data) == b"wait"

    def compute(self):
        if self.waits and self.cancelled.wait(60):
            raise RuntimeFailure("cancelled")
        for _ in range(10):
            self.compute_single()

    def compute_single(self):
        if self.allowed <= 0:
            raise OutOfTokens
        self.allowed -= 1
        self.tokens += 1

    def get_output(self, key):
        return Tensor(TensorType.U8, (self.tokens,), memoryview(bytes(self.tokens)))

    get_output_single = get_output

    def fini_single(self):
        pass

    def allow_tokens(self, most):
        self.allowed = most

    def generation(self):
        return Generation(tokens=self.tokens)

    def cancel(self):
        self.cancelled.set()


@pytest.fixture
def open_session():
    """A function that opens sessions whose guests may bring models of ``Writer``."""
    hosts = []

    def make(**limits):
        plugins = Plugins.installed()
        plugins.register(Writer(), "writer")
        hosts.append(Host(plugins=plugins, policy=Policy(own_models=True, limits=Limits(**limits))))
        return hosts[-1].open_session()

    yield make
    for host in hosts:
        host.close()


def opened(session, model=b"m", encoding="writer"):
    graph = session.load([memoryview(model)], encoding, CPU)
    return session.contexts[session.init_execution_context(graph)]


def bytes_of(size: int) -> Tensor:
    return Tensor(TensorType.U8, (size,), memoryview(bytes(size)))


def test_the_tokens_of_all_contexts_count_together(open_session):
    session = open_session(tokens=25)
    one, other = opened(session), opened(session)
    one.compute()
    for _ in range(10):
        other.compute_single()
    # Five are left: the text up to there can be read.
    with pytest.raises(QuotaExceeded, match="quota tokens: the guest has generated all"):
        one.compute()
    assert len(one.get_output(0).data) == 15
    with pytest.raises(OutOfTokens):
        other.compute_single()


def test_a_computation_that_needs_the_last_tokens_succeeds(open_session):
    context = opened(open_session(tokens=10))
    context.compute()
    assert len(context.get_output(0).data) == 10


def test_pieces_of_a_context_that_does_not_count_are_tokens(open_session):
    session = open_session(tokens=3)
    model = b'wasi-nn:identity {"stream": 1, "untyped_bytes": true}'
    context = opened(session, model, "identity")
    context.set_input(0, Tensor(TensorType.U8, (9,), memoryview(b"123456789")))
    for _ in range(3):
        context.compute_single()
    with pytest.raises(OutOfTokens):
        context.compute_single()


def test_models_that_a_guest_brings_have_a_limit_until_it_lets_go_of_them(open_session):
    session = open_session(model_bytes=10)
    first = session.load([memoryview(b"123456")], "writer", CPU)
    context = session.init_execution_context(first)
    for release in (lambda: session.unload(first), lambda: session.finalize_execution_context(0)):
        with pytest.raises(QuotaExceeded, match="quota model-bytes: the guest holds 6 bytes") as e:
            session.load([memoryview(b"12345")], "writer", CPU)
        assert e.value.rule == "model-bytes"
        release()
    assert context == 0
    session.load([memoryview(b"1234567890")], "writer", CPU)


def test_inputs_count_as_tensors_until_their_context_is_closed(open_session):
    session = open_session(tensor_bytes=100)
    context = opened(session)
    context.set_input(0, bytes_of(60))
    context.set_input(0, bytes_of(70))
    with pytest.raises(QuotaExceeded, match="quota tensor-bytes: a tensor takes 40 bytes"):
        context.set_input(1, bytes_of(40))
    session.finalize_execution_context(0)
    opened(session).set_input(0, bytes_of(100))


def test_an_output_larger_than_the_limit_on_tensors_is_refused(open_session):
    session = open_session(tensor_bytes=15)
    context = opened(session)
    context.compute()
    assert len(context.get_output(0).data) == 10
    context.compute()
    with pytest.raises(QuotaExceeded, match="quota tensor-bytes: the output takes 20 bytes"):
        context.get_output(0)
    # What another guest was given does not matter.
    context = opened(open_session())
    context.compute()
    context.compute()
    assert len(context.get_output(0).data) == 20


def test_a_computation_that_takes_too_long_ends_with_its_context(open_session):
    session = open_session(compute_timeout=0.05)
    context = opened(session)
    context.compute()
    context.set_input(0, Tensor(TensorType.U8, (4,), memoryview(b"wait")))
    with pytest.raises(QuotaExceeded, match=r"took more than 0.05 s") as caught:
        context.compute()
    assert isinstance(caught.value.__cause__, RuntimeFailure)
    for call in (context.compute, context.compute_single, lambda: context.get_output(0)):
        with pytest.raises(InvalidArgument, match=r"a computation was ended here.*compute-timeout"):
            call()
    session.finalize_execution_context(0)
    opened(session).compute()


def test_seconds_of_all_computations_count_together(open_session):
    session = open_session(compute_seconds=0.1)
    ended = threading.Event()
    session.meter.on_end = ended.set
    for _ in range(2):
        context = opened(session)
        context.set_input(0, Tensor(TensorType.U8, (4,), memoryview(b"wait")))
        with pytest.raises(QuotaExceeded, match=r"quota compute-seconds: .* 0.1 s in all"):
            context.compute()
        assert ended.is_set()


def test_the_limits_that_a_host_was_given_hold_in_python_too():
    plugins = Plugins.installed()
    plugins.register(Writer(), "writer")
    limits = Limits(compute_timeout=0.05, tokens=15, tensor_bytes=20)
    with Host(plugins=plugins, limits=limits) as host:
        model = host.load(b"m", encoding="writer")
        with model.init_execution_context() as context:
            context.compute()
            with pytest.raises(OutOfTokens):
                context.compute()
            with pytest.raises(QuotaExceeded, match="tensor-bytes"):
                context.set_input(0, bytes(30))
        with model.init_execution_context() as context:
            context.set_input(0, b"wait")
            with pytest.raises(QuotaExceeded, match="compute-timeout"):
                context.compute()


def test_the_defaults_of_limits_are_for_guests_alone(plugins):
    host = Host(plugins=plugins)
    with host, host.load(IDENTITY).init_execution_context() as context:
        ledger = context._execution._ledger
        assert ledger.tensor_room > Limits().tensor_bytes
        ledger.check(Limits().host_memory_bytes() + 1)


def test_the_thread_that_ends_computations_lives_as_long_as_it_is_needed(monkeypatch):
    # A watch of its own: that of the process may still have the meters of other tests.
    monkeypatch.setattr(meter, "_watch", meter._Watch())
    others = set(threading.enumerate())

    def threads() -> int:
        own = set(threading.enumerate()) - others
        return sum(thread.name == "wasi-nn quotas" for thread in own)

    def settles(wanted: int) -> bool:
        for _ in range(500):
            if threads() == wanted:
                return True
            time.sleep(0.01)
        return False

    meters = [Meter(Limits(compute_timeout=60)) for _ in range(3)]
    assert settles(1)
    for one in meters:
        one.close()
    assert settles(0)
    last = Meter(Limits(compute_timeout=60))
    assert settles(1)
    meter._watch.add(last)
    assert settles(1)
    last.close()
    assert settles(0)


def test_a_short_limit_is_kept_beside_a_long_one():
    patient = Meter(Limits(compute_timeout=60))
    time.sleep(0.05)
    hasty, cancelled = Meter(Limits(compute_timeout=0.02)), threading.Event()
    with pytest.raises(QuotaExceeded):
        hasty.run(lambda: cancelled.wait(60), cancelled.set)
    patient.close()
    hasty.close()


# Pins


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_model_of_another_digest_reaches_no_library(plugins, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(IDENTITY)
    wrong = digest(b"other")
    with Host(
        plugins=plugins, policy=Policy(pins={"policy": wrong, "good": digest(IDENTITY)})
    ) as h:
        h.add_model("policy", path, encoding="identity")
        h.add_model("own", path, encoding="identity", digest=wrong)
        h.add_model("good", path, encoding="identity", digest=digest(IDENTITY).upper())
        h.model("good")
        for name in ("policy", "own"):
            with pytest.raises(NotAllowed, match=f"policy pins: .*model has .*, not {wrong}"):
                h.model(name)
            with h.open_session() as session, pytest.raises(NotAllowed):
                session.load_by_name(name)


def test_a_file_that_is_replaced_is_looked_at_again(plugins, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(IDENTITY)
    with Host(plugins=plugins) as host:
        host.add_model("m", path, encoding="identity", digest=digest(IDENTITY))
        host.model("m")
        new = tmp_path / "new"
        new.write_bytes(IDENTITY + b" {}")
        os.replace(new, path)
        with pytest.raises(NotAllowed, match="policy pins"):
            host.model("m")


def test_a_runs_own_pin_is_checked_for_a_model_that_is_loaded(plugins, identity_model):
    with Host(plugins=plugins) as host:
        host.add_model("m", identity_model("m"))
        host.model("m")
        policy = Policy(pins={"m": digest(b"other")})
        with host.open_session(policy=policy) as session, pytest.raises(NotAllowed):
            session.load_by_name("m")


def test_each_file_of_a_model_has_a_digest(plugins, tmp_path):
    onnx = pytest.importorskip("onnx")
    numpy = pytest.importorskip("numpy")
    weights = onnx.numpy_helper.from_array(numpy.ones(4, numpy.float32), "w")
    x, y = (onnx.helper.make_tensor_value_info(n, 1, [4]) for n in "xy")
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [x], [y], [weights])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    files = [digest((tmp_path / name).read_bytes()) for name in ("m.onnx", "w.bin")]
    with Host(plugins=plugins) as host:
        host.add_model("one", path, digest=files[0])
        host.add_model("two", path, digest=",".join(files))
        host.add_model("swapped", path, digest=",".join(files[::-1]))
        with pytest.raises(NotAllowed, match=r"has 2 files \(m.onnx, w.bin\), and 1 are pinned"):
            host.model("one")
        with pytest.raises(NotAllowed, match=r"m.onnx has the digest"):
            host.model("swapped")
        host.model("two")


def test_a_digest_that_is_none_is_a_usage_error(plugins, identity_model):
    with Host(plugins=plugins) as host, pytest.raises(UsageError, match="64 hexadecimal digits"):
        host.add_model("m", identity_model("m"), digest="sha256:5")
