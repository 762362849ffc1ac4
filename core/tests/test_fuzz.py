"""Garbage at every pointer, length, handle and struct: an errno comes back, and nothing else."""

from __future__ import annotations

import contextlib
import struct
import sys
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasi_nn import UsageError
from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn._session import failures

SIZE = 1 << 12
MODEL = b'wasi-nn:identity {"stream": 2}'
TEXT = b'wasi-nn:identity {"untyped_bytes": true}'
# Mostly values near something: small handles, the memory's edges, the ends of the number range.
VALUES = st.one_of(
    st.integers(0, 4),
    st.integers(0, SIZE),
    st.integers(SIZE - 32, SIZE + 32),
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]),
)
FUZZ = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def legal(guest):
    return {0, *guest.reading.dialect.errnos.values()}


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@FUZZ
@given(data=st.data())
def test_any_sequence_of_calls_gives_errnos(caller, dialect, data):
    guest = caller(dialect, size=SIZE)
    guest.bytes[:] = data.draw(st.binary(min_size=64, max_size=64)) * (SIZE // 64)
    names = st.sampled_from(sorted(guest.functions))
    arities = {name: count for name, (count, _) in _table(guest).items()}
    for name in data.draw(st.lists(names, min_size=1, max_size=8)):
        arguments = data.draw(st.tuples(*[VALUES] * arities[name]))
        assert guest(name, *arguments) in legal(guest)
    guest.session.close()


def _table(guest):
    from wasi_nn._abi.core.wamr_legacy import WamrLegacy
    from wasi_nn._abi.core.witx import Witx

    legacy = guest.reading.dialect.module == "wasi_nn"
    return (WamrLegacy if legacy else Witx)(guest.session, guest.reading).table()


@pytest.mark.parametrize("model", [MODEL, TEXT])
@FUZZ
@given(fields=st.tuples(VALUES, VALUES, VALUES, VALUES, VALUES), index=VALUES, output=VALUES)
def test_any_tensor_record_gives_an_errno(caller, model, fields, index, output):
    guest = caller(size=SIZE)
    context = guest.context(model)
    record = guest.put(struct.pack("<5I", *fields))
    calls = [
        ("set_input", (context, index, record)),
        ("compute", (context,)),
        ("get_output", (context, output, *fields[:3])),
        ("compute_single", (context,)),
        ("get_output_single", (context, output, *fields[:3])),
        ("fini_single", (context,)),
    ]
    for name, arguments in calls:
        assert guest(name, *arguments) in legal(guest)
    guest.session.close()


@mock.patch.object(failures, "AT_ONCE", sys.maxsize)
@FUZZ
@given(models=st.lists(st.binary(max_size=64), max_size=3), encoding=st.integers(0, 20))
def test_any_bytes_as_a_model_give_an_errno(caller, models, encoding):
    guest = caller(size=SIZE)
    out = guest.put(bytes(4))
    assert guest("load", guest.builders(*models), len(models), encoding, 0, out) in legal(guest)
    guest.session.close()


@FUZZ
@given(config=st.binary(max_size=80))
def test_any_bytes_as_a_config_give_an_errno(caller, host, identity_model, config):
    with contextlib.suppress(UsageError):  # it is there from the second example on
        host.add_model("m", identity_model())
    guest = caller("wasmedge", size=SIZE)
    name, at, out = guest.put(b"m"), guest.put(config), guest.put(bytes(4))
    errno = guest("load_by_name_with_config", name, 1, at, len(config), out)
    assert errno in legal(guest)
    guest.session.close()
