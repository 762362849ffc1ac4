"""Closing a host: what runs ends, and what comes next is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CAT

from wasi_nn import Host, UsageError
from wasi_nn.errors import Interrupted

# A bound against a hang, in seconds.
_HANG = 60
LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))'
REACTOR = '(module (func (export "spin") (loop $l (br $l))) (func (export "nop")))'


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as made:
        yield made


def begun(pool, program, **options):
    """A run in a thread, once its guest exists."""
    started = threading.Event()
    run = pool.submit(program.run, on_start=lambda _: started.set(), **options)
    assert started.wait(_HANG)
    return run


def test_closing_ends_what_runs_and_waits_for_it(host, wat, pool):
    program = host.compile(wat(LOOP))
    runs = [begun(pool, program) for _ in range(2)]
    host.close()
    assert host.statistics().running == 0
    assert host.statistics().runs["interrupted"] == 2
    for run in runs:
        assert isinstance(run.result(_HANG).error, Interrupted)


def test_closing_gives_runs_their_time(host, wat, pool):
    """It returns as soon as the last run has ended."""
    going_on = threading.Event()
    program = host.compile(wat(CAT))
    run = begun(pool, program, stdin=b"text", stdout=lambda _: going_on.wait(_HANG))
    threading.Timer(0.2, going_on.set).start()
    host.close(timeout=_HANG)
    assert run.result(_HANG).error is None
    assert host.statistics().runs["ok"] == 1


def test_closing_waits_no_longer_than_its_timeout(host, wat, pool):
    run = begun(pool, host.compile(wat(LOOP)))
    began = time.monotonic()
    host.close(timeout=0.3)
    assert time.monotonic() - began >= 0.3
    assert isinstance(run.result(_HANG).error, Interrupted)


def test_while_it_waits_a_closed_host_refuses_others(host, wat, pool):
    run = begun(pool, host.compile(wat(LOOP)))
    closing = threading.Thread(target=host.close, args=(0.5,))
    closing.start()
    refused = False
    while closing.is_alive() and not refused:
        try:
            host.program(wat(LOOP))
        except UsageError:
            refused = not run.done()
    closing.join(_HANG)
    assert refused


def test_a_closed_host_refuses_everything(host, wat, identity_model):
    host.add_model("net", identity_model("net"))
    model, program = host.model("net"), host.compile(wat(CAT))
    host.close()
    host.close()
    for use in (
        program.run,
        program.instantiate,
        lambda: host.run(wat(CAT)),
        lambda: host.compile(wat(CAT)),
        lambda: host.model("net"),
        lambda: host.load(identity_model("other")),
        lambda: host.add_model("other", identity_model("other")),
        host.open_session,
    ):
        with pytest.raises(UsageError, match="the host was closed"):
            use()
    refused = [outcome.error for outcome in program.run_many([b"a", b"b"], jobs=1)]
    assert [type(error) for error in refused] == [UsageError] * 2
    assert host.statistics().running == 0
    with model.init_execution_context() as context:
        context.set_input(0, b"abc")
        context.compute()
        assert bytes(context.get_output(0)) == b"abc"


def test_closing_ends_a_reactor_that_is_called(host, wat, pool):
    called = threading.Event()

    def spin():
        with host.compile(wat(REACTOR)).instantiate() as guest:
            called.set()
            guest.call("spin")

    run = pool.submit(spin)
    assert called.wait(_HANG)
    host.close()
    with pytest.raises(Interrupted):
        run.result(_HANG)


def test_after_closing_a_reactor_cannot_be_called(host, wat):
    with host.compile(wat(REACTOR)).instantiate() as guest:
        guest.call("nop")
        host.close()
        with pytest.raises(Interrupted):
            guest.call("nop")


@pytest.mark.parametrize("place", ["stdout", "on_start"])
def test_a_run_can_close_its_own_host(host, wat, place):
    options = {place: lambda _: host.close(), "stdin": b"text"}
    result = host.run(wat(CAT), **options)
    with pytest.raises(UsageError, match="the host was closed"):
        host.run(wat(CAT))
    # A run that was interrupted before it ended by itself says so.
    assert result.error is None or isinstance(result.error, Interrupted)


@pytest.mark.parametrize("timeout", ["5", None, -1, float("nan"), True])
def test_a_wrong_timeout_is_refused_and_nothing_ends(plugins, wat, timeout):
    with Host(plugins=plugins) as host:
        with pytest.raises(UsageError, match="must be a number of seconds"):
            host.close(timeout)
        assert host.run(wat(CAT), stdin=b"a").stdout == b"a"


def test_an_endless_timeout_is_a_timeout(host):
    host.close(float("inf"))


def test_closing_ends_asynchronous_runs(host, wat):
    async def main():
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        run = asyncio.ensure_future(
            host.run_async(wat(LOOP), on_start=lambda _: loop.call_soon_threadsafe(started.set))
        )
        await started.wait()
        await asyncio.to_thread(host.close)
        return await run

    assert isinstance(asyncio.run(asyncio.wait_for(main(), _HANG)).error, Interrupted)
