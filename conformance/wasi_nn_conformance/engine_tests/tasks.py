"""Guests in asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wasi_nn import Host
from wasi_nn.errors import DeadlineExceeded
from wasi_nn_conformance.engine_tests.common import COMMAND, LOOP, WASI, Engine, Wat
from wasi_nn_conformance.places import GUESTS

# A bound against a hang, in seconds.
_HANG = 60
WRITES_FOREVER = f"""(module {WASI} (func (export "_start") (loop $l
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100))) (br $l))))"""


class Tasks(Engine):
    def test_a_task_that_is_cancelled_ends_its_guest(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        program = host.compile(wat(COMMAND.format(LOOP)))
        started = threading.Event()

        async def main() -> None:
            task = asyncio.ensure_future(program.run_async(on_start=lambda guest: started.set()))
            await asyncio.get_running_loop().run_in_executor(None, started.wait, _HANG)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # One that is cancelled before its guest begins, and a deadline of asyncio's own.
            task = asyncio.ensure_future(program.run_async())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(host.run_async(wat(COMMAND.format(LOOP))), 0.2)
            limited = await program.run_async(timeout=0.1)
            assert isinstance(limited.error, DeadlineExceeded)

        asyncio.run(asyncio.wait_for(main(), _HANG))

    def test_many_guests_run_at_the_same_time(self, host: Host) -> None:
        program = host.compile(GUESTS / "hello/hello.wasm")

        async def main() -> list[bytes]:
            results = await asyncio.gather(*(program.run_async() for _ in range(self.times(8))))
            return [result.stdout for result in results]

        assert set(asyncio.run(main())) == {b"hello, wasi-nn\n"}

    def test_output_is_read_while_the_guest_runs(self, host: Host, wat: Wat) -> None:
        self.needs(host, "interrupt")
        endless = host.compile(wat(WRITES_FOREVER))
        hello = host.compile(GUESTS / "hello/hello.wasm")

        async def main() -> None:
            async with hello.start() as running:
                assert [text async for text in running.text()] == ["hello, wasi-nn\n"]
                assert (await running.wait()).exit_code == 0
            read = 0
            async with endless.start() as running:
                async for piece in running:
                    read += len(piece)
                    if read > 3 << 10:
                        break
            with pytest.raises(asyncio.CancelledError):
                await running.wait()
            # Nothing reads: the guest waits, and its deadline ends it.
            async with endless.start(timeout=0.3) as running:
                result = await running.wait()
            assert isinstance(result.error, DeadlineExceeded)

        asyncio.run(asyncio.wait_for(main(), _HANG))
