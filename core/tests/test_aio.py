"""Guests and models in asyncio tasks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import numpy as np
import pytest

from wasi_nn import Host, Limits, UsageError
from wasi_nn._host.model import Model
from wasi_nn._models.loading import LoadedGraph, LoadOptions
from wasi_nn.backend import Backend, Graph, StreamingContext
from wasi_nn.errors import EndOfSequence, RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_conformance.engine_tests.feeds import CAT

# A bound against a hang, in seconds.
_HANG = 60
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'


def run(task):
    return asyncio.run(asyncio.wait_for(task, _HANG))


class Endless(StreamingContext):
    """Computes until it is cancelled; streams "ü" in two pieces, over and over."""

    def __init__(self):
        self.computing, self.stopped = threading.Event(), threading.Event()
        self.pieces, self.ended, self.closed, self.within = 0, 0, False, False

    def set_input(self, key, tensor):
        pass

    def compute(self):
        self.within = True
        self.computing.set()
        assert self.stopped.wait(_HANG)
        self.within = False
        raise RuntimeFailure("cancelled")

    def get_output(self, key):
        return Tensor(TensorType.U8, (0,), memoryview(b""))

    def compute_single(self):
        if self.pieces == 8:
            raise EndOfSequence("that is all")
        if self.pieces == 4:
            self.compute()
        self.pieces += 1

    def get_output_single(self, key):
        piece = "ü".encode()[1 - self.pieces % 2 :][:1]
        return Tensor(TensorType.U8, (1,), memoryview(piece))

    def fini_single(self):
        self.ended += 1

    def cancel(self):
        self.stopped.set()

    def close(self):
        assert not self.within
        self.closed = True


class EndlessGraph(Graph):
    concurrent_contexts = False

    def __init__(self):
        self.contexts = []

    def init_execution_context(self, reserve):
        self.contexts.append(Endless())
        return self.contexts[-1]


class Nothing(Backend):
    name, encodings = "nothing", ("nothing",)

    def load(self, builders, options):
        return EndlessGraph()


@pytest.fixture
def graph():
    return EndlessGraph()


@pytest.fixture
def model(graph):
    return Model(LoadedGraph(graph, Nothing(), LoadOptions("nothing"), 0.0), Limits())


async def heard(event):
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, _HANG)


class TestGuests:
    def test_a_run_gives_its_result_and_raises_its_mistakes(self, host, guests, identity_model):
        host.add_model("echo", identity_model())

        async def main():
            result = await host.run_async(guests / "echo/echo.wasm", ["echo", "hello"], stats=True)
            assert (result.exit_code, result.stdout) == (0, b"hello")
            assert result.calls["compute"].calls == 1
            program = host.compile(guests / "echo/echo.wasm")
            with pytest.raises(UsageError, match="no dialect"):
                await program.run_async(dialect="latin")
            async with program.start(dialect="latin") as running:
                with pytest.raises(UsageError, match="no dialect"):
                    assert [piece async for piece in running] == []
            with pytest.raises(UsageError, match="stdout is what the loop reads"):
                program.start(stdout=print)
            with pytest.raises(UsageError, match="async with"):
                await program.start().wait()

        run(main())

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with Python 3.11")
    def test_a_timeout_of_asyncio_ends_the_guest_before_the_host_closes(self, plugins, wat):
        ended = []

        async def main():
            with Host(plugins=plugins) as host:
                program = host.compile(wat(LOOP))

                async def alone():
                    try:
                        await program.run_async()
                    finally:
                        ended.append(program)

                async def together():
                    async with asyncio.TaskGroup() as group:
                        for _ in range(4):
                            group.create_task(alone())

                async def read():
                    async with program.start() as running:
                        async for _ in running:
                            pass

                async def bounded(work):
                    async with asyncio.timeout(0.2):
                        await work()

                for work in (alone, together, read):
                    with pytest.raises(TimeoutError):
                        await bounded(work)

        run(main())
        assert len(ended) == 5

    def test_a_task_that_is_cancelled_twice_still_waits(self, host, wat):
        program = host.compile(wat(LOOP))
        began, guests = threading.Event(), []

        def on_start(guest):
            guests.append(guest)
            began.set()

        async def main():
            task = asyncio.ensure_future(program.run_async(on_start=on_start))
            await heard(began)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert guests[0].interrupted

        run(main())

    def test_a_loop_that_ends_ends_its_guests(self, host, wat):
        program, began = host.compile(wat(LOOP)), threading.Event()

        async def main():
            task = asyncio.ensure_future(program.run_async(on_start=lambda guest: began.set()))
            await heard(began)
            return task

        assert run(main()).cancelled()

    def test_context_variables_reach_the_guests_callbacks(self, host, guests):
        from contextvars import ContextVar

        request, seen = ContextVar("request"), []

        async def main():
            request.set("r1")
            path = guests / "hello/hello.wasm"
            await host.run_async(path, on_start=lambda guest: seen.append(request.get()))

        run(main())
        assert seen == ["r1"]


class TestModels:
    def test_text_comes_in_whole_characters(self, model, graph):
        async def main():
            with model.init_execution_context() as context:
                graph.contexts[0].stopped.set()
                texts = []
                async for text in context.stream_text_async():
                    texts.append(text)
                    if len(texts) == 2:
                        break
                assert texts == ["ü", "ü"]

        run(main())
        assert graph.contexts[0].closed
        assert graph.contexts[0].pieces == 4

    @pytest.mark.parametrize("how", ["stream", "text", "compute", "run"])
    def test_a_task_that_is_cancelled_ends_the_computation(self, model, graph, how):
        async def work():
            if how == "run":
                await model.run_async(np.zeros(1, np.uint8))
                return
            with model.init_execution_context() as context:
                if how == "compute":
                    await context.compute_async()
                elif how == "stream":
                    assert [p async for p in context.stream_async()] == []
                else:
                    assert [p async for p in context.stream_text_async()] == []

        async def main():
            task = asyncio.ensure_future(work())
            while not graph.contexts:
                await asyncio.sleep(0.01)
            await heard(graph.contexts[0].computing)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert graph.contexts[0].closed

        run(main())

    def test_a_cancelled_task_stops_waiting_for_another_context(self, model, graph):
        async def main():
            first, second = model.init_execution_context(), model.init_execution_context()
            tasks = [asyncio.ensure_future(first.compute_async())]
            await heard(graph.contexts[0].computing)
            tasks.append(asyncio.ensure_future(second.compute_async()))
            await asyncio.sleep(0.1)
            tasks[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]
            assert not graph.contexts[1].computing.is_set()
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            first.close()
            second.close()

        run(main())

    def test_a_model_answers(self, host, identity_model):
        model = host.load(identity_model("stream", stream=4), encoding="identity")

        async def main():
            with model.init_execution_context() as context:
                context.set_input(0, "grüße!")
                assert [text async for text in context.stream_text_async()] == ["grü", "ße!"]
            outputs = await model.run_async(np.arange(3, dtype=np.uint8))
            assert list(outputs["0"]) == [0, 1, 2]

        run(main())


class TestStdin:
    def test_an_asynchronous_source_is_read_as_the_guest_reads(self, wat):
        async def main():
            answers = asyncio.Queue()

            async def talk():
                yield b"one"
                yield await answers.get() + b", two"

            with Host() as host:
                running = host.program(wat(CAT)).start(stdin=talk())
                async with running:
                    pieces = []
                    async for piece in running:
                        pieces.append(piece)
                        if len(pieces) == 1:
                            answers.put_nowait(piece)
                    (await running.wait()).check()
            return pieces

        assert run(main()) == [b"one", b"one, two"]

    def test_a_cancelled_task_leaves_its_source(self, wat):
        async def main():
            asked, left = asyncio.Event(), asyncio.Event()

            async def wait():
                asked.set()
                try:
                    await asyncio.sleep(_HANG)
                finally:
                    left.set()
                yield b""

            with Host() as host:
                task = asyncio.ensure_future(host.run_async(wat(CAT), stdin=wait()))
                await asked.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await left.wait()

        run(main())


def test_asyncio_is_imported_on_first_use():
    code = "import sys, wasi_nn; wasi_nn.Host(); sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=_HANG).returncode == 0
