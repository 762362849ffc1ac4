"""Dropped resources are freed, kept ones count, and names are those of the interface."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from authoring.component_steps import (
    CHECK,
    COMPUTE,
    NEWEST,
    OLD,
    OPEN,
    TAKE,
    TENSOR,
    compiled,
    with_net,
)
from wasi_nn import Host
from wasi_nn._abi.component.interfaces import Wit
from wasi_nn._abi.component.versions import ENCODINGS, ERROR_CODES, TENSOR_TYPES, VERSIONS
from wasi_nn._abi.guard import Observer
from wasi_nn.errors import ErrorCode, NnError, RuntimeFailure
from wasi_nn.limits import Limits
from wasi_nn.types import TensorType

WIT = Path(__file__).parents[3] / "conformance/guests/components/wit/deps"
DROP = "(call $drop_tensor (local.get $t)) (call $drop_context (local.get $x))"
DROP += "(call $drop_graph (local.get $g))"
# An error made by the host, kept in $e.
FAIL = """
  (call $load_by_name (i32.const 1024) (i32.const 1) (i32.const 64))
  (local.set $e (i32.load (i32.const 68)))
"""


@pytest.fixture
def host(tmp_path: Path):
    with with_net(tmp_path) as host:
        yield host


def again(body: str, times: int = 50) -> str:
    """Repeat the body, with its locals in one declaration."""
    text = re.sub(r"\(local \$[a-z]+ i32\)", "", body)
    locals_ = "".join(sorted(set(re.findall(r"\(local \$[a-z]+ i32\)", body))))
    return f"""{locals_} (local $round i32) (loop $rounds {text}
      (local.set $round (i32.add (local.get $round) (i32.const 1)))
      (br_if $rounds (i32.lt_u (local.get $round) (i32.const {times}))))"""


@pytest.mark.parametrize("version", VERSIONS)
def test_dropped_resources_no_longer_count(host: Host, version: str) -> None:
    way = COMPUTE + TAKE if version == NEWEST else OLD
    body = "(local $e i32)" + OPEN + TENSOR + way + CHECK + FAIL
    # (An error without room has the code too-large.)
    body += "(if (i32.eq (call $code (local.get $e)) (i32.const 5)) (then unreachable))"
    body += "(call $drop_error (local.get $e))" + DROP
    # Room for one of each, and for two tensors: an input and an output.
    limits = Limits(graphs=1, contexts=1, host_memory=1500)
    result = compiled(host, again(body) + "(i32.const 0)", version).run(limits=limits)
    assert result.check().exit_code == 0, result.failures
    assert result.failed == 50  # one in each round


@pytest.mark.parametrize(
    ("kept", "full"),
    [
        (TENSOR, "the tensor was refused|when it was made"),
        (TENSOR + COMPUTE + TAKE, "more would be above its limit"),
    ],
)
def test_kept_tensors_count(host: Host, kept: str, full: str) -> None:
    run = again("(local $t i32) " + kept)
    run = OPEN.replace("(local $t i32)", "") + run + TENSOR + COMPUTE + "(i32.const 0)"
    locals_ = "".join(re.findall(r"\(local \$[a-z]+ i32\)", run))
    run = locals_ + re.sub(r"\(local \$[a-z]+ i32\)", "", run)
    result = compiled(host, run).run(limits=Limits(host_memory=5000))
    assert result.check().exit_code == 1
    assert re.search(full, result.failures[0].reason)


def test_kept_errors_count(host: Host) -> None:
    run = again("(local $e i32)" + FAIL, 20)
    # The last error had no room, so it has the code too-large.
    run += "(i32.ne (call $code (local.get $e)) (i32.const 5))"
    result = compiled(host, run).run(limits=Limits(host_memory=2000))
    assert result.check().exit_code == 0


def test_other_inputs_need_no_second_context(host: Host) -> None:
    none = "(call $compute (local.get $x) (i32.const 256) (i32.const 0) (i32.const 64))"
    run = OPEN + TENSOR + COMPUTE + none + TENSOR + COMPUTE + "(i32.const 0)"
    result = compiled(host, run).run(limits=Limits(contexts=1))
    assert result.check().exit_code == 0
    assert [failure.reason for failure in result.failures] == ["no input has been set"]


def test_reopening_a_context_is_tried_again_after_a_failure(host: Host) -> None:
    with host.open_session() as session:
        wit = Wit(session, Observer())
        context = wit.init_context(wit.load_by_name("net"))
        wit.compute_named(context, [("0", wit.make([1], "U8", b"a"))])
        session.contexts.limit = 0
        with pytest.raises(RuntimeFailure, match="execution contexts"):
            wit.compute_named(context, [("1", wit.make([1], "U8", b"b"))])
        with pytest.raises(RuntimeFailure, match="execution contexts"):
            wit.compute_named(context, [("1", wit.make([1], "U8", b"b"))])
        session.contexts.limit = 1
        ((name, tensor),) = wit.compute_named(context, [("0", wit.make([1], "U8", b"c"))])
        assert (name, wit.data(tensor)) == ("0", b"c")
        session.contexts.limit = 0
        with pytest.raises(RuntimeFailure):
            wit.compute_named(context, [])
        wit._drop_context(context)
        assert (session.contexts, wit.contexts) == ({}, {})


def test_the_dialect_wit_wasmtime_names_outputs_by_number(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "named.model"
    path.write_text('wasi-nn:identity {"inputs": ["0x"]}\n')
    host.add_model("nam", path, encoding="identity")
    # The length of the output's name.
    length = "(i32.load offset=4 (i32.load (i32.const 68)))"
    data = r"nam\000x\00\00\02\00\00\00\04\00\00\00abcdefgh"
    two = COMPUTE.replace("(i32.store (i32.const 260) (i32.const 1))", "")
    two = "(i32.store (i32.const 260) (i32.const 2))" + two
    for dialect, wanted in (("wit", 2), ("wit-wasmtime", 1)):
        run = OPEN + TENSOR + two + f"(i32.ne {length} (i32.const {wanted}))"
        assert compiled(host, run, data=data).run(dialect=dialect).check().exit_code == 0


def test_a_name_of_megabytes_is_refused(host: Host) -> None:
    run = """(call $load_by_name (i32.const 1024) (i32.const 2000000) (i32.const 64))
      (call $reason (i32.load (i32.const 68)) (i32.const 80))
      (i32.gt_u (i32.load (i32.const 84)) (i32.const 5000))"""
    result = compiled(host, run).run(limits=Limits(host_memory=10_000))
    assert result.check().exit_code == 0
    assert len(result.failures[0].reason) < 5000
    assert "the name has 2000000 bytes, and may have 4096" in result.failures[0].reason


CODES = {
    ErrorCode.INVALID_ARGUMENT: "invalid-argument",
    ErrorCode.INVALID_ENCODING: "invalid-encoding",
    ErrorCode.MISSING_MEMORY: "invalid-argument",
    ErrorCode.BUSY: "timeout",
    ErrorCode.RUNTIME_ERROR: "runtime-error",
    ErrorCode.UNSUPPORTED_OPERATION: "unsupported-operation",
    ErrorCode.TOO_LARGE: "too-large",
    ErrorCode.NOT_FOUND: "not-found",
    ErrorCode.SECURITY: "security",
    ErrorCode.END_OF_SEQUENCE: "runtime-error",
    ErrorCode.CONTEXT_FULL: "too-large",
    ErrorCode.PROMPT_TOO_LONG: "too-large",
    ErrorCode.MODEL_NOT_FOUND: "not-found",
    None: "unknown",
}


@pytest.mark.parametrize("code", [*ErrorCode, None])
def test_every_failure_has_its_error_code(host: Host, monkeypatch, code: ErrorCode | None) -> None:
    failure = NnError("because") if code else ZeroDivisionError("because")
    if code:
        monkeypatch.setattr(failure, "code", code)

    def fail(name: str) -> int:
        raise failure

    with host.open_session() as session:
        wit = Wit(session, Observer())
        call = {f.name: f.call for i in wit.interfaces(NEWEST) for f in i.functions}
        monkeypatch.setattr(session, "load_by_name", fail)
        result = call["load-by-name"]("net")
        assert not result.ok
        assert call["[method]error.code"](result.value) == CODES[code]
        assert "because" in call["[method]error.data"](result.value)


def test_the_names_are_those_of_the_interface() -> None:
    """They are in the order of the WIT text: the number of an enum's case is its position."""
    text = re.sub(r"//.*", "", "".join(p.read_text() for p in WIT.rglob("*.wit")))

    def cases(name: str) -> list[str]:
        (inside,) = re.findall(rf"enum {name} {{(.*?)}}", text, re.DOTALL)
        return [case.strip() for case in inside.split(",") if case.strip()]

    assert cases("tensor-type") == [*TENSOR_TYPES]
    assert cases("graph-encoding") == [*ENCODINGS]
    assert cases("error-code") == [*ERROR_CODES]
    assert TENSOR_TYPES == {
        "FP16": TensorType.F16,
        "FP32": TensorType.F32,
        "FP64": TensorType.F64,
        "BF16": TensorType.BF16,
        "U8": TensorType.U8,
        "I32": TensorType.I32,
        "I64": TensorType.I64,
    }
