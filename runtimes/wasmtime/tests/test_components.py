"""Components on wasmtime: every version, ownership, and the errors of guests."""

from __future__ import annotations

import gc
import re
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authoring.component_steps import (
    CHECK,
    COMPUTE,
    DATA,
    NEWEST,
    OLD,
    OPEN,
    TAKE,
    TENSOR,
    compiled,
    with_net,
)
from authoring.components import component
from wasi_nn import Host
from wasi_nn._abi.component.interfaces import Wit
from wasi_nn._abi.component.versions import ERROR_CODES, VERSIONS
from wasi_nn._abi.guard import Observer
from wasi_nn.errors import GuestTrap, LinkError, UsageError
from wasi_nn.limits import Limits
from wasi_nn.runtime.component import Result

wasmtime = pytest.importorskip("wasmtime", reason="wasmtime is not installed")


@pytest.fixture
def host(tmp_path: Path):
    with with_net(tmp_path) as host:
        yield host


@pytest.fixture(params=["wasmtime", "wasmtime@"])
def either(request: pytest.FixtureRequest, tmp_path: Path):
    """A host whose guests run in its process, or in processes of their own."""
    with with_net(tmp_path, request.param) as host:
        yield host


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_computes(either: Host, version: str) -> None:
    way = COMPUTE + TAKE if version == NEWEST else OLD
    drop = "(call $drop_tensor (local.get $t)) (call $drop_context (local.get $x))"
    run = OPEN + TENSOR + way + CHECK + drop + "(call $drop_graph (local.get $g)) (i32.const 0)"
    result = compiled(either, run, version).run(stats=True).check()
    assert result.exit_code == 0
    assert result.failed == 0
    assert result.dialect == ("wasi:nn@" + version if version else "wasi:nn")
    assert result.calls["tensor.data"].calls == 1


@pytest.mark.parametrize("version", VERSIONS[2:])
def test_a_guest_makes_errors_of_all_nine_codes(either: Host, version: str) -> None:
    each = "".join(
        f"""(local.set $e (call $error (i32.const {number}) (i32.const 1024) (i32.const 3)))
        (if (i32.ne (call $code (local.get $e)) (i32.const {number})) (then unreachable))
        (call $reason (local.get $e) (i32.const 64))
        (if (i32.ne (i32.load (i32.const 68)) (i32.const 3)) (then unreachable))
        (call $drop_error (local.get $e))"""
        for number in range(len(ERROR_CODES))
    )
    run = f"(local $e i32) {each} (i32.const 0)"
    assert compiled(either, run, version).run().check().exit_code == 0


def test_a_context_computes_after_its_graph_was_dropped(host: Host) -> None:
    run = OPEN + "(call $drop_graph (local.get $g))" + TENSOR + COMPUTE + TAKE + CHECK
    assert compiled(host, run + "(i32.const 0)").run().check().exit_code == 0


def test_an_unknown_name_is_an_error_with_its_reason(either: Host) -> None:
    # The guest compares the code and the first letters of the reason.
    run = """
      (call $load_by_name (i32.const 1024) (i32.const 2) (i32.const 64))
      (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (then unreachable))
      (if (i32.ne (call $code (i32.load (i32.const 68))) (i32.const 6)) (then unreachable))
      (call $reason (i32.load (i32.const 68)) (i32.const 80))
      (i32.ne (i32.load (i32.load (i32.const 80))) (i32.const 0x6d206f6e))"""  # "no m"
    result = compiled(either, run).run()
    assert result.check().exit_code == 0
    assert "no model is registered as 'ne'" in result.failures[0].reason


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (TENSOR.replace("(i32.const 8)", "(i32.const 7)"), "takes 8 bytes, not 7"),
        (TENSOR.replace("(i32.const 2) (i32.const 4)", "(i32.const 2) (i32.const 1)"), "32 bytes"),
        (TENSOR.replace("(i32.const 2) (i32.const 4)", "(i32.const 65) (i32.const 4)"), "65 dim"),
        (TENSOR + "(i32.store8 (i32.const 1028) (i32.const 120))", "there is no input named 'x'"),
    ],
)
def test_a_wrong_tensor_is_an_error(either: Host, wrong: str, reason: str) -> None:
    # The guest ignores the error value, which must be harmless.
    result = compiled(either, OPEN + wrong + COMPUTE + "(i32.const 0)").run()
    assert result.check().exit_code == 1
    assert reason in result.failures[0].reason


def test_compute_does_not_keep_earlier_inputs(host: Host) -> None:
    again = "(call $compute (local.get $x) (i32.const 256) (i32.const 0) (i32.const 64))"
    run = OPEN + TENSOR + COMPUTE + again + "(i32.load8_u (i32.const 64))"
    result = compiled(host, run).run()
    assert result.exit_code == 1
    assert result.failed == 1


def test_wrong_dimensions_are_an_error_with_a_reason(host: Host, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.UINT8
    node = onnx.helper.make_node("Identity", ["in"], ["out"])
    graph = onnx.helper.make_graph([node], "g", [value("in", kind, [3])], [value("out", kind, [3])])
    opset = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "three.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    host.add_model("onn", path)
    run = OPEN + TENSOR + COMPUTE + "(i32.const 0)"
    result = compiled(host, run, data="onn" + DATA[3:]).run()
    assert result.check().exit_code == 1
    assert "does not take a tensor of dimensions [2, 4]" in result.failures[0].reason


def test_an_unknown_version_is_refused_before_the_start(host: Host) -> None:
    program = compiled(host, "(i32.const 0)", "0.3.0")
    with pytest.raises(LinkError, match=r"wasi:nn@0\.3\.0; this host serves 0\.2\.0-rc-2024-10-28"):
        program.link()
    with pytest.raises(LinkError, match=r"0\.3\.0"):
        program.run()


def test_an_unknown_interface_is_refused_before_the_start(host: Host) -> None:
    more = '(import "acme:shop/cart@1.0.0" (instance $cart (export "buy" (func))))'
    with pytest.raises(LinkError, match=r"acme:shop/cart@1\.0\.0, which nothing here provides"):
        compiled(host, "(i32.const 0)", more=more).run()


def test_an_unknown_interface_of_wasi_is_refused_before_the_start(host: Host) -> None:
    more = '(import "wasi:cli/nothing@0.2.0" (instance $n (export "x" (func))))'
    with pytest.raises(LinkError, match="wasi:cli/nothing"):
        compiled(host, "(i32.const 0)", more=more).run()


def test_all_missing_interfaces_are_listed_before_compiling(host: Host) -> None:
    """The module in this component is not valid, but it is never compiled."""
    names = ("wasi:http/types@0.2.0", "wasi:cli/nothing@0.2.0", "wasi:io/poll@0.3.0", "plain")
    instances = "".join(f'(import "{name}" (instance))' for name in names)
    others = '(import "f" (func)) (import "t" (type (sub resource)))'
    module = '(core module (import "x" "y" (func)) (func (param i32)))'
    text = f"(component {instances} {others} {module})"
    valid = wasmtime.wat2wasm(text)
    wasm = bytes(valid).replace(b"\x02\x00\x0b", b"\x02\x00\x1a")
    says = ", which nothing here provides; it imports ".join([*names, "the function f"])
    for work in (host.program(wasm).link, host.program(wasm).run, partial(host.run, wasm)):
        with pytest.raises(LinkError, match=re.escape(f"it imports {says}, which nothing")):
            work()


@pytest.mark.parametrize("version", ["0.2.0", "0.2.3", "0.2.12"])
def test_every_minor_version_of_wasi_works(host: Host, version: str) -> None:
    text = (
        f'(import "wasi:io/poll@{version}" (instance)) '
        f'(import "wasi:cli/terminal-stdin@{version}" (instance))'
    )
    assert compiled(host, "(i32.const 0)", more=text).run().check().exit_code == 0


def test_a_component_that_is_not_a_command_is_refused(either: Host) -> None:
    text = """(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f"))) (type $t (record (field "a" u8)))
        (instance $x (export "buy" (func $f)))
        (export "acme:shop/cart@1.0.0" (instance $x)) (export "f" (func $f))
        (export "t" (type $t)) (export "m" (core module $m)))"""
    program = either.program(wasmtime.wat2wasm(text))
    says = r"does not export wasi:cli/run; it exports: acme:shop/cart@1\.0\.0, f, m$"
    with pytest.raises(UsageError, match=says):
        program.run()


def test_the_exports_of_a_component_cannot_be_called(host: Host) -> None:
    program = host.program(wasmtime.wat2wasm("(component)"))
    with pytest.raises(UsageError, match="a component is run as a command"):
        program.instantiate()
    assert program.exports == {}


def test_a_run_of_another_type_is_refused(either: Host) -> None:
    text = """(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $x (export "run" (func $f))) (export "wasi:cli/run@0.2.0" (instance $x)))"""
    program = either.program(wasmtime.wat2wasm(text))
    for work in (program.link, program.run):
        with pytest.raises(UsageError, match=r"with a run: func\(\) -> result"):
            work()


def test_a_core_dialect_and_damaged_bytes_are_refused(either: Host) -> None:
    with pytest.raises(UsageError, match="components have wit, wit-wasmtime"):
        compiled(either, "(i32.const 0)").run(dialect="wasmedge")
    with pytest.raises(UsageError, match="component"):
        either.compile(b"\0asm\x0d\0\1\0\x0a\x05junk")


def test_a_trap_is_a_guest_error(either: Host) -> None:
    result = compiled(either, OPEN + "unreachable").run()
    assert isinstance(result.error, GuestTrap)
    assert result.exit_code == 134


def test_a_call_too_large_for_wasmtime_ends_the_guest_with_advice(either: Host) -> None:
    builders = "".join(
        f"(i32.store (i32.const {256 + 8 * i}) (i32.const 0))"
        f"(i32.store (i32.const {260 + 8 * i}) (i32.const 2000000))"
        for i in range(3)
    )
    load = "(call $load (i32.const 256) (i32.const 3) (i32.const 6) (i32.const 0) (i32.const 64))"
    run = f"{builders}{load}(i32.load8_u (i32.const 64))"
    assert compiled(either, run).run().check().exit_code == 1
    # With a second memory, its lists go through wasmtime's C API.
    more = "(core module $more (memory 1)) (core instance (instantiate $more))"
    result = compiled(either, run, more=more).run()
    assert "about 4 MiB in one call" in str(result.error)


def test_dropping_twice_only_traps(either: Host) -> None:
    twice = "(call $drop_tensor (local.get $t))" * 2
    result = compiled(either, OPEN + TENSOR + twice + "(i32.const 0)").run()
    assert "unknown handle index" in str(result.error)


def test_a_thousand_trapping_guests_leave_nothing_behind(host: Host) -> None:
    # Each guest leaves a tensor of 64 KiB, an error, a context and a graph.
    big = """(i32.store (i32.const 1032) (i32.const 65536))
      (drop (call $tensor (i32.const 1032) (i32.const 1) (i32.const 4) (i32.const 1024)
        (i32.const 65536)))
      (call $load_by_name (i32.const 1024) (i32.const 1) (i32.const 64))"""
    program = compiled(host, OPEN + TENSOR + big + "unreachable")
    for _ in range(50):
        program.run(capture=False)
    gc.collect()
    before = _resident()
    for _ in range(1000):
        assert isinstance(program.run(capture=False).error, GuestTrap)
    gc.collect()
    assert _resident() - before < 20 << 20  # a leak of the tensors alone is 65 MB


def test_a_guest_may_not_reserve_more_than_its_limit(either: Host) -> None:
    make = "(loop $l" + TENSOR + "(local.set $n (i32.add (local.get $n) (i32.const 1)))"
    make += "(br_if $l (i32.lt_u (local.get $n) (i32.const 2000))))"
    run = "(local $n i32)" + OPEN + make + COMPUTE + "(i32.const 0)"
    result = compiled(either, run).run(limits=Limits(host_memory=100_000))
    assert result.check().exit_code == 1
    assert "above its limit of 100000" in result.failures[0].reason


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(0, 2**32 - 1), max_size=70),
    st.sampled_from(["FP16", "FP32", "FP64", "BF16", "U8", "I32", "I64"]),
    st.binary(max_size=64),
    st.text(max_size=12),
)
def test_any_tensor_gets_an_answer(
    host: Host, dims: list[int], kind: str, data: bytes, name: str
) -> None:
    with host.open_session() as session:
        wit = Wit(session, Observer())
        for version in VERSIONS:
            functions = {f.name: f.call for i in wit.interfaces(version) for f in i.functions}
            graph = functions["load-by-name"]("net").value
            context = functions["[method]graph.init-execution-context"](graph).value
            tensor = functions["[constructor]tensor"](dims, kind, data)
            assert functions["[method]tensor.ty"](tensor) == kind
            if version == NEWEST:
                way = "[method]graph-execution-context.compute"
                result = functions[way](context, [(name, tensor)])
            else:
                way = "[method]graph-execution-context.set-input"
                result = functions[way](context, name, tensor)
            assert isinstance(result, Result)
            assert tensor not in wit.tensors
            if not result.ok:
                assert wit.errors[result.value].code != "unknown"


def test_a_language_model_works_through_named_tensors(host: Host) -> None:
    """With ggml, the prompt is an input by name, and the text is the first output."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    graphs = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml"
    config = {"temp": 0, "threads": 1, "ctx-size": 256, "grammar": 'root ::= "yes"'}
    host.add_model("llm", graphs / "tiny.gguf", config=config)
    data = r"llm\00prompt\00\00\05\00\00\00Hello"
    run = (
        OPEN
        + """
      (local.set $t (call $tensor (i32.const 1036) (i32.const 1) (i32.const 4)
        (i32.const 1040) (i32.const 5)))
      (i32.store (i32.const 256) (i32.const 1028)) (i32.store (i32.const 260) (i32.const 6))
      (i32.store (i32.const 264) (local.get $t))
      (call $compute (local.get $x) (i32.const 256) (i32.const 1) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
      (if (i32.ne (i32.load (i32.const 72)) (i32.const 2)) (then unreachable))
      """
        + TAKE
        + """
      (call $data (local.get $t) (i32.const 80))
      (if (i32.ne (i32.load (i32.load (i32.const 80))) (i32.const 0x3c736579)) (then unreachable))
      (i32.const 0)
      """
    )
    result = host.run(wasmtime.wat2wasm(component(run, data=data)))
    assert result.exit_code == 0, (result.error, result.failures)
    assert result.generation is not None
    assert result.generation.tokens == 4
