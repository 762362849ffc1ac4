"""The types that a component declares for its imports and `run` are compared with the host's."""

from __future__ import annotations

import pytest

from authoring.components import component
from wasi_nn import Host
from wasi_nn.errors import LinkError, UsageError

wasmtime = pytest.importorskip("wasmtime", reason="wasmtime is not installed")

NEWEST, OLD = "0.2.0-rc-2024-10-28", "0.2.0-rc-2024-08-19"
SECOND_MEMORY = "(core module $more (memory 1)) (core instance (instantiate $more))"
RUN = '(func $run (result (result)) (canon lift (core func $main "run")))'


@pytest.fixture
def host():
    with Host(runtime="wasmtime") as host:
        yield host


@pytest.mark.parametrize(
    ("old", "new", "version", "reason"),
    [
        ('(param "name" string)', '(param "name" u64)', "", "load-by-name .* 1 is string"),
        ('(param "tensor" (own $tensor))', '(param "tensor" u64)', OLD, "3 is own<tensor>"),
        (
            '(param "tensor" (own $tensor))',
            '(param "tensor" (borrow $tensor))',
            OLD,
            "3 is own<tensor>",
        ),
        ('(param "tensor" (own $tensor))', '(param "tensor" (own $error))', OLD, "3 is own<tens"),
        ('(param "data" (list u8))', '(param "data" string)', "", "3 is list<u8>"),
        ('(param "dimensions" (list u32))', '(param "dimensions" (list u64))', "", "1 is list<u3"),
        ('"FP16"', '"FP8"', "", "2 is the enum FP16, FP32"),
        ('"FP16" "FP32"', '"FP32" "FP16"', "", "2 is the enum FP16, FP32"),
        ('"cpu" "gpu" "tpu"', '"cpu" "gpu"', "", "3 is the enum cpu, gpu, tpu"),
        (
            "(result (list u32))",
            "(result (list u8))",
            "",
            r"dimensions .* its result is list<u32>",
        ),
        (
            '(param "name" string)\n      (result (result (own $graph) (error (own $error))))',
            '(param "name" string)\n      (result (result (own $graph) (error string)))',
            "",
            "its result is result<own<graph>, own<error>>",
        ),
        (
            '(param "name" string)\n      (result (result (own $graph) (error (own $error))))',
            '(param "name" string)\n      (result (result (own $context) (error (own $error))))',
            "",
            "its result is result<own<graph>, own<error>>",
        ),
        (
            "(result $type)",
            "(result string)",
            "",
            "ty .* its result is the enum",
        ),
        ('"[method]tensor.ty"', '"[method]tensor.kind"', "", "tensor.kind, which is not there"),
    ],
)
def test_a_function_of_another_type_is_refused_before_the_start(
    host: Host, old: str, new: str, version: str, reason: str
) -> None:
    program = host.compile(declaring(old, new, version or NEWEST))
    for attempt in (program.link, program.run):
        with pytest.raises(LinkError, match=reason):
            attempt()


def declaring(old: str, new: str, version: str) -> bytes:
    """A component that imports the functions as declared, and calls none of them: its code would
    need other core types too."""
    text = component("(i32.const 0)", version)
    assert old in text
    imports = text.replace(old, new)[: text.index("(core module $memory")]
    imports = imports[: imports.rindex("(alias export $graph")]
    run = '(instance $run) (export "wasi:cli/run@0.2.0" (instance $run))'
    return bytes(wasmtime.wat2wasm(f"{imports} {run})"))


def test_too_few_parameters_are_refused_before_the_start(host: Host) -> None:
    wasm = declaring('"load-by-name" (func (param "name" string)', '"load-by-name" (func', NEWEST)
    with pytest.raises(LinkError, match="the number of its parameters is 1"):
        host.compile(wasm).run()


def test_a_pair_is_not_accepted_for_a_list_of_bytes_without_the_rewrite(host: Host) -> None:
    text = component("(i32.const 0)", more=SECOND_MEMORY)
    text = text.replace('(param "data" (list u8))', '(param "data" (tuple u32 u32))')
    with pytest.raises(LinkError, match=r"3 is list<u8>"):
        host.compile(wasmtime.wat2wasm(text)).run()


def test_matching_types_are_compared_once(host: Host, monkeypatch) -> None:
    program = host.compile(wasmtime.wat2wasm(component("(i32.const 0)")))
    assert program.run().exit_code == 0
    monkeypatch.setattr(wasmtime.component.ComponentType, "imports", None)
    assert program.run().exit_code == 0


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ("", "(drop (i32.const 0))"),
        ("(result u32)", "(i32.const 0)"),
        ("(result bool)", "(i32.const 0)"),
        ("(result (result u32))", "(i32.const 64)"),
        ('(param "x" u32) (result (result))', "(i32.const 0)"),
    ],
)
def test_a_run_of_another_type_is_refused(host: Host, result: str, body: str) -> None:
    core = "(result i32)" if "result" in result else ""
    core = "(param i32) " + core if "param" in result else core
    text = component(body)
    text = text.replace('(func (export "run") (result i32)', f'(func (export "run") {core}')
    lift = f'(func $run {result} (canon lift (core func $main "run") (memory $bytes)))'
    program = host.compile(wasmtime.wat2wasm(text.replace(RUN, lift)))
    with pytest.raises(UsageError, match="not a command"):
        program.run()
