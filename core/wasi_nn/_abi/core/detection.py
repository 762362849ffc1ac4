"""Detect the dialect that a guest was compiled against, from its module.

Imports decide first: the import module, and WasmEdge's own functions. Then come the names of errors
in the data section, the function names in the ``name`` section, and the ``producers`` section. The
module cannot tell everything: both numberings of tensor types import the same functions. In that
case several candidates remain, and the guest's first tensors choose among them (see
``negotiation``).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Set
from typing import NamedTuple

from wasi_nn._abi.core.dialects import DIALECTS, EPHEMERAL, LEGACY, Dialect
from wasi_nn.wasm.module import Reader, WasmFile

#: WasmEdge's additions to the core ABI. They identify its guests.
WASMEDGE_FUNCTIONS = frozenset(
    {
        "load_by_name_with_config",
        "compute_single",
        "get_output_single",
        "fini_single",
        "unload",
        "finalize_execution_context",
    }
)
#: The additions made after the numbers of December 2023 were replaced (2024-04-22, 2024-12-17).
_AFTER_2023 = frozenset({"unload", "finalize_execution_context"})
# Guests of the crate wasmedge-wasi-nn have the names of its errors in their data. The crate has
# EndOfSequence since 2023-12-20 (as 9) and PromptTooLong since 2024-01-02 (now 100 and 102).
_END, _TOO_LONG = b"EndOfSequence", b"PromptTooLong"


# The first compiler versions of 2024 (both are of March).
_RECENT = {"rustc": (1, 77), "clang": (18, 1)}


class DialectGuess(NamedTuple):
    """The candidate dialects, the most likely one first, and the evidence in words. A module that
    does not import wasi-nn has no candidates."""

    candidates: tuple[Dialect, ...]
    evidence: str


def detect_dialect(module: WasmFile) -> DialectGuess:
    """Detect the dialect of a core module."""
    names = module.imported(EPHEMERAL)
    if not names:
        if module.imported(LEGACY):
            return _of(f"it imports the module {LEGACY}, which only WAMR has", "wamr-legacy")
        return DialectGuess((), "it imports no wasi-nn function")
    extensions = names & WASMEDGE_FUNCTIONS
    data = bytes(module.data)
    crate = b"wasmedge_wasi_nn" in bytes(module.section("name"))
    newer = _TOO_LONG in data
    if (extensions or crate) and not newer and not names & _AFTER_2023:
        recent = _is_recent(module.section("producers"))
        old = _of_2023_12(extensions, crate and _END in data, recent)
        if old is not None:
            return old
    if extensions:
        says = f"it imports WasmEdge's {', '.join(sorted(extensions))}"
    elif crate:
        says = "its function names are those of the crate wasmedge-wasi-nn"
    elif newer and _END in data:
        says = "it names the errors of the crate wasmedge-wasi-nn"
    else:
        return _without_wasmedge(module)
    return _of(says, "wasmedge", "wasmedge-0.14")


def _of_2023_12(extensions: Set[str], names_end: bool, recent: bool) -> DialectGuess | None:
    """Detect guests that expect errno 9 at the end of a text. WasmEdge added ``fini_single`` a week
    after ``compute_single`` and six days before today's numbers. A guest from a ``recent`` compiler
    may simply not use ``fini_single``."""
    if "compute_single" in extensions and "fini_single" not in extensions and not recent:
        says = "it imports compute_single and not fini_single, as guests of December 2023 do"
    elif names_end:
        says = "it names the error EndOfSequence and not the later PromptTooLong"
    else:
        return None
    says += ": for them the end of a text is errno 9"
    return _of(says, "wasmedge-2023-12", "wasmedge", "wasmedge-0.14")


def _is_recent(producers: memoryview) -> bool:
    """Whether the section ``producers`` names a compiler that is newer than the guests of December
    2023 (tool conventions, ProducersSection.md)."""
    reader = Reader(producers)
    reader.at = 0
    tools: dict[str, str] = {}
    with contextlib.suppress(IndexError, ValueError):
        for _ in range(reader.count()):
            reader.name()
            for _ in range(reader.count()):
                name = reader.name()
                tools[name] = reader.name()
    for name, oldest in _RECENT.items():
        if name in tools:
            # Check rustc first: the C parts of a Rust guest come from a prebuilt C library.
            numbers = re.match(r"(\d{1,9})\.(\d{1,9})", tools[name])
            return numbers is not None and tuple(map(int, numbers.groups())) >= oldest
    return False


def _without_wasmedge(module: WasmFile) -> DialectGuess:
    if b"AssemblyScript" in bytes(module.section("producers")) or module.section(
        "sourceMappingURL"
    ):
        return _of("AssemblyScript compiled it", "witx-2022", "witx")
    return _of(f"it imports {EPHEMERAL} and nothing more telling", "witx", "witx-2022", "wamr-2.1")


def _of(evidence: str, *names: str) -> DialectGuess:
    return DialectGuess(tuple(DIALECTS[name] for name in names), evidence)
