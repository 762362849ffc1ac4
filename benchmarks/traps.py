"""The cost of compiled code that checks for traps itself, without signal handlers."""

from __future__ import annotations

import time
from collections.abc import Callable

import wasmtime
from wasmtime import _ffi as ffi

from benchmarks.figures import Figure, paired_ratio

PAIRS = 15

# The worst case: a loop that only loads.
_LOADS = """
(module (memory (export "memory") 16) (func (export "run") (result i32) (local i32 i32 i32)
  (loop $again (local.set 0 (i32.const 0))
    (loop $next
      (local.set 1 (i32.add (local.get 1) (i32.load (local.get 0))))
      (local.set 0 (i32.add (local.get 0) (i32.const 4)))
      (br_if $next (i32.lt_u (local.get 0) (i32.const 1000000))))
    (local.set 2 (i32.add (local.get 2) (i32.const 1)))
    (br_if $again (i32.lt_u (local.get 2) (i32.const 50))))
  (local.get 1)))"""
# Typical guest code: convert a tensor's bytes to floats between 0 and 1.
_NORMALIZE = """
(module (memory (export "memory") 16) (func (export "run") (result i32) (local i32 i32)
  (loop $again (local.set 0 (i32.const 0))
    (loop $next
      (f32.store offset=200000 (i32.shl (local.get 0) (i32.const 2))
        (f32.div (f32.convert_i32_u (i32.load8_u (local.get 0))) (f32.const 255)))
      (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get 0) (i32.const 150528))))
    (local.set 1 (i32.add (local.get 1) (i32.const 1)))
    (br_if $again (i32.lt_u (local.get 1) (i32.const 50))))
  (local.get 1)))"""


def checks() -> list[Figure]:
    """The time of code with checks, divided by that of code without."""
    figures = []
    for name, text in (("loads", _LOADS), ("normalize", _NORMALIZE)):
        ratio, ours, theirs = paired_ratio(PAIRS, _timed(text, False), _timed(text, True))
        note = f"{ours * 1e3:.1f} ms, with signal handlers {theirs * 1e3:.1f} ms"
        figures.append(Figure(f"trap_checks_ratio/{name}", ratio, "×", note=note))
    return figures


def _timed(text: str, signals: bool) -> Callable[[], float]:
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.memory_may_move = False
    ffi.wasmtime_config_signals_based_traps_set(config.ptr(), signals)
    engine = wasmtime.Engine(config)
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1)
    run = wasmtime.Instance(store, wasmtime.Module(engine, text), []).exports(store)["run"]
    assert isinstance(run, wasmtime.Func)

    def measure() -> float:
        started = time.perf_counter()
        run(store)
        return time.perf_counter() - started

    return measure
