"""Workers that their models have taken over.

The models here are Python programs that a worker runs, in its sandbox. Each of them attacks the
host with what a process can send."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time

import pytest

from wasi_nn import Host, Limits, Policy
from wasi_nn._worker.messages import OK, Channel
from wasi_nn.errors import NnError, RuntimeFailure
from wasi_nn.types import ExecutionTarget, Tensor, TensorType

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="workers run on Linux: os.memfd_create is missing"
)

# A backend whose models are Python programs. A function of the model's, if it has one of that name,
# runs instead of a step of the backend.
PLUGIN = """
import json, os, struct, sys, time
from pathlib import Path
from wasi_nn.backend import Backend, ExecutionContext, Graph
from wasi_nn.types import Tensor, TensorInfo, TensorType
from wasi_nn._worker import asking, messages
from wasi_nn._worker.messages import *
from wasi_nn.hookspecs import hookimpl

F32 = TensorType.F32

def say(kind, body=b"", subject=None):
    here = asking.here
    here.channel.send(kind, here.subject if subject is None else subject, body)

def raw(data):
    asking.here.channel.socket.sendall(data)

class Context(ExecutionContext):
    def __init__(self, program):
        self.program, self.data = program, {}

    def set_input(self, key, tensor):
        self.program.get("set", lambda: None)()
        self.data[key] = bytes(tensor.data)

    def compute(self):
        self.program.get("compute", lambda: None)()

    def get_output(self, key):
        self.program.get("get", lambda: None)()
        data = memoryview(self.data[0])
        return Tensor(F32, (len(data) // 4,), data)

    def close(self):
        self.program.get("close", lambda: None)()

class Taken(Graph):
    def __init__(self, program):
        self.program = program
        self.inputs = [TensorInfo("x", F32, (-1,))]
        self.outputs = [TensorInfo("y", F32, (-1,))]

    def init_execution_context(self, reserve):
        self.program.get("open", lambda: None)()
        return Context(self.program)

class TakenBackend(Backend):
    name = "taken"
    encodings = ("taken",)

    def load(self, builders, options):
        program = dict(globals())
        model = builders[0]
        source = model.read_bytes() if isinstance(model, Path) else bytes(model)
        exec(source.decode(), program)
        program.get("load", lambda: None)()
        return Taken(program)

@hookimpl
def wasi_nn_backends():
    return [TakenBackend()]
"""
SLEEP = "time.sleep(1000)"
STEPS = ("load", "open", "set", "compute", "get")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "taken_over.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import taken_over

        yield taken_over


@pytest.fixture
def host(plugin):
    limits = Limits(host_memory=64 << 20)
    with Host(policy=Policy(own_models=True), limits=limits) as host:
        host.plugins.register(plugin, "taken")
        host.plugins.backend_for("taken").plugin = "taken_over"
        yield host


@pytest.fixture
def session(host):
    with host.open_session() as session:
        yield session


def load(session, program: str, config=None) -> int:
    model = memoryview(program.encode())
    return session.load([model], "taken", ExecutionTarget.CPU, config)


def tensor(size: int = 4) -> Tensor:
    return Tensor(TensorType.F32, (size,), memoryview(bytes(4 * size)))


def go(session, program: str) -> Tensor:
    """Every step of an inference."""
    context = session.contexts[session.init_execution_context(load(session, program))]
    context.set_input(0, tensor())
    context.compute()
    return context.get_output(0)


def at(step: str, *lines: str) -> str:
    return f"def {step}():\n    " + "\n    ".join(lines)


def test_an_honest_model_works_here(session):
    assert go(session, "").data.nbytes == 16


NONSENSE = {
    "random bytes": "raw(bytes(range(256)) * 9)",
    "half a message": "raw(b'\\x20\\0\\0'); os._exit(0)",
    "a message without an end": "raw(struct.pack('<BII', 32, 0, 0xffffffff))",
    "an unknown kind": "say(99)",
    "an empty answer": "say(OK)",
    "an answer about something else": "say(OK, b'{}', 77)",
    "an answer that is not JSON": "say(OK, b'\\0\\xff')",
    "deep JSON": "say(OK, b'[' * 100000)",
    "a list": "say(OK, b'[1,2,3]')",
    "a huge number": "say(OK, b'9' * 100000)",
    "an error without a text": 'say(ERROR, b\'{"error": "RuntimeFailure"}\')',
    "an error of no kind": 'say(ERROR, b\'{"error": [], "text": ""}\')',
    "an error with deep text": "say(ERROR, json.dumps({'error': 'E', 'text': [[[]]]}).encode())",
    "half a reservation": "say(RESERVE, b'123')",
    "a record of no level": 'say(LOG, b\'{"name": "wasi_nn", "level": 1e99, "text": ""}\')',
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_ends_the_worker_and_is_an_error_of_the_guest(session, step, what):
    # A set has an answer without bytes.
    if (step, what) in (("set", "an empty answer"), ("set", "a list"), ("set", "deep JSON")):
        pytest.skip("the host does not look at the bytes of this answer")
    if step == "set" and what in ("an answer that is not JSON", "a huge number"):
        pytest.skip("the host does not look at the bytes of this answer")
    with pytest.raises(RuntimeFailure, match="has ended"):
        go(session, at(step, NONSENSE[what], SLEEP))
    assert go(session, "").data.nbytes == 16


@pytest.mark.parametrize("step", STEPS)
def test_what_a_library_raises_is_not_taken_for_the_end_of_its_worker(session, step):
    graph = load(session, "")
    with pytest.raises(RuntimeFailure, match=": EOFError: no more"):
        go(session, at(step, "raise EOFError('no more')"))
    assert not session.graphs[graph].worker.lost


def description(**changes) -> str:
    said = {
        "inputs": [],
        "outputs": [],
        "concurrent_contexts": True,
        "untyped_bytes": False,
        "stateless": False,
        "choices": {},
        "memory": None,
        **changes,
    }
    return at("load", f"say(OK, json.dumps({said!r}).encode())", SLEEP)


def info(**changes) -> dict:
    said = {
        "name": "x",
        "type": "f32",
        "dims": [4],
        "native_type": "",
        "quantization": None,
        "aliases": [],
        **changes,
    }
    return {"inputs": [said]}


def test_a_right_description_is_taken(session):
    assert session.graphs[load(session, description(**info()))].inputs[0].name == "x"


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": 1},
        {"inputs": [1]},
        {"inputs": [{}]},
        {"concurrent_contexts": 1},
        {"untyped_bytes": "yes"},
        {"choices": []},
        {"choices": {"a": [1]}},
        {"choices": {"a": "b"}},
        {"memory": "1"},
        info(name=1),
        info(type="f31"),
        info(type=[]),
        info(dims=["4"]),
        info(dims=[4.5]),
        info(dims=[True]),
        info(dims=[1 << 70]),
        info(dims=[-2]),
        info(dims="44"),
        info(native_type=None),
        info(quantization=[1]),
        info(quantization=["a", 1, "uint8"]),
        info(aliases=[None]),
        info(aliases="abc"),
        info(more=1),
    ],
)
def test_a_wrong_description_ends_the_worker(session, changes):
    with pytest.raises(RuntimeFailure, match="has ended"):
        load(session, description(**changes))


def output(number=0, kind=1, rank=1, size=16, rest=b"\4\0\0\0\0\0\0\0" + bytes(16)) -> str:
    return f"struct.pack('<IBBQ', {number}, {kind}, {rank}, {size}) + {rest!r}"


@pytest.mark.parametrize(
    "answer",
    [
        output(number=1),
        output(kind=9),
        output(rank=255),
        output(size=17),
        output(size=1 << 63),
        output(kind=255, size=1 << 20, rest=bytes(8)) + "+ b'more'",
        output() + "+" + output(),
        output(rest=b"\4\0\0\0\0\0\0\0" + bytes(15)),
    ],
)
def test_a_wrong_output_ends_the_worker(session, answer):
    with pytest.raises(RuntimeFailure, match="has ended"):
        go(session, at("get", f"say(OK, {answer})", SLEEP))


def test_an_output_that_does_not_fit_its_dimensions_is_an_error(session):
    far = b"\xff" * 8
    with pytest.raises(RuntimeFailure, match="does not fit its dimensions"):
        go(session, at("get", f"say(OK, {output(rest=far + bytes(16))})", SLEEP))


def test_an_output_counts_against_the_guests_limit(session):
    answer = output(kind=255, size=1 << 40, rest=bytes(8))
    with pytest.raises(RuntimeFailure, match="above its limit"):
        go(session, at("get", f"say(OK, {answer})", SLEEP))


def test_a_worker_cannot_give_back_what_the_guest_never_had(session):
    before = session.ledger.reserved
    lines = ("say(RESERVE, I64.pack(-(1 << 50)))", "asking.here.channel.receive()")
    go(session, at("compute", *lines))
    assert session.ledger.reserved >= before


def in_time(work, session, after: float = 0.3) -> BaseException | None:
    """What ``work`` raises in another thread, when its guest is stopped after some time."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(after)
    assert thread.is_alive(), f"it did not wait: {raised}"
    session.cancel()
    thread.join(10)
    assert not thread.is_alive(), "it still waits"
    return raised[0] if raised else None


@pytest.mark.parametrize("step", STEPS)
def test_a_silent_worker_ends_with_its_guest(session, step):
    error = in_time(lambda: go(session, at(step, SLEEP)), session)
    assert isinstance(error, NnError), error


FLOODS = {
    "records": "say(LOG, json.dumps({'name': 'wasi_nn', 'level': 40, 'text': 'x'}).encode())",
    "reservations": "say(RESERVE, I64.pack(0)); asking.here.channel.receive()",
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("what", FLOODS)
def test_a_worker_that_never_stops_sending_ends_with_its_guest(session, step, what, caplog):
    error = in_time(lambda: go(session, at(step, "while True: " + FLOODS[what])), session)
    assert isinstance(error, NnError), error
    assert len([r for r in caplog.records if r.getMessage() == "x"]) <= 110


def test_a_worker_that_reads_nothing_ends_with_its_guest(session):
    load(session, at("load", f"say(OK, {EMPTY!r})", SLEEP))
    config = {"text": "x" * (4 << 20)}
    error = in_time(lambda: load(session, "", config), session)
    assert isinstance(error, NnError), error


EMPTY = (
    b'{"inputs": [], "outputs": [], "concurrent_contexts": true, "untyped_bytes": false, '
    b'"stateless": false, "choices": {}, "memory": null}'
)


def test_a_session_ends_although_its_worker_closes_nothing(session, monkeypatch):
    from wasi_nn._worker import seat

    monkeypatch.setattr(seat, "_CLOSE_SECONDS", 0.2)
    go(session, at("close", SLEEP))
    thread = threading.Thread(target=session.close, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_records_of_a_worker_make_no_loggers_and_forge_no_lines(session, caplog):
    known = set(logging.root.manager.loggerDict)
    text = r"\x1b[2J\nwasi_nn: forged \ud800"
    said = f"{{'name': 'wasi_nn.' + name, 'level': 30, 'text': {text!r}}}"
    lines = f"for name in ('a', 'b', 'taken.x'): say(LOG, json.dumps({said}).encode())"
    go(session, at("compute", lines))
    assert set(logging.root.manager.loggerDict) <= known | {"wasi_nn"}
    found = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert len(found) == 3
    assert not any("\x1b" in one or "\nwasi_nn" in one for one in found)


def test_a_worker_sends_no_descriptors(session):
    lines = (
        "import socket, array",
        "control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [2] * 20))]",
        "asking.here.channel.socket.sendmsg([b'x'], control)",
    )
    with pytest.raises(RuntimeFailure, match="PermissionError"):
        go(session, at("compute", *lines))


def test_descriptors_of_a_worker_without_a_sandbox_are_closed_on_their_way():
    ours, theirs = socket.socketpair()
    pipe, sent = os.pipe()
    channel = Channel(ours)
    before = os.listdir("/proc/self/fd")
    with theirs:
        socket.send_fds(theirs, [struct.pack("<BII", OK, 7, 1) + b"x"], [sent] * 20)
    os.close(sent)
    assert channel.receive()[:2] == (OK, 7)
    assert len(os.listdir("/proc/self/fd")) == len(before) - 2
    # It ends: nobody holds the other side.
    assert os.read(pipe, 1) == b""
    os.close(pipe)
    channel.close()


def test_shared_memory_cannot_be_cut_off(session):
    lines = (
        "for number in range(3, 64):",
        "    try: os.ftruncate(number, 0)",
        "    except OSError: pass",
    )
    graph = load(session, at("set", *lines))
    context = session.contexts[session.init_execution_context(graph)]
    for _ in range(2):
        context.set_input(0, tensor(100_000))
        context.compute()
        assert context.get_output(0).data.nbytes == 400_000
        assert bytes(context.get_output(0).data) == bytes(400_000)


def test_a_worker_that_dies_in_any_step_is_an_error_that_names_the_signal(session, caplog):
    for step in STEPS:
        caplog.clear()
        with pytest.raises(RuntimeFailure, match="SIGKILL"):
            go(session, at(step, "os.kill(os.getpid(), 9)"))
        assert caplog.text.count("has ended: SIGKILL") == 1


SHARED = """
turns = iter({turns!r})
def {step}():
    if next(turns, False):
        time.sleep(1000)
"""


def shared_model(host, tmp_path, step: str, turns: list[bool], concurrent: bool = True) -> None:
    """A named model of a shared worker. Its calls of ``step`` never end where ``turns`` say so."""
    path = tmp_path / "model.taken"
    path.write_text(f"Taken.concurrent_contexts = {concurrent}\n{SHARED}".format(**locals()))
    host.add_model("model", path, encoding="taken", isolation="shared")


def infer(session) -> int:
    context = session.contexts[session.init_execution_context(session.load_by_name("model"))]
    context.set_input(0, tensor())
    context.compute()
    return context.get_output(0).data.nbytes


def has_ended(worker) -> bool:
    until = time.monotonic() + 10
    while not worker.lost and time.monotonic() < until:
        time.sleep(0.01)
    return bool(worker.lost)


@pytest.mark.parametrize("step", ["open", "set"])
def test_a_stopped_guest_leaves_a_shared_worker_in_the_middle_of_a_call(host, tmp_path, step):
    shared_model(host, tmp_path, step, [False, True])
    with host.open_session() as other:
        assert infer(other) == 16
        process = other.graphs[0].worker.process
        with host.open_session() as stuck:
            error = in_time(lambda: infer(stuck), stuck)
            assert isinstance(error, RuntimeFailure), error
            assert infer(other) == 16
        assert infer(other) == 16
        assert other.graphs[1].worker.process == process


@pytest.mark.parametrize("step", ["open", "set"])
def test_a_call_that_keeps_all_others_from_a_graph_ends_with_its_worker(host, tmp_path, step):
    shared_model(host, tmp_path, step, [False, True], concurrent=False)
    with host.open_session() as other:
        assert infer(other) == 16
        with host.open_session() as stuck:
            error = in_time(lambda: infer(stuck), stuck)
            assert isinstance(error, RuntimeFailure), error
        assert has_ended(other.graphs[0].worker)


def test_a_worker_that_is_busy_for_nobody_is_replaced(host, tmp_path, monkeypatch, caplog):
    from wasi_nn._worker import process

    monkeypatch.setattr(process, "_MAX_UNAWAITED", 2)
    shared_model(host, tmp_path, "set", [False, True, True, True])
    with host.open_session() as other:
        assert infer(other) == 16
        for number in range(3):
            assert not other.graphs[0].worker.lost, number
            with host.open_session() as stuck:
                in_time(lambda: infer(stuck), stuck)
        worker = other.graphs[0].worker
        assert has_ended(worker)
        assert "busy with requests of guests that were stopped" in worker.lost
    with host.open_session() as next_one:
        assert infer(next_one) == 16


def test_a_call_that_ends_after_its_guest_counts_no_longer(host, tmp_path, monkeypatch):
    from wasi_nn._worker import process

    monkeypatch.setattr(process, "_MAX_UNAWAITED", 1)
    program = "def set():\n    while os.path.exists({!r}): time.sleep(0.01)"
    gate = tmp_path / "gate"
    path = tmp_path / "model.taken"
    path.write_text(program.format(str(gate)))
    host.add_model("model", path, encoding="taken", isolation="shared")
    with host.open_session() as other:
        assert infer(other) == 16
        worker = other.graphs[0].worker
        for _ in range(3):
            gate.touch()
            with host.open_session() as stuck:
                in_time(lambda: infer(stuck), stuck)
            gate.unlink()
            while not all(channel.left for channel in list(worker._unawaited._channels.values())):
                time.sleep(0.01)
        assert infer(other) == 16
        assert not worker.lost


def test_the_last_line_of_a_library_that_wrote_much_is_its_reason(session):
    lines = (
        "for number in range(200):",
        "    try: os.write(2, b'noise\\n' * 1000)",
        "    except OSError: pass",
        "    time.sleep(0.002)",
        "time.sleep(0.5)",
        "os.write(2, b'this is the reason\\n')",
        "os.abort()",
    )
    with pytest.raises(RuntimeFailure, match=r"SIGABRT \(this is the reason\)"):
        go(session, at("compute", *lines))
