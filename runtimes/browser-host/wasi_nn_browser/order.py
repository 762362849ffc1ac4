"""What the page needs to know of a guest, and what it cannot have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wasi_nn.errors import UsageError
from wasi_nn.runtime import EngineLimits, HostFunction, OwnNn, WasiConfig
from wasi_nn.types import ExecutionTarget
from wasi_nn_browser.folders import trees

# Rules and limits that the page does not hold. A guest for which they are set is refused.
_RULES = ("targets", "isolation", "listen", "connect", "priority")
_LIMITS = ("host_memory", "compute_timeout", "compute_seconds", "tokens_per_second")
_HELD = ("graphs", "contexts", "model_bytes", "tensor_bytes")


def order_of(
    functions: Sequence[HostFunction],
    wasi: WasiConfig,
    limits: EngineLimits,
    nn: OwnNn,
    files: list[Path],
) -> dict[str, Any]:
    """The order for the page's worker. The files that it may ask for by number are added to
    ``files``. Raises ``UsageError`` for what a guest in the browser cannot have."""
    if functions:
        names = ", ".join(sorted(f"{each.module}.{each.name}" for each in functions))
        raise UsageError(
            f"a guest in the browser has WASI preview 1 and wasi-nn alone; it imports {names}"
        )
    policy = nn.policy
    refused = [name for name in _RULES if getattr(policy, name) is not None]
    refused += ["pins"] if policy.pins else []
    refused += [name for name in _LIMITS if getattr(policy.limits, name) is not None]
    if refused:
        named = refused[0].replace("_", "-")
        raise UsageError(f"the browser cannot hold the policy's {named}: leave it out")
    models = {}
    for name, model in nn.models.items():
        if model.target is not ExecutionTarget.CPU or model.config:
            raise UsageError(
                f"model {name!r}: the browser computes on the CPU alone, and takes no config"
            )
        models[name] = {"encoding": model.encoding, "number": len(files)}
        files.append(model.paths[0])
    return {
        "args": list(wasi.args),
        "env": [f"{name}={value}" for name, value in wasi.env],
        "preopens": trees(wasi.preopens, files),
        "files": limits.files if limits.files is not None else 1 << 30,
        "dialects": list(nn.dialects),
        "models": list(models.items()),
        "ownModels": bool(policy.own_models),
        "encodings": None if policy.encodings is None else sorted(policy.encodings),
        "limits": {name: getattr(policy.limits, name) for name in _HELD},
    }
