"""What is made once in a process."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from wasi_nn.backend.shared import MadeOnce
from wasi_nn.errors import RuntimeFailure


class Made:
    """An object that can be referred to weakly."""


def together(call: Callable[[], object], count: int = 4) -> list[object]:
    """What ``count`` threads get that call at the same time."""
    barrier, results = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        try:
            results.append(call())
        except Exception as error:
            results.append(type(error))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_an_object_is_made_once_and_kept_while_it_is_used():
    table: MadeOnce[Made] = MadeOnce()
    made = []

    def make() -> Made:
        threading.Event().wait(0.05)
        made.append(1)
        return Made()

    used = together(lambda: table.get("key", make))
    assert len(set(map(id, used))) == len(made) == 1
    del used
    table.get("key", make)
    assert len(made) == 2
    assert not table._making


def test_each_waiting_caller_tries_after_a_failure():
    table: MadeOnce[Made] = MadeOnce()
    attempts = []

    def make() -> Made:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return Made()

    results = together(lambda: table.get("key", make))
    assert results.count(ValueError) == 2
    assert len(attempts) == 3
    assert len(set(map(id, results))) == 2


def test_a_stopped_caller_does_not_wait():
    table: MadeOnce[Made] = MadeOnce()
    begun, finish = threading.Event(), threading.Event()

    def make() -> Made:
        begun.set()
        finish.wait()
        return Made()

    maker = threading.Thread(target=table.get, args=("key", make))
    maker.start()
    begun.wait()
    with pytest.raises(RuntimeFailure, match="stopped while it waited"):
        table.get("key", make, lambda: True)
    finish.set()
    maker.join()
