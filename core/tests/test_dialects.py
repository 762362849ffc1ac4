"""The numbers of every dialect, and how a guest's dialect is inferred."""

from __future__ import annotations

import pytest

from wasi_nn._abi.core.detection import detect_dialect
from wasi_nn._abi.core.dialects import DIALECTS, dialect
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn.errors import ErrorCode, UsageError
from wasi_nn.types import TensorType
from wasi_nn.wasm.module import leb, parse, section_bytes

OLD = ["f16", "f32", "u8", "i32"]
NEW = ["f16", "f32", "f64", "u8", "i32", "i64"]
WIT = ["f16", "f32", "f64", "bf16", "u8", "i32", "i64"]


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("witx", NEW),
        ("witx-2022", OLD),
        ("witx-2022-04", OLD),
        ("witx-2020", OLD),
        ("wasmedge", NEW),
        ("wasmedge-0.14", OLD),
        ("wasmedge-2022", OLD),
        ("wasmedge-2023-12", OLD),
        ("wamr", NEW),
        ("wamr-2.1", WIT),
        ("wamr-legacy", OLD),
    ],
)
def test_the_tensor_types_of_each_dialect(name, types):
    assert [str(kind) for kind in dialect(name).tensor_types] == types


def test_every_dialect_is_tested_and_has_an_errno_for_every_reason():
    assert len(DIALECTS) == 11
    for known in DIALECTS.values():
        assert set(known.errnos) == set(ErrorCode)
        assert 0 not in known.errnos.values(), "0 is success"


def test_the_errnos_of_the_specification():
    order = [
        "invalid_argument",
        "invalid_encoding",
        "missing_memory",
        "busy",
        "runtime_error",
        "unsupported_operation",
        "too_large",
        "not_found",
    ]
    errnos = dialect("witx").errnos
    assert [errnos[ErrorCode(name)] for name in order] == list(range(1, 9))


def test_the_errnos_and_encodings_of_wasmedge():
    known = dialect("wasmedge")
    names = ["end_of_sequence", "context_full", "prompt_too_long", "model_not_found"]
    assert [known.errnos[ErrorCode(name)] for name in names] == [100, 101, 102, 103]
    assert known.encodings[9] == "whisper"
    assert known.encodings[14] == "bitnet"


def test_a_refused_tensor_decides_nothing_when_a_text_is_accepted_next():
    negotiation = DialectNegotiation([dialect("witx"), dialect("witx-2022")])
    assert negotiation.tensor_type(2, (1,), 1) is TensorType.U8
    negotiation.byte_type(0)
    negotiation.commit()
    assert [candidate.name for candidate in negotiation.candidates] == ["witx", "witx-2022"]


def test_an_unknown_dialect_is_a_usage_error():
    with pytest.raises(UsageError, match="known: witx"):
        dialect("klingon")


def module(wat, *imports: tuple[str, str], custom: bytes = b"") -> bytes:
    lines = "".join(f'(import "{m}" "{n}" (func (param i32) (result i32)))' for m, n in imports)
    return wat(f"(module {lines})") + custom


def section(name: bytes, content: bytes) -> bytes:
    body = bytes([len(name)]) + name + content
    assert len(body) < 128
    return b"\0" + bytes([len(body)]) + body


@pytest.mark.parametrize(
    ("imports", "custom", "first"),
    [
        ([("wasi_nn", "compute")], b"", "wamr-legacy"),
        ([("wasi_ephemeral_nn", "compute")], b"", "witx"),
        ([("wasi_ephemeral_nn", "compute_single")], b"", "wasmedge-2023-12"),
        (
            [("wasi_ephemeral_nn", "compute_single"), ("wasi_ephemeral_nn", "fini_single")],
            b"",
            "wasmedge",
        ),
        (
            [("wasi_ephemeral_nn", "compute_single"), ("wasi_ephemeral_nn", "unload")],
            b"",
            "wasmedge",
        ),
        ([("wasi_ephemeral_nn", "unload")], b"", "wasmedge"),
        (
            [("wasi_ephemeral_nn", "compute")],
            section(b"name", b"_ZN16wasmedge_wasi_nn5graph"),
            "wasmedge",
        ),
        (
            [("wasi_ephemeral_nn", "compute")],
            section(b"producers", b"processed-by AssemblyScript"),
            "witx-2022",
        ),
    ],
)
def test_the_dialect_is_detected_from_imports_and_sections(wat, imports, custom, first):
    inferred = detect_dialect(parse(module(wat, *imports, custom=custom)))
    assert inferred.candidates[0].name == first
    assert inferred.evidence


def producers(*tools):
    """The section of the compilers, each with its version."""
    texts = [bytes((len(text),)) + text.encode() for tool in tools for text in tool]
    return section(b"producers", b"\x01\x0cprocessed-by" + bytes((len(tools),)) + b"".join(texts))


@pytest.mark.parametrize(
    ("tools", "first"),
    [
        ([("rustc", "1.74.1 (a28077b28 2023-12-04)")], "wasmedge-2023-12"),
        ([("rustc", "1.76.0-nightly (a57770440 2023-11-16)")], "wasmedge-2023-12"),
        ([("rustc", "1.77.0 (aedd173a2 2024-03-17)")], "wasmedge"),
        ([("clang", "18.1.2"), ("rustc", "1.75.0")], "wasmedge-2023-12"),
        ([("clang", "16.0.4"), ("rustc", "1.80.0")], "wasmedge"),
        ([("clang", "17.0.6")], "wasmedge-2023-12"),
        ([("clang", "19.1.5-wasi-sdk (https://github.com/llvm)")], "wasmedge"),
        ([("walrus", "0.20.3")], "wasmedge-2023-12"),
        ([("rustc", "unknown")], "wasmedge-2023-12"),
    ],
)
def test_a_recent_compiler_rules_out_the_dialect_of_2023(wat, tools, first):
    """A guest of today need not call fini_single, and knows the end of a text as errno 100."""
    guest = module(wat, ("wasi_ephemeral_nn", "compute_single"), custom=producers(*tools))
    assert detect_dialect(parse(guest)).candidates[0].name == first


def test_a_very_long_version_of_a_compiler_is_ignored(wat):
    """Python refuses to convert a number of so many digits."""
    version = b"9" * 5000 + b".1"
    content = b"\x01\x0cprocessed-by\x01\x05rustc" + leb(len(version)) + version
    named = b"".join(section_bytes(0, b"\x09producers", content))
    guest = module(wat, ("wasi_ephemeral_nn", "compute_single"), custom=named)
    assert detect_dialect(parse(guest)).candidates[0].name == "wasmedge-2023-12"


def test_a_damaged_producers_section_is_ignored(wat):
    whole = producers(("rustc", "1.80.0"))
    for end in range(12, len(whole)):
        cut = b"\0" + bytes((end - 2,)) + whole[2:end]
        guest = module(wat, ("wasi_ephemeral_nn", "compute_single"), custom=cut)
        assert detect_dialect(parse(guest)).candidates[0].name == "wasmedge-2023-12"


@pytest.mark.parametrize(
    ("function", "text", "crate", "first"),
    [
        ("compute_single", "EndOfSequence", True, "wasmedge-2023-12"),
        ("compute_single", "EndOfSequence PromptTooLong", True, "wasmedge"),
        ("fini_single", "EndOfSequence ContextFull", True, "wasmedge-2023-12"),
        ("fini_single", "EndOfSequence", False, "wasmedge"),
        ("compute", "EndOfSequence", True, "wasmedge-2023-12"),
        ("compute", "EndOfSequence PromptTooLong", False, "wasmedge"),
        ("compute", "EndOfSequence", False, "witx"),
    ],
)
def test_the_error_names_in_a_guest_decide_its_dialect(wat, function, text, crate, first):
    data = wat(
        f"""(module
        (import "wasi_ephemeral_nn" "{function}" (func (param i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "{text}"))"""
    )
    names = section(b"name", b"_ZN16wasmedge_wasi_nn5graph") if crate else b""
    assert detect_dialect(parse(data + names)).candidates[0].name == first


def test_a_module_without_wasi_nn_has_no_dialect(wat):
    inferred = detect_dialect(parse(module(wat, ("env", "compute"))))
    assert inferred.candidates == ()


STREAMS = """(module
 (import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))
 (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
 (import "wasi_ephemeral_nn" "set_input" (func $set (param i32 i32 i32) (result i32)))
 (import "wasi_ephemeral_nn" "compute_single" (func $next (param i32) (result i32)))
 (import "wasi_ephemeral_nn" "{also}" (func (param i32) (result i32)))
 (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
 (memory (export "memory") 1)
 (data (i32.const 0) "net") (data (i32.const 16) "\\05\\00\\00\\00")
 (data (i32.const 32) "\\10\\00\\00\\00\\01\\00\\00\\00\\{kind:02x}\\00\\00\\00")
 (data (i32.const 44) "\\40\\00\\00\\00\\05\\00\\00\\00") (data (i32.const 64) "hello")
 (func $must (param i32) (if (local.get 0) (then unreachable)))
 (func (export "_start") (local $errno i32)
  (call $must (call $load (i32.const 0) (i32.const 3) (i32.const 100)))
  (call $must (call $init (i32.load (i32.const 100)) (i32.const 104)))
  (call $must (call $set (i32.load (i32.const 104)) (i32.const 0) (i32.const 32)))
  (loop $on (local.set $errno (call $next (i32.load (i32.const 104))))
   (br_if $on (i32.eqz (local.get $errno))))
  (call $exit (local.get $errno))))"""


@pytest.mark.parametrize(
    ("also", "kind", "end"),
    [
        # u8 is 2 in 2022 and 3 since 2023: the guests of December 2023 had the old numbers.
        ("compute", 2, 9),
        ("compute", 3, 100),
        ("fini_single", 2, 100),
        ("fini_single", 3, 100),
        ("unload", 2, 100),
    ],
)
def test_the_end_of_a_text_has_the_number_that_the_guest_knows(
    host, wat, identity_model, also, kind, end
):
    host.add_model("net", identity_model("net", stream=2))
    result = host.run(wat(STREAMS.format(also=also, kind=kind)))
    assert (result.exit_code, result.error, result.failed) == (end, None, 0)
