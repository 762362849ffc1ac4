"""Traps do not depend on signal handlers, which any library in the process may replace."""

from __future__ import annotations

import pytest
from conftest import needs_engine, run_python

needs_engine("wasmtime")

# Every kind of trap, each in its own export.
TRAPS = """(module
  (type $none (func)) (type $one (func (param i32)))
  (memory (export "memory") 1) (table 2 funcref) (elem (i32.const 0) $other)
  (func $other (param i32))
  (func (export "load") (drop (i32.load (i32.const 0xfffffff0))))
  (func (export "load_far") (drop (i64.load offset=0xffffffff (i32.const -1))))
  (func (export "store") (i32.store8 (i32.const 65536) (i32.const 1)))
  (func (export "fill") (memory.fill (i32.const 65000) (i32.const 0) (i32.const 1000)))
  (func (export "divide") (drop (i32.div_u (i32.const 1) (i32.const 0))))
  (func (export "remainder") (drop (i64.rem_s (i64.const 1) (i64.const 0))))
  (func (export "overflow") (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))))
  (func (export "unreachable") unreachable)
  (func (export "float") (drop (i32.trunc_f32_s (f32.const nan))))
  (func (export "large_float") (drop (i64.trunc_f64_u (f64.const 1e30))))
  (func (export "table") (call_indirect (type $none) (i32.const 9)))
  (func (export "null") (call_indirect (type $none) (i32.const 1)))
  (func (export "type") (call_indirect (type $none) (i32.const 0)))
  (func $deep (export "stack") (call $deep)))"""

# argv: when to enable faulthandler, and the module's text.
PROGRAM = """
import faulthandler, sys, threading
import wasmtime
from wasi_nn import Host
from wasi_nn.errors import GuestTrap

order, text = sys.argv[1:]
wasm = bytes(wasmtime.wat2wasm(text))
names = [e.name for e in wasmtime.Module(wasmtime.Engine(), wasm).exports if e.name != "memory"]
if order == "before":
    faulthandler.enable()
program = Host(runtime="wasmtime").compile(wasm)
if order == "compiled":
    faulthandler.enable()
guest = program.instantiate()
if order == "instantiated":
    faulthandler.enable()

def trap(guest, names):
    for name in names:
        try:
            guest.call(name)
        except GuestTrap:
            print(name)
if order == "twice":
    trap(guest, names[:1])
    faulthandler.enable()
trap(guest, names[order == "twice":])
if order == "thread":
    faulthandler.enable()
    def work():
        with program.instantiate() as guest:
            trap(guest, names)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print("lives")
"""


def run(code: str, *arguments: str) -> tuple[int, list[str], str]:
    ended = run_python(code, *arguments, timeout=120)
    return ended.returncode, ended.stdout.split(), ended.stderr


@pytest.mark.parametrize("order", ["before", "compiled", "instantiated", "twice", "thread"])
def test_a_trap_ends_only_the_guest_under_faulthandler(order):
    names = [
        line.split('"')[1]
        for line in TRAPS.splitlines()
        if line.startswith("  (func") and "export" in line
    ]
    expected = names * 2 if order == "thread" else names
    assert run(PROGRAM, order, TRAPS) == (0, [*expected, "lives"], "")


def test_faulthandler_may_be_enabled_while_a_guest_runs():
    code = """
import faulthandler
import wasmtime
from wasi_nn import Host
from wasi_nn.errors import GuestTrap
from wasi_nn.runtime import HostFunction
text = '''(module (import "test" "enable" (func $enable)) (memory (export "memory") 1)
  (func (export "go") (call $enable) (drop (i32.load (i32.const -4)))))'''
enable = HostFunction("test", "enable", 0, False, lambda memory: faulthandler.enable())
program = Host(runtime="wasmtime").compile(bytes(wasmtime.wat2wasm(text)))
with program.instantiate(extra=[enable]) as guest:
    try:
        guest.call("go")
    except GuestTrap:
        print("trap")
"""
    assert run(code) == (0, ["trap"], "")


def test_a_components_trap_ends_only_the_component():
    code = """
import faulthandler
import wasmtime
from wasi_nn import Host
text = '''(component
  (core module $m (memory (export "memory") 1)
    (func (export "run") (result i32) (i32.load (i32.const -4))))
  (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))'''
host = Host(runtime="wasmtime")
component = bytes(wasmtime.wat2wasm(text))
print(host.run(component).exit_code)
faulthandler.enable()
print(host.run(component).exit_code)
"""
    assert run(code) == (0, ["134", "134"], "")


def test_a_guest_leaves_the_signal_handlers_of_the_process_alone(guests):
    code = """
import ctypes, signal, sys
from wasi_nn import Host
def handlers():
    actions = []
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL):
        action = ctypes.create_string_buffer(512)
        ctypes.CDLL(None).sigaction(number, None, action)
        actions.append(action.raw[:8])  # (the handler comes first)
    return actions
before = handlers()
Host(runtime="wasmtime").run(sys.argv[1])
print(handlers() == before)
"""
    assert run(code, str(guests / "hello/hello.wasm")) == (0, ["True"], "")
