"""Ctrl-C reaches what it was meant for."""

from __future__ import annotations

import os
import signal
import time

from conftest import needs, run_python

from wasi_nn._process import interrupts
from wasi_nn._process.interrupts import ForwardSigint


def test_an_earlier_ctrl_c_does_not_reach_the_next_guest():
    """The thread that hears of signals may be late."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told = []
    try:
        for number in range(100):
            os.write(interrupts._watcher().wakeup, bytes([signal.SIGINT]))
            with ForwardSigint(lambda number=number: told.append(number)):
                time.sleep(0.001)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == []


def test_each_block_gets_its_own_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told = []
    try:
        for number in range(100):
            try:
                with ForwardSigint(lambda number=number: told.append(number)):
                    os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                told.append("heard")
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [word for number in range(100) for word in (number, "heard")]


def test_a_guest_within_a_guest_passes_ctrl_c_on():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told = []
    try:
        with ForwardSigint(lambda: told.append("outer")):
            try:
                with ForwardSigint(lambda: told.append("inner")):
                    os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                told.append("raised")
    finally:
        signal.signal(signal.SIGINT, before)
    assert told[0] == "inner"
    assert sorted(told[1:]) == ["outer", "raised"]


CTRL_C_ANYWHERE = """
import os, random, signal, sys, threading
from wasi_nn import Host
signal.signal(signal.SIGINT, signal.default_int_handler)
program = Host(runtime="wasmtime").compile(sys.argv[1])
heard = 0
for _ in range(200):
    timer = threading.Timer(random.uniform(0.001, 0.004), os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    try:
        timer.start()
        while True:
            program.run()
            program.instantiate().close()
    except KeyboardInterrupt:
        heard += 1
    timer.join()
print(heard)
"""


def test_ctrl_c_at_any_moment_breaks_nothing(guests):
    """Within what an engine's binding makes or frees too, where half of it would be done twice."""
    needs("wasmtime")
    ended = run_python(CTRL_C_ANYWHERE, guests / "hello/hello.wasm")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "200\n", "")
