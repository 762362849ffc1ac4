"""Matching a guest's imports, before any of the guest runs.

An engine would only say `unknown import`. A user needs to know who provides the function.
"""

from __future__ import annotations

from collections.abc import Iterable

from wasi_nn._abi.core.dialects import EPHEMERAL, LEGACY
from wasi_nn.errors import GuestTrap, LinkError
from wasi_nn.runtime import GuestMemory, HostFunction, Runtime
from wasi_nn.wasm.module import Import, Signature, WasmFile
from wasi_nn.wasm.wasi_signatures import SIGNATURES

#: Who provides the import modules of guests that were made for other hosts.
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
# How many names a message lists.
_MAX_LISTED = 100
_NUMBERS = frozenset({"i32", "i64", "f32", "f64"})
_STAND_IN = (
    ". If it can do without them, give --allow-unknown-imports (in Python, "
    "allow_unknown_imports=True)"
)
_WITHOUT_THREADS = ". It is built for threads: build it for wasm32-wasip1, without -pthread"


def link(
    module: WasmFile,
    functions: Iterable[HostFunction],
    runtime: Runtime,
    stand_ins: bool = False,
) -> list[HostFunction]:
    """The ``functions`` that the guest imports. Raises ``LinkError``, which names every import that
    neither they nor the runtime's WASI provide, and a memory that the runtime cannot make.

    With ``stand_ins``, a function that nothing provides ends the guest when it is called."""
    offered = {(function.module, function.name): function for function in functions}
    ours = {module for module, _ in offered}
    problems: list[str] = []
    # What nothing here provides, by who provides it.
    missing: dict[str, list[str]] = {}
    unmet: list[Import] = []
    needed: dict[tuple[str, str], HostFunction] = {}
    for item in module.imports:
        function = offered.get((item.module, item.name))
        signature = function.types if function is not None else _wasi(item, runtime)
        if signature is None and stand_ins and _has_numbers(item):
            needed[item.module, item.name] = _stand_in(item)
            continue
        if signature is None:
            missing.setdefault(_provider(item, runtime, ours), []).append(_name(item))
            unmet.append(item)
            continue
        problem = _mismatch(item, signature)
        if problem is not None:
            problems.append(problem)
        elif function is not None:
            needed[item.module, item.name] = function
    problems += [_all_missing(dict.fromkeys(names), why) for why, names in missing.items()]
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
        if not advice and len(problems) == len(missing) and all(map(_has_numbers, unmet)):
            advice = _STAND_IN
        raise LinkError("the guest cannot start: " + "; ".join(dict.fromkeys(problems)) + advice)
    return list(needed.values())


def _has_numbers(item: Import) -> bool:
    """Whether an import is a function whose values are all numbers."""
    signature = item.signature
    return signature is not None and _NUMBERS.issuperset(signature.parameters + signature.results)


def _stand_in(item: Import) -> HostFunction:
    text = (
        f"it called {_name(item)}, which nothing here provides: a stand-in took its place "
        "(--allow-unknown-imports)"
    )

    def end(memory: GuestMemory | None, *numbers: int) -> None:
        raise GuestTrap(text)

    return HostFunction(item.module, item.name, 0, False, end, item.signature)


def _mismatch(item: Import, ours: Signature) -> str | None:
    if item.kind == "func" and item.signature is None:
        return f"the signature with which it imports {item.module}.{item.name} could not be read"
    if item.kind != "func":
        return f"it imports {item.module}.{item.name} as a {item.kind}, which is a function"
    if item.signature != ours:
        return f"it imports {item.module}.{item.name} as {item.signature}; this host has {ours}"
    return None


def _wasi(item: Import, runtime: Runtime) -> Signature | None:
    return SIGNATURES.get(item.name) if item.module in runtime.wasi_modules else None


def _name(item: Import) -> str:
    name = f"{item.module}.{item.name}"
    return name if item.kind == "func" else f"the {item.kind} {name}"


def _provider(item: Import, runtime: Runtime, ours: set[str]) -> str:
    """Who has an import, as the text after "which"."""
    if item.module in runtime.wasi_modules:
        if item.name.startswith("sock_"):
            return "{is} in WasmEdge's older sockets alone"
        return "{is} not in WASI preview 1"
    if item.module in (EPHEMERAL, LEGACY) and item.module in ours:
        return "no wasi-nn host is known to have"
    if item.kind != "func":
        return "only the program that it was made for has"
    return "{comes} from " + _ELSEWHERE.get(item.module, "nothing that this host knows")


def _all_missing(names: Iterable[str], why: str) -> str:
    listed = list(names)
    verbs = {"is": "is", "comes": "comes"} if len(listed) == 1 else {"is": "are", "comes": "come"}
    more = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    return f"it imports {', '.join(listed[:_MAX_LISTED])}{more}, which {why.format(**verbs)}"
