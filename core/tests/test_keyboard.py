"""Ctrl-C reaches what it was meant for."""

from __future__ import annotations

import os
import signal
import time

from wasi_nn import keyboard
from wasi_nn.keyboard import Keyboard


def test_a_ctrl_c_of_before_is_not_for_the_next_guest():
    """The thread that hears of signals may be late."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told = []
    try:
        for number in range(100):
            os.write(keyboard._watcher().wakeup, bytes([signal.SIGINT]))
            with Keyboard(lambda number=number: told.append(number)):
                time.sleep(0.001)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == []


def test_each_one_hears_its_own_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told = []
    try:
        for number in range(100):
            try:
                with Keyboard(lambda number=number: told.append(number)):
                    os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                told.append("heard")
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == [word for number in range(100) for word in (number, "heard")]


def test_a_guest_within_a_guest_passes_it_on():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    told = []
    try:
        with Keyboard(lambda: told.append("outer")):
            try:
                with Keyboard(lambda: told.append("inner")):
                    os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                told.append("raised")
    except KeyboardInterrupt:
        told.append("raised outside")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (told[0], told[-1]) == ("inner", "outer")
    assert "raised" in told
