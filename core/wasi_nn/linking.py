"""Whether a guest's imports can be met, decided before anything of it runs.

An engine would say `unknown import`; a person needs to know who provides the function.
"""

from __future__ import annotations

from collections.abc import Iterable

from wasi_nn.abi.dialects import EPHEMERAL, LEGACY
from wasi_nn.errors import LinkError
from wasi_nn.preview1 import SIGNATURES
from wasi_nn.runtime import HostFunction, Runtime
from wasi_nn.wasmfile import Import, Signature, WasmFile

#: Who provides the import modules that guests of other hosts come with.
_ELSEWHERE = {
    "wasi_ephemeral_tensorflow": "WasmEdge's TensorFlow plugin, which is not wasi-nn",
    "wasi_ephemeral_tensorflowlite": "WasmEdge's TensorFlow Lite plugin, which is not wasi-nn",
    "wasmedge_tensorflow": "WasmEdge's TensorFlow plugin, which is not wasi-nn",
    "wasmedge_tensorflowlite": "WasmEdge's TensorFlow Lite plugin, which is not wasi-nn",
    "wasmedge_image": "WasmEdge's image plugin, which is not wasi-nn",
    "wasmedge_process": "WasmEdge's process plugin, which lets a guest start commands",
    "wasi_ephemeral_crypto_common": "a wasi-crypto host",
    "wasi_snapshot_preview1": "WASI preview 1 of an engine",
    "wasi_unstable": "WASI snapshot 0 of an engine",
    "env": "the program that the guest was made for (an Emscripten or embedder import)",
    "wasi": "a host with wasi-threads, which this one is not",
}
# Names of one module in a message.
_LISTED = 6
_WITHOUT_THREADS = ". It is built for threads: build it for wasm32-wasip1, without -pthread"


def link(
    module: WasmFile, functions: Iterable[HostFunction], runtime: Runtime
) -> list[HostFunction]:
    """Those of ``functions`` that the guest imports. Raises ``LinkError`` naming every import that
    neither they nor the runtime's WASI provide, and a memory that the runtime cannot make."""
    offered = {(function.module, function.name): function for function in functions}
    problems: list[str] = []
    missing: dict[tuple[str, str], list[str]] = {}
    needed: dict[tuple[str, str], HostFunction] = {}
    for item in module.imports:
        function = offered.get((item.module, item.name))
        if function is not None:
            problem = _mismatch(item, _signature(function))
            if problem is None:
                needed[item.module, item.name] = function
        elif item.module in runtime.wasi_modules and item.name in SIGNATURES:
            problem = _mismatch(item, SIGNATURES[item.name])
        else:
            why = _missing(item, runtime, {module for module, _ in offered})
            missing.setdefault((item.module, why), []).append(item.name)
            continue
        if problem is not None:
            problems.append(problem)
    problems += [_told(module, why, names) for (module, why), names in missing.items()]
    imported = sum(item.kind == "memory" for item in module.imports)
    own = module.memories[imported:]
    if any(memory.shared for memory in own) and not runtime.features.shared_memory:
        problems.append(
            f"its memory is shared between threads, which {runtime.name} does not have"
            " (`wasi-nn plugins` shows which engines do)"
        )
    if problems:
        threads = any(memory.shared for memory in module.memories)
        advice = _WITHOUT_THREADS if threads else ""
        raise LinkError("the guest cannot start: " + "; ".join(dict.fromkeys(problems)) + advice)
    return list(needed.values())


def _signature(function: HostFunction) -> Signature:
    return Signature(("i32",) * function.parameters, ("i32",) * function.has_result)


def _mismatch(item: Import, ours: Signature) -> str | None:
    if item.kind == "func" and item.signature is None:
        return f"the signature with which it imports {item.module}.{item.name} could not be read"
    if item.kind != "func":
        return f"it imports {item.module}.{item.name} as a {item.kind}, which is a function"
    if item.signature != ours:
        return f"it imports {item.module}.{item.name} as {item.signature}; this host has {ours}"
    return None


def _missing(item: Import, runtime: Runtime, ours: set[str]) -> str:
    """Why nobody has an import, as a clause about one or several (``_told`` fills the verb in)."""
    if item.module in runtime.wasi_modules:
        if item.name.startswith("sock_"):
            return "which {is} WasmEdge's socket extension, and not of WASI preview 1"
        return "which {is} not a function of WASI preview 1"
    if item.module in (EPHEMERAL, LEGACY) and item.module in ours:
        return "which no wasi-nn host is known to have"
    if item.kind != "func":
        return f"a {item.kind}, which only the program that it was made for has"
    return f"which {{comes}} from {_ELSEWHERE.get(item.module, 'nothing that this host knows')}"


def _told(module: str, why: str, names: list[str]) -> str:
    """What is missing of a module, for one reason."""
    first, *others = dict.fromkeys(names)
    listed = "".join(f", {name}" for name in others[: _LISTED - 1])
    more = len(others) - _LISTED + 1
    if more > 0:
        listed += f" and {more} more"
    verbs = {"is": "are", "comes": "come"} if others else {"is": "is", "comes": "comes"}
    return f"it imports {module}.{first}{listed}, {why.format(**verbs)}"
