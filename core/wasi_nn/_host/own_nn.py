"""A guest whose engine has a wasi-nn of its own: what core tells the engine."""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn._abi.core.dialects import EPHEMERAL, LEGACY
from wasi_nn._abi.guard import Failure, Observer
from wasi_nn._host.linkable import Linked
from wasi_nn._models.registry import Registry
from wasi_nn.errors import ErrorCode
from wasi_nn.escaping import visible
from wasi_nn.policy import Policy
from wasi_nn.runtime import HostFunction, OwnNn


def own_nn(
    linked: Linked, registry: Registry, policy: Policy, observer: Observer
) -> tuple[list[HostFunction], OwnNn]:
    """The host functions that are left for core, and what the engine needs for its own ones."""
    theirs = [each for each in linked.imports if each.module not in (EPHEMERAL, LEGACY)]
    errnos = linked.candidates[0].errnos if linked.candidates else {}
    # (Two codes can have one errno: the first is the plainer one.)
    codes = {errno: code for code, errno in reversed(list(errnos.items()))}

    def failed(function: str, arguments: Sequence[int], errno: int, reason: str) -> None:
        code = codes.get(errno, ErrorCode.RUNTIME_ERROR)
        observer.fail(Failure(function, tuple(arguments), code, errno, visible(reason)))

    models = {
        name: model
        for name, model in registry.offered().items()
        if policy.models is None or name in policy.models
    }
    return theirs, OwnNn([each.name for each in linked.candidates], models, policy, failed)
