"""Limits of a run, laid over those of its host."""

from __future__ import annotations

import pickle

import pytest

from wasi_nn import Host, Limits, UsageError
from wasi_nn.errors import DeadlineExceeded, LimitExceeded, RuntimeFailure

COMMAND = '(module (memory (export "memory") {}) (func (export "_start") {}))'
# Traps where the memory does not grow by 16 pages.
GROW = "(if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))"
OUTER = Limits(timeout=10, memory=1 << 20, host_memory=1 << 40, output=1 << 30)


@pytest.fixture
def bounded(plugins):
    with Host(plugins=plugins, limits=Limits(memory=8 << 16, timeout=60)) as host:
        yield host


@pytest.mark.parametrize(
    ("own", "laid"),
    [
        (Limits(), OUTER),
        (Limits(timeout=2), OUTER._replace(timeout=2)),
        (Limits(timeout=20), OUTER),
        (Limits(memory=5, graphs=3), OUTER._replace(memory=5, graphs=3)),
        (Limits(memory=1 << 30), OUTER),
        (Limits(fuel=7), OUTER._replace(fuel=7)),
        # The default's value is a limit where it is given.
        (Limits(output=256 << 20), OUTER._replace(output=256 << 20)),
        (Limits(memory=1 << 30, loosen=True), OUTER._replace(memory=1 << 30)),
        (Limits(timeout=20, host_memory=3, loosen=True), OUTER._replace(timeout=20, host_memory=3)),
        (Limits(contexts=1 << 20), OUTER),
        (Limits(host_memory=1 << 41), OUTER),
    ],
)
def test_each_field_is_laid_over_the_hosts(own, laid):
    assert own.over(OUTER) == laid
    assert pickle.loads(pickle.dumps(own)).over(OUTER) == laid


def test_a_run_may_not_raise_the_default_of_host_memory():
    default = Limits().host_memory_bytes()
    assert Limits(host_memory=default + 1).over(Limits()).host_memory == default
    assert Limits(host_memory=default + 1, loosen=True).over(Limits()).host_memory == default + 1
    assert Limits().over(Limits(host_memory=default + 1)).host_memory == default + 1


def test_a_deadline_leaves_the_memory_limit(bounded, wat):
    program = bounded.compile(wat(COMMAND.format(1, GROW)))
    for options in (
        {},
        {"timeout": 30},
        {"limits": Limits(timeout=30)},
        {"limits": Limits(memory=64 << 16)},
        {"limits": Limits(loosen=True), "timeout": 90},
    ):
        assert program.run(**options).exit_code == 134, options
    assert bounded.run(wat(COMMAND.format(1, GROW)), timeout=30).exit_code == 134
    loosened = program.run(limits=Limits(memory=64 << 16, loosen=True))
    assert (loosened.exit_code, loosened.error) == (0, None)


def test_limits_hold_for_reactors_and_sessions(bounded, wat):
    grow = '(func (export "grow") (result i32) (memory.grow (i32.const 16)))'
    program = bounded.compile(wat(f'(module (memory (export "memory") 1) {grow})'))
    for options, pages in (
        ({"timeout": 30}, -1),
        ({"limits": Limits(timeout=30)}, -1),
        ({"limits": Limits(memory=64 << 16, loosen=True)}, 1),
    ):
        with program.instantiate(**options) as guest:
            assert guest.call("grow") == (pages,)
    with Host(plugins=bounded.plugins, limits=Limits(host_memory=10)) as host:
        for limits, most in (
            (Limits(contexts=3), 10),
            (Limits(host_memory=11), 10),
            (Limits(host_memory=4), 4),
        ):
            with host.open_session(limits) as session:
                session.ledger.reserve(most)
                with pytest.raises(RuntimeFailure, match="above its limit"):
                    session.ledger.reserve(1)


def test_the_shorter_timeout_holds(bounded, wat):
    program = bounded.compile(wat(COMMAND.format(1, "(loop $l (br $l))")))
    for options in (
        {"timeout": 0.1},
        {"timeout": 0.1, "limits": Limits(timeout=50)},
        {"timeout": 50, "limits": Limits(timeout=0.1)},
        {"timeout": 0},
        {"timeout": -1.5},
    ):
        assert isinstance(program.run(**options).error, DeadlineExceeded), options
    endless = Limits(timeout=float("inf"), loosen=True)
    assert bounded.run(wat(COMMAND.format(1, "")), limits=endless).error is None
    large = bounded.run(wat(COMMAND.format(9, "")), limits=Limits(timeout=30))
    assert isinstance(large.error, LimitExceeded)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"limits": Limits(memory="64M")}, "limit memory is '64M', and must be a whole number"),
        ({"limits": Limits(fuel=1 << 70)}, "limit fuel is"),
        ({"limits": Limits(host_memory=-1)}, "limit host_memory is -1"),
        ({"limits": Limits(output=None)}, "limit output is None"),
        ({"limits": {"timeout": 5}}, "must be Limits"),
        ({"timeout": "5"}, "timeout is '5', and must be a number of seconds"),
        ({"timeout": float("nan")}, "timeout is nan"),
    ],
)
def test_a_value_that_is_not_a_limit_is_a_usage_error(bounded, wat, options, says):
    program = bounded.compile(wat(COMMAND.format(1, "")))
    with pytest.raises(UsageError, match=says):
        program.run(**options)
    if "limits" in options:
        with pytest.raises(UsageError, match=says):
            Host(limits=options["limits"])


def test_a_guest_above_its_size_is_not_compiled(wat, tmp_path):
    wasm = bytes(wat(COMMAND.format(1, "")))
    path = tmp_path / "guest.wasm"
    path.write_bytes(wasm)
    with Host(limits=Limits(wasm_bytes=len(wasm))) as host:
        assert host.run(wasm).exit_code == host.run(path).exit_code == 0
    with Host(limits=Limits(wasm_bytes=len(wasm) - 1)) as host:
        for guest in (wasm, path):
            with pytest.raises(UsageError, match=f"more than {len(wasm) - 1} bytes, its limit"):
                host.program(guest)
