"""Which dialect a guest was compiled against, from what its module says of itself.

Imports decide first: the import module, and WasmEdge's own functions. Then the names of functions
that a toolchain left in the ``name`` section, and the ``producers`` section. What the module cannot
say (both numberings of tensor types import the same functions) is left to the candidates, and the
guest's first tensors choose among them (see ``reading``).
"""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn.abi.dialects import DIALECTS, EPHEMERAL, LEGACY, Dialect
from wasi_nn.wasmfile import WasmFile

#: WasmEdge's additions to the core ABI, by which its guests are known.
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


class Inference(NamedTuple):
    """``candidates``, the likeliest first, and the evidence in words. No candidates: the module
    imports no wasi-nn at all."""

    candidates: tuple[Dialect, ...]
    evidence: str


def infer(module: WasmFile) -> Inference:
    """Infer the dialect of a core module."""
    names = module.imported(EPHEMERAL)
    if not names:
        if module.imported(LEGACY):
            return _of(f"it imports the module {LEGACY}, which only WAMR has", "wamr-legacy")
        return Inference((), "it imports no wasi-nn function")
    extensions = names & WASMEDGE_FUNCTIONS
    if extensions:
        return _of(
            f"it imports WasmEdge's {', '.join(sorted(extensions))}", "wasmedge", "wasmedge-0.14"
        )
    symbols = bytes(module.section("name"))
    if b"wasmedge_wasi_nn" in symbols:
        return _of(
            "its function names are those of the crate wasmedge-wasi-nn",
            "wasmedge",
            "wasmedge-0.14",
        )
    if b"AssemblyScript" in bytes(module.section("producers")) or module.section(
        "sourceMappingURL"
    ):
        return _of("AssemblyScript compiled it", "witx-2022", "witx")
    return _of(f"it imports {EPHEMERAL} and nothing more telling", "witx", "witx-2022", "wamr-2.1")


def _of(evidence: str, *names: str) -> Inference:
    return Inference(tuple(DIALECTS[name] for name in names), evidence)
