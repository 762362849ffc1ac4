"""What workers leave behind: processes, descriptors and memory, however they and the host end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wasi_nn import Host, Policy
from wasi_nn._worker import prepared, process
from wasi_nn._worker.messages import GET, TURN, as_json
from wasi_nn.errors import (  # noqa: F401
    ForkedProcess,
    InvalidEncoding,
    NnError,
    RuntimeFailure,
)
from wasi_nn.plugins import Plugins
from wasi_nn.types import ExecutionTarget, Tensor, TensorType

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/fd"), reason="this system has no /proc/self/fd"
)
MODEL = b"wasi-nn:identity"


def host() -> Host:
    return Host(policy=Policy(own_models=True))


def load(session) -> int:
    return session.load([memoryview(MODEL)], "identity", ExecutionTarget.CPU)


def context_of(session, graph: int):
    return session.contexts[session.init_execution_context(graph)]


def tensor(size: int, fill: int = 0) -> Tensor:
    return Tensor(TensorType.U8, (size,), memoryview(bytes([fill]) * size))


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(entry.parent.name))
    return found


def wait_until(holds) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.01)
    return False


def the_prepared() -> prepared.Prepared:
    return prepared.prepared(Plugins.installed().backend_for("identity"))


def test_large_tensors_keep_no_descriptors():
    with host() as made, made.open_session() as session:
        graph = load(session)
        context_of(session, graph).set_input(0, tensor(100_000))
        before = descriptors()
        for number in range(50):
            context = context_of(session, graph)
            context.set_input(0, tensor(100_000, number))
            context.compute()
            assert bytes(context.get_output(0).data) == bytes([number]) * 100_000
        assert descriptors() <= before
        inside = len(os.listdir(f"/proc/{session.graphs[graph].worker.process}/fd"))
        assert inside < 20


def test_sessions_leave_no_descriptors_threads_and_processes():
    with host() as made:
        with made.open_session() as session:
            load(session)
        before = descriptors()
        for _ in range(30):
            with made.open_session() as session:
                context_of(session, load(session)).set_input(0, tensor(8))
        assert descriptors() <= before
        parent = the_prepared()._process.pid
        assert wait_until(lambda: not children(parent))


def test_an_answer_stays_after_the_next_request():
    with host() as made, made.open_session() as session:
        graph = load(session)
        worker = session.graphs[graph].worker
        contexts = []
        for fill in (1, 2):
            execution = context_of(session, graph)
            execution.set_input(0, tensor(8, fill))
            execution.compute()
            contexts.append(execution.context._seat._number)
        ask = as_json({"number": 0, "key": 0, "keep": False, "forget": []})
        asked = TURN.pack(1 << 40) + ask
        one, other = (worker.call(GET, number, asked) for number in contexts)
        assert bytes(one)[-8:] == bytes([1]) * 8
        assert bytes(other)[-8:] == bytes([2]) * 8


def test_a_process_that_workers_start_from_is_replaced_when_it_dies():
    with host() as made:
        with made.open_session() as session:
            load(session)
            before = the_prepared()
            before._process.kill()
            worker = session.graphs[0].worker
            # The system ends the workers with it.
            assert wait_until(lambda: "SIGKILL" in worker.lost or "gone" in worker.lost)
        with made.open_session() as session:
            context_of(session, load(session))
        assert the_prepared() is not before
        assert before._process.poll() == -signal.SIGKILL


def test_a_worker_that_died_while_nobody_asked_is_replaced():
    with host() as made, made.open_session() as session:
        worker = session.graphs[load(session)].worker
        os.kill(worker.process, signal.SIGKILL)
        assert wait_until(lambda: worker.lost)
        context_of(session, load(session))


def test_the_end_of_a_process_group_is_the_hosts_to_decide():
    with host() as made, made.open_session() as session:
        graph = load(session)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            os.kill(the_prepared()._process.pid, number)
            os.kill(session.graphs[graph].worker.process, number)
        time.sleep(0.2)
        context_of(session, graph)


def test_a_process_that_cannot_be_forked_ends_no_other_worker(tmp_path):
    said = python(
        """
        session = host.open_session()
        load(session)
        pid = the_prepared()._process.pid
        # Its table of descriptors is full, so it cannot take those of a new worker.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))
        other = host.open_session()
        try:
            load(other)
        except NnError as error:
            print("refused")
        session.init_execution_context(0)
        print("works")
        """
    )
    assert said.split() == ["refused", "works"]


def test_a_host_without_descriptors_gives_errors_and_goes_on():
    said = python(
        """
        with host.open_session() as session:
            load(session)
        full = []
        try:
            while True:
                full.append(os.dup(0))
        except OSError:
            pass
        for spare in range(12):
            session = host.open_session()
            try:
                load(session)
                session.contexts[session.init_execution_context(0)].set_input(0, tensor(10000))
            except NnError as error:
                assert "descriptor" in str(error) or "files" in str(error), error
            session.close()
            os.close(full.pop())
        for one in full:
            os.close(one)
        with host.open_session() as session:
            load(session)
            session.init_execution_context(0)
        print("works")
        """,
        limit=64,
    )
    assert said.split() == ["works"]


def go_on(session) -> None:
    with contextlib.suppress(NnError):
        while True:
            session.finalize_execution_context(session.init_execution_context(0))


PROGRAM = """
import os, resource, signal, sys, threading, time
sys.path.insert(0, {tests!r})
from test_worker_lifetime import *
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
host = host()
"""


def python(script: str, limit: int = 256, code: int = 0, silent: bool = True) -> str:
    import textwrap

    ended = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c"),
            PROGRAM.format(tests=str(Path(__file__).parent), limit=limit) + textwrap.dedent(script),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == code, ended.stderr
    assert not (silent and ended.stderr), ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("way", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("os.abort()", -6),
        (
            "threading.Thread(target=go_on, args=(session,), daemon=True).start(); time.sleep(0.2)",
            0,
        ),
    ],
)
def test_no_process_stays_when_the_host_ends(way, code):
    said = python(
        f"""
        session = host.open_session()
        load(session)
        print(the_prepared()._process.pid, session.graphs[0].worker.process, flush=True)
        {way}
        """,
        code=code,
    )
    for number in map(int, said.split()):
        assert wait_until(lambda number=number: not os.path.exists(f"/proc/{number}"))


def test_after_a_fork_parent_and_child_have_workers_of_their_own():
    said = python(
        """
        session = host.open_session()
        context = context_of(session, load(session))
        context.set_input(0, tensor(8, 1))
        if not os.fork():
            try:
                context.compute()
            except ForkedProcess:
                print("refused", flush=True)
            session.close()
            with Host(policy=Policy(own_models=True)) as own, own.open_session() as session:
                other = context_of(session, load(session))
                other.set_input(0, tensor(8, 2))
                other.compute()
                print(bytes(other.get_output(0).data).hex(), flush=True)
            sys.exit()
        os.wait()
        context.compute()
        print(bytes(context.get_output(0).data).hex())
        session.close()
        """
    )
    assert said.split() == ["refused", "02" * 8, "01" * 8]


def test_an_interrupted_call_leaves_the_other_calls_their_answers():
    said = python(
        """
        session = host.open_session()
        context = context_of(session, load(session))
        interrupted, armed = 0, False

        def interrupt(number, frame):
            if armed:
                raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        for number in range(3000):
            fill = number % 251
            if number % 3 == 0:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + number % 7 * 0.0001)
            try:
                try:
                    armed = True
                    context.set_input(0, tensor(8 + 8000 * (number % 2), fill))
                    context.compute()
                    data = bytes(context.get_output(0).data)
                finally:
                    armed = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                armed = False
                interrupted += 1
                continue
            assert data == bytes([fill]) * (8 + 8000 * (number % 2)), number
        assert interrupted
        session.close()
        print("works")
        """,
        # Python reports what a handler raises in a finalizer.
        silent=False,
    )
    assert said.split() == ["works"]


def test_a_worker_gets_no_secret_and_no_module_of_the_current_folder(tmp_path, monkeypatch):
    # The host itself imports its plugin from where Python finds it: do that before.
    the_prepared().close()
    for name in ("json", "wasi_nn", "wasi_nn_identity", "ctypes"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.syspath_prepend("")
    with host() as made, made.open_session() as session:
        load(session)
        environment = Path(f"/proc/{the_prepared()._process.pid}/environ").read_bytes()
    assert b"secret" not in environment
    assert b"PYTHONPATH" not in environment
    assert b"OMP_NUM_THREADS=3" in environment


def test_a_program_without_an_interpreter_says_so(monkeypatch):
    the_prepared().close()
    monkeypatch.setattr(sys, "executable", "")
    with (
        host() as made,
        made.open_session() as session,
        pytest.raises(RuntimeFailure, match=r"set sys\.executable"),
    ):
        load(session)
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with (
        host() as made,
        made.open_session() as session,
        pytest.raises(RuntimeFailure, match="Is it the Python interpreter of this program"),
    ):
        load(session)


def test_a_missing_library_is_reported_as_it_is_without_a_worker(monkeypatch):
    from wasi_nn.types import Availability

    with host() as made, made.open_session() as session:
        backend = made.plugins.backend_for("identity")
        missing = Availability(False, "it is not installed; pip install it")
        monkeypatch.setattr(backend, "availability", lambda deep=False: missing)
        with pytest.raises(InvalidEncoding, match="pip install it"):
            load(session)


def test_a_neighbours_worker_is_never_killed_in_place_of_one_that_ended():
    with host() as made, made.open_session() as one:
        ended: process.Worker = one.graphs[load(one)].worker
        ended.close()
        with made.open_session() as other:
            # Its descriptors have the numbers of those that were closed.
            graph = load(other)
            ended.kill()
            time.sleep(0.1)
            context_of(other, graph)
