"""The values of a component's calls, between the host and a process that may lie."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wasi_nn.runtime.component import (
    U32,
    Bytes,
    Enumeration,
    ListOf,
    Own,
    Result,
    ResultOf,
    Text,
    TupleOf,
    Type,
)
from wasi_nn.runtime.process._protocol import GARBLED
from wasi_nn.runtime.process._values import read_all, write

_NUMBERS = st.integers(0, 2**32 - 1)
_CASES = ("cpu", "gpu", "tpu")
_LEAVES: list[tuple[Type, st.SearchStrategy]] = [
    (U32(), _NUMBERS),
    (Own("tensor"), _NUMBERS),
    (Text(), st.text(max_size=9)),
    (Bytes(), st.binary(max_size=9)),
    (Enumeration(_CASES), st.sampled_from(_CASES)),
]


def _typed(kind: Type, value: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(kind), value)


def _deeper(inner: st.SearchStrategy) -> st.SearchStrategy:
    def of(pair: tuple[Type, object]) -> st.SearchStrategy:
        kind, value = pair
        fails = ResultOf(None, kind)
        return st.one_of(
            _typed(ListOf(kind), st.lists(st.just(value), max_size=3)),
            _typed(TupleOf((kind, Text())), st.tuples(st.just(value), st.text(max_size=3))),
            _typed(ResultOf(kind, U32()), st.just(Result(True, value))),
            _typed(fails, st.sampled_from([Result(True), Result(False, value)])),
        )

    return inner.flatmap(of)


_PAIRS = st.recursive(st.one_of(*(_typed(*leaf) for leaf in _LEAVES)), _deeper, max_leaves=2)


@given(st.lists(_PAIRS, max_size=4))
def test_values_come_out_as_they_went_in(pairs: list[tuple[Type, object]]) -> None:
    parts: list[bytes | memoryview] = []
    for kind, value in pairs:
        write(kind, value, parts)
    data = memoryview(b"".join(parts))
    assert read_all([kind for kind, _ in pairs], data) == [value for _, value in pairs]


@given(_PAIRS, st.binary(max_size=64))
def test_garbage_is_an_error_or_a_value_of_the_type(pair: tuple[Type, object], data: bytes) -> None:
    kind, _ = pair
    try:
        (value,) = read_all([kind], memoryview(data))
    except GARBLED:
        return
    parts: list[bytes | memoryview] = []
    write(kind, value, parts)
    assert len(b"".join(parts)) == len(data)
