"""One program over many inputs."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import queue
import struct
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from conftest import CAT, needs, run_python

from wasi_nn import GuestError, Host, Limits, UsageError
from wasi_nn.errors import GuestTrap, LinkError
from wasi_nn.runtime import HostFunction

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"
# A bound against a hang, in seconds.
_HANG = 60
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'


def until(condition):
    end = time.monotonic() + _HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("wasi-nn run")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    gc.collect()
    before = len(running())
    yield
    until(lambda: len(running()) <= before)


class TestInputs:
    def test_each_run_of_a_model_has_its_own_arguments(self, host, guests, tmp_path):
        needs("onnxruntime")
        host.add_model("add", GRAPHS / "onnx/matmul.onnx")
        (info,) = host.model("add").inputs[:1]
        size = abs(info.dims[-1])
        rows = [[float(number)] * size for number in range(6)]
        for number, row in enumerate(rows):
            (tmp_path / f"{number}.raw").write_bytes(struct.pack(f"<{size}f", *row))
        inputs = [["name:add", f"/in/{number}.raw", f"1,{size}"] for number in range(6)]
        guest, dirs = guests / "classify/classify.wasm", {"/in": tmp_path}
        alone = [host.run(guest, given, dirs=dirs).check().stdout for given in inputs]
        assert len(set(alone)) == 6
        with host.run_many(guest, inputs, dirs=dirs, jobs=3) as runs:
            together = {outcome.index: outcome for outcome in runs}
        assert [together[index].check().stdout for index in range(6)] == alone
        assert [together[index].input for index in range(6)] == inputs

    def test_bytes_are_standard_input(self, host, wat):
        texts = [b"a", bytearray(b"bb"), memoryview(b"ccc")]
        runs = host.run_many(wat(CAT), texts, ordered=True)
        assert [outcome.check().stdout for outcome in runs] == texts

    def test_options_of_an_input_replace_those_of_all(self, host, guests, wat):
        with host.run_many(
            wat(CAT), [{}, {"stdin": b"own"}, {"capture": False}], stdin=b"all", ordered=True
        ) as runs:
            assert [outcome.check().stdout for outcome in runs] == [b"all", b"own", b""]
        echo = guests / "echo/echo.wasm"
        runs = host.run_many(echo, [{}, ["a", "b", "c"]], args=["other"], jobs=1)
        assert [outcome.result.exit_code for outcome in runs] == [2, 2]

    def test_prepare_makes_inputs_of_other_objects_in_the_runs_threads(self, host, wat, tmp_path):
        for name in "abc":
            (tmp_path / name).write_text(name)
        paths = [tmp_path / name for name in "axbc"]
        threads = set()

        def prepare(path):
            threads.add(threading.current_thread())
            return {"stdin": path.read_bytes()}

        runs = host.run_many(wat(CAT), paths, prepare, jobs=2)
        found = {outcome.input.name: outcome for outcome in runs}
        assert [found[name].check().stdout for name in "abc"] == [b"a", b"b", b"c"]
        assert found["x"].result is None
        with pytest.raises(FileNotFoundError):
            found["x"].check()
        assert threading.current_thread() not in threads
        assert len(threads) <= 2

    @pytest.mark.parametrize("given", ["text", 7, None])
    def test_what_is_not_an_input_is_refused(self, host, wat, given):
        (outcome,) = host.run_many(wat(CAT), [given])
        with pytest.raises(UsageError, match="prepare="):
            outcome.check()

    def test_mistakes_in_the_options_of_all_are_raised_at_once(self, host, wat):
        program = host.program(wat(CAT))
        with pytest.raises(TypeError, match="no option 'stdn'; did you mean 'stdin'"):
            program.run_many([], stdn=b"")
        with pytest.raises(UsageError, match="list of texts"):
            program.run_many([], args="text")
        for jobs in (0, -1, True, 1.5):
            with pytest.raises(UsageError, match="jobs is"):
                program.run_many([], jobs=jobs)
        with pytest.raises(UsageError, match="not a WebAssembly"):
            host.run_many(b"text", [])


class TestOutcomes:
    def test_what_goes_wrong_with_one_input_is_its_own_outcome(self, host, wat):
        inputs = [b"a", b"", {"stdn": b""}, {"stdin": 7}, {"dirs": {"/": "/missing"}}, b"b"]
        outcomes = list(host.run_many(wat(CAT), inputs, jobs=2, ordered=True))
        assert [outcome.index for outcome in outcomes] == list(range(6))
        kinds = [type(None), GuestTrap, TypeError, UsageError, UsageError, type(None)]
        assert [type(outcome.error) for outcome in outcomes] == kinds
        assert outcomes[1].result.exit_code == 134

    def test_a_model_that_ends_its_worker_costs_one_input(self, guests, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(Path(__file__).parent / "plugins")
        parrot = importlib.import_module("parrot")
        words = ["a", "abort-set", "b", "abort-set", "c", "d"]
        with parrot.new_host(tmp_path, isolation="guest") as host:
            inputs = [["bird", word] for word in words]
            runs = host.run_many(guests / "echo/echo.wasm", inputs, jobs=3, ordered=True)
            outcomes = list(runs)
        for word, outcome in zip(words, outcomes, strict=True):
            bad = word == "abort-set"
            assert bool(outcome.check().exit_code) == bad
            assert bad or word.encode() in outcome.result.stdout.split()

    def test_a_guest_that_cannot_start_fails_for_each_input(self, host, wat):
        guest = wat('(module (import "env" "missing" (func)) (func (export "_start")))')
        outcomes = list(host.run_many(guest, [b"", b""], jobs=2))
        assert [type(outcome.error) for outcome in outcomes] == [LinkError, LinkError]

    def test_they_come_as_they_are_ready_or_in_order(self, host, wat):
        """The first run waits until another outcome was read."""
        go = threading.Event()

        def prepare(number):
            if number == 0:
                assert go.wait(_HANG)
            return {"stdin": b"x"}

        for ordered, first in ((False, 1), (True, 0)):
            go.clear()
            with host.run_many(wat(CAT), range(5), prepare, jobs=2, ordered=ordered) as runs:
                if ordered:
                    go.set()
                order = [next(runs).index]
                go.set()
                order += [outcome.index for outcome in runs]
            assert sorted(order) == [0, 1, 2, 3, 4]
            assert order[0] == first
            assert not ordered or order == [0, 1, 2, 3, 4]

    def test_the_limits_of_the_host_hold_for_each_run(self, plugins, wat):
        with Host(plugins=plugins, limits=Limits(timeout=0.2)) as host:
            outcomes = list(host.run_many(wat(LOOP), [{}, {}, {}], jobs=3))
        assert [outcome.result.exit_code for outcome in outcomes] == [124] * 3

    def test_an_error_of_the_inputs_comes_after_the_outcomes_before_it(self, host, wat):
        def inputs():
            yield b"a"
            yield b"b"
            raise OSError("the list ends here")

        runs = host.run_many(wat(CAT), inputs(), jobs=2, ordered=True)
        assert [next(runs).check().stdout, next(runs).check().stdout] == [b"a", b"b"]
        with pytest.raises(OSError, match="ends here"):
            next(runs)
        assert list(runs) == []


class TestPressure:
    def test_inputs_are_read_no_further_than_the_outcomes_are_taken(self, host, wat):
        read = count()
        last = [-1]

        def inputs():
            for number in read:
                last[0] = number
                yield b"x"

        with host.run_many(wat(CAT), inputs(), jobs=2) as runs:
            for taken in range(1, 8):
                next(runs)
                # Two runs and two outcomes that wait, for two jobs.
                until(lambda taken=taken: last[0] + 1 == taken + 4)
                until(lambda: not runs._crew._present)
                assert last[0] + 1 == taken + 4

    def test_nothing_runs_before_the_first_outcome_is_wanted(self, host, wat):
        runs = host.run_many(wat(LOOP), [{}])
        assert not running()
        runs.close()
        assert list(runs) == []

    def test_no_more_threads_than_inputs_are_made(self, host, wat):
        most = []

        def prepare(text):
            most.append(len(running()))
            return text

        list(host.run_many(wat(CAT), [b"a", b"b"], prepare, jobs=64))
        assert max(most) <= 3

    def test_an_outcome_does_not_wait_for_the_next_input(self, host, wat):
        requests = queue.Queue()
        runs = host.run_many(wat(CAT), iter(requests.get, None), jobs=2)
        for text in (b"first", b"second"):
            requests.put(text)
            assert next(runs).check().stdout == text
        requests.put(None)
        assert list(runs) == []

    def test_several_threads_can_share_the_outcomes(self, host, wat):
        found = queue.Queue()
        runs = host.run_many(wat(CAT), [b"%d" % number for number in range(20)], jobs=2)
        readers = [threading.Thread(target=lambda: list(map(found.put, runs))) for _ in range(3)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(_HANG)
        assert sorted(found.get_nowait().index for _ in range(found.qsize())) == list(range(20))


class TestEnd:
    def endless(self, host, wat, jobs=2, **options):
        began = []
        runs = host.run_many(wat(LOOP), ({} for _ in count()), jobs=jobs, on_start=began.append)
        reader = threading.Thread(target=lambda: list(runs))
        reader.start()
        until(lambda: len(began) == jobs)
        return runs, began, reader

    def test_leaving_the_block_ends_what_is_under_way(self, host, wat):
        runs, began, reader = self.endless(host, wat)
        with runs:
            assert not any(guest.interrupted for guest in began)
        assert [guest.interrupted for guest in began] == [True, True]
        assert not runs._crew._present
        reader.join(_HANG)
        assert not reader.is_alive()
        assert len(began) == 2

    def test_a_loop_that_is_left_ends_what_is_under_way(self, host, wat):
        def prepare(number):
            return {"timeout": 0.05} if number == 0 else {}

        began = []
        for _ in host.run_many(wat(LOOP), count(), prepare, jobs=2, on_start=began.append):
            break
        gc.collect()
        until(lambda: not running())
        assert all(guest.interrupted for guest in began)

    def test_a_generator_of_inputs_is_closed(self, host, wat):
        closed = []

        def inputs():
            try:
                while True:
                    yield b"x"
            finally:
                closed.append(True)

        with host.run_many(wat(CAT), inputs(), jobs=1) as runs:
            next(runs)
            until(lambda: not runs._crew._present)
            given = runs
        until(lambda: closed or not given._crew._turn.locked())
        given._crew.wait()
        gc.collect()
        assert closed

    def test_nothing_leaks_over_many_runs(self, host, wat):
        program = host.compile(wat(CAT))
        list(program.run_many([b"x"] * 8, jobs=4))
        until(lambda: not running())
        files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        for _ in range(20):
            with program.run_many((b"x" for _ in count()), jobs=4) as runs:
                for _ in range(10):
                    next(runs).check()
        until(lambda: not running())
        assert not files or len(os.listdir("/proc/self/fd")) <= files

    def test_a_host_function_that_runs_many_ends_with_its_guest(self, host, wat):
        inner, began = host.compile(wat(LOOP)), []

        def call(memory, *arguments):
            list(inner.run_many([{}, {}, {}], jobs=2, on_start=began.append))

        outer = wat(
            '(module (import "env" "many" (func $f)) (memory (export "memory") 1)'
            '(func (export "go") (call $f)))'
        )
        extra = [HostFunction("env", "many", 0, False, call)]
        with host.program(outer).instantiate(extra=extra) as guest:
            stopper = threading.Thread(
                target=lambda: (until(lambda: len(began) == 2), guest.interrupt())
            )
            stopper.start()
            # (It may end by itself first.)
            with suppress(GuestError):
                guest.call("go")
            stopper.join(_HANG)
        assert len(began) == 3
        assert all(guest.interrupted for guest in began)

    CTRL_C = """
import os, signal, sys, threading, time
from itertools import count
from wasi_nn import Host
signal.signal(signal.SIGINT, signal.default_int_handler)
began = []
def on_start(guest):
    began.append(guest)
    if len(began) == 2:
        os.kill(os.getpid(), signal.SIGINT)
try:
    for outcome in Host().run_many(sys.argv[1], ({} for _ in count()), jobs=2, on_start=on_start):
        print("no outcome is expected")
except KeyboardInterrupt:
    print([guest.interrupted for guest in began])
"""

    def test_ctrl_c_ends_all_and_is_raised(self, wat, tmp_path):
        (tmp_path / "loop.wasm").write_bytes(wat(LOOP))
        ended = run_python(self.CTRL_C, tmp_path / "loop.wasm")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[True, True]\n", "")

    EXIT = """
import sys, threading
from itertools import count
from wasi_nn import Host
began = threading.Event()
runs = Host().run_many(sys.argv[1], ({} for _ in count()), on_start=lambda guest: began.set())
threading.Thread(target=lambda: list(runs), daemon=True).start()
began.wait()
"""

    def test_python_exits_cleanly_while_they_run(self, wat, tmp_path):
        (tmp_path / "loop.wasm").write_bytes(wat(LOOP))
        ended = run_python(self.EXIT, tmp_path / "loop.wasm")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    FORK = """
import os, sys
from itertools import count
from wasi_nn import Host
from wasi_nn.errors import ForkedProcess
runs = Host().run_many(sys.argv[1], ({"timeout": 0.1} for _ in count()), jobs=2)
next(runs)
child = os.fork()
if not child:
    try:
        next(runs)
    except ForkedProcess:
        print("refused", flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
next(runs)
runs.close()
"""

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_child_is_refused(self, wat, tmp_path):
        (tmp_path / "loop.wasm").write_bytes(wat(LOOP))
        ended = run_python(
            "import warnings; warnings.simplefilter('ignore')\n" + self.FORK, tmp_path / "loop.wasm"
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "refused\n", "")


class TestAsync:
    def run(self, task):
        return asyncio.run(asyncio.wait_for(task, _HANG))

    def test_outcomes_come_to_a_loop(self, host, wat):
        async def main():
            runs = host.run_many_async(wat(CAT), [b"a", b"", b"c"], jobs=2, ordered=True)
            return [outcome async for outcome in runs]

        first, trapped, last = self.run(main())
        assert (first.check().stdout, last.check().stdout) == (b"a", b"c")
        assert trapped.result.exit_code == 134

    def test_inputs_can_be_asynchronous(self, host, wat):
        async def main():
            requests: asyncio.Queue = asyncio.Queue()

            async def inputs():
                while (text := await requests.get()) is not None:
                    yield text

            found = []
            await requests.put(b"0")
            async with host.run_many_async(wat(CAT), inputs(), jobs=2) as runs:
                async for outcome in runs:
                    found.append(outcome.check().stdout)
                    await requests.put(b"%d" % len(found) if len(found) < 5 else None)
            return found

        assert self.run(main()) == [b"0", b"1", b"2", b"3", b"4"]

    def test_an_error_of_the_inputs_is_raised(self, host, wat):
        async def inputs():
            yield b"a"
            raise OSError("the list ends here")

        async def main():
            async with host.run_many_async(wat(CAT), inputs()) as runs:
                assert (await runs.__anext__()).check().stdout == b"a"
                with pytest.raises(OSError, match="ends here"):
                    await runs.__anext__()

        self.run(main())

    def test_a_cancelled_task_leaves_when_its_runs_have_ended(self, host, wat):
        began = []

        async def main():
            async def work():
                inputs = ({} for _ in count())
                async with host.run_many_async(
                    wat(LOOP), inputs, jobs=2, on_start=began.append
                ) as runs:
                    async for _ in runs:
                        pass

            task = asyncio.ensure_future(work())
            while len(began) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [guest.interrupted for guest in began] == [True, True]

        self.run(main())

    def test_leaving_lets_go_of_inputs_that_never_come(self, host, wat):
        async def main():
            never = asyncio.Event()

            async def inputs():
                yield b"a"
                await never.wait()
                yield b"b"

            async with host.run_many_async(wat(CAT), inputs(), jobs=2) as runs:
                async for outcome in runs:
                    assert outcome.check().stdout == b"a"
                    break

        self.run(main())
