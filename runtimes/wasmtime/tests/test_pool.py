"""Guests in the slots of a pool: each has its own memory, and what does not fit runs too."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from conftest import needs_engine, run_python

from wasi_nn import Host, Limits
from wasi_nn.errors import GuestTrap, LimitExceeded
from wasi_nn_wasmtime.pool import SLOTS

needs_engine("wasmtime")

# It writes to the first page, to one beyond those that a slot keeps, and to the table.
NOTES = """(module (memory (export "memory") 8) (data (i32.const 8) "\\07")
  (table $t 2 10 funcref) (elem declare func $put)
  (func $put (export "put") (param i32)
    (i32.store (i32.const 0) (local.get 0)) (i32.store8 (i32.const 8) (local.get 0))
    (i32.store (i32.const 500000) (local.get 0))
    (drop (memory.grow (i32.const 1))) (drop (table.grow $t (ref.func $put) (i32.const 1)))
    (table.set $t (i32.const 1) (ref.func $put)))
  (func (export "get") (result i32) (i32.load (i32.const 0)))
  (func (export "fresh") (result i32)
    (i32.and (ref.is_null (table.get $t (i32.const 1)))
      (i32.and (i32.eq (i32.load8_u (i32.const 8)) (i32.const 7))
        (i32.and (i32.eqz (i32.load (i32.const 500000)))
          (i32.and (i32.eq (memory.size) (i32.const 8))
            (i32.eq (table.size $t) (i32.const 2))))))))"""
COUNT = SLOTS + 3
# So many memories of 4 GiB fit, but no pool.
FEW_ADDRESSES = 64 << 30


@pytest.fixture
def host():
    with Host(runtime="wasmtime") as host:
        yield host


def taken(host: Host) -> int:
    """How many slots are taken."""
    _, slots = host.runtime._pools[False]
    free = 0
    while slots.take():
        free += 1
    for _ in range(free):
        slots.give_back()
    return SLOTS - free


def test_guests_beyond_the_slots_run_beside_those_in_them(host, wat):
    program = host.compile(wat(NOTES))
    with ExitStack() as stack:
        guests = [stack.enter_context(program.instantiate()) for _ in range(COUNT)]
        assert taken(host) == SLOTS
        for number, guest in enumerate(guests):
            guest.call("put", 100 + number)
        assert [guest.call("get") for guest in guests] == [(100 + n,) for n in range(COUNT)]
    assert taken(host) == 0


def test_a_guest_finds_nothing_of_the_last_one_in_its_slot(host, wat):
    program = host.compile(wat(NOTES))
    for _ in range(5):
        with program.instantiate() as guest:
            assert taken(host) == 1
            assert (guest.call("get"), guest.call("fresh")) == ((0,), (1,))
            guest.call("put", 42)


def test_a_guest_that_fails_gives_its_slot_back(host, wat):
    trap = host.compile(wat("(module (memory 1) (func $f unreachable) (start $f))"))
    large = host.compile(wat("(module (memory 100))"))
    for _ in range(3):
        with pytest.raises(GuestTrap):
            trap.instantiate()
        with pytest.raises(LimitExceeded):
            large.instantiate(limits=Limits(memory=1 << 20))
    assert taken(host) == 0


@pytest.mark.parametrize(
    "module",
    [
        """(module (memory (export "memory") 1) (table $t 1 funcref)
        (func (export "grow") (result i32) (table.grow $t (ref.null func) (i32.const 100000))))""",
        """(module (memory (export "memory") 1) (table 100000 100000 funcref)
        (func (export "grow") (result i32) (i32.const 1)))""",
        """(module (memory (export "memory") 1) (memory $second 1)
        (func (export "grow") (result i32) (memory.grow $second (i32.const 1))))""",
        """(module (memory i64 65537) (func (export "grow") (result i32)
        (i32.store (i64.const 0x100000000) (i32.const 1)) (i32.load (i64.const 0x100000000))))""",
    ],
)
def test_what_a_slot_has_no_room_for_runs_without_one(host, wat, module):
    with host.compile(wat(module)).instantiate() as guest:
        assert guest.call("grow") == (1,)
    assert not host.runtime._pools


def test_without_addresses_for_a_pool_guests_run_one_by_one():
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({FEW_ADDRESSES}, {FEW_ADDRESSES}))
import wasmtime
from wasi_nn import Host
with Host(runtime="wasmtime") as host:
    program = host.compile(bytes(wasmtime.wat2wasm(sys.argv[1])))
    with program.instantiate() as guest:
        guest.call("put", 42)
        print(guest.call("get"), host.runtime._pools)
"""
    assert run_python(program, NOTES).stdout.strip() == "(42,) {False: None}"
