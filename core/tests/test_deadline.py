"""One thread waits for the deadlines of all guests."""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack

import pytest
from conftest import run_python

from wasi_nn._host import deadline
from wasi_nn._host.deadline import Deadline
from wasi_nn.errors import DeadlineExceeded


def ignore() -> None:
    """An interrupt that ends nothing."""


def test_one_thread_waits_for_many_deadlines() -> None:
    with ExitStack() as stack:
        for seconds in range(50):
            stack.enter_context(Deadline(ignore, 60.0 + seconds))
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("wasi-nn deadlines") == 1


def outlast(limit: Deadline, passed: threading.Event) -> None:
    """Wait until the deadline has interrupted us."""
    with limit:
        assert passed.wait(60)


def test_a_later_deadline_does_not_keep_an_earlier_one_waiting() -> None:
    passed = threading.Event()
    with Deadline(lambda: pytest.fail("the later one"), 600.0):  # noqa: SIM117
        with pytest.raises(DeadlineExceeded, match="ran past its deadline"):
            outlast(Deadline(passed.set, 0.05), passed)


def test_an_interrupt_that_takes_long_delays_no_other_one() -> None:
    first, second = threading.Event(), threading.Event()

    def wait_for_the_second() -> None:
        assert second.wait(60)
        first.set()

    def both() -> None:
        with Deadline(wait_for_the_second, 0.01):
            with pytest.raises(DeadlineExceeded):
                outlast(Deadline(second.set, 0.05), second)
            assert first.wait(60)

    with pytest.raises(DeadlineExceeded):
        both()


def test_a_deadline_that_is_over_keeps_no_guest_alive() -> None:
    class Guest:
        def interrupt(self) -> None:
            """Never called."""

    guest = Guest()
    with Deadline(guest.interrupt, 600.0):
        pass
    gone = weakref.ref(guest)
    del guest
    assert gone() is None


def test_deadlines_that_are_over_do_not_pile_up() -> None:
    for _ in range(3 * deadline._MAX_OVER):
        with Deadline(ignore, 600.0):
            pass
    assert len(deadline._alarms._all) <= deadline._MAX_OVER + 1


def test_deadlines_hold_in_a_child_process_too() -> None:
    code = """
import os, threading
from wasi_nn._host.deadline import Deadline
from wasi_nn.errors import DeadlineExceeded
def works():
    passed = threading.Event()
    try:
        with Deadline(passed.set, 0.01):
            assert passed.wait(60)
    except DeadlineExceeded:
        print("works", flush=True)
with Deadline(print, 600.0):
    works()
    child = os.fork()
    if not child:
        works()
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert run_python(code, check=True).stdout.split() == ["works", "works"]
