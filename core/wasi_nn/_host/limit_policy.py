"""The limits of a run. A limit that the engine cannot enforce is an error when the run starts."""

from __future__ import annotations

from wasi_nn.errors import UsageError
from wasi_nn.limits import Limits
from wasi_nn.plugins import Plugins
from wasi_nn.policy import Policy
from wasi_nn.runtime import Runtime
from wasi_nn.runtime.name import RuntimeName

#: The feature with which an engine enforces a limit.
_FEATURES = {
    "timeout": "interrupt",
    "compute_seconds": "interrupt",
    "memory": "memory_limit",
    "fuel": "fuel",
}
#: What an engine cannot do without it, and what to do next.
_CANNOT = {
    "timeout": "stop a guest at a deadline; a process of its own can be ended: give the Host a "
    "timeout, or its runtime as {isolated}",
    "compute_seconds": "end a guest that has computed for all of its seconds; a process of its own "
    "can be ended: give the Host the limit, or its runtime as {isolated}",
    "memory": "limit a guest's memory; in a process of its own it can: give the Host the limit, or "
    "its runtime as {isolated}",
    "fuel": "count fuel",
}


def own_limits(
    limits: Limits | None, timeout: float | None, tokens_per_second: float | None = None
) -> Limits:
    """A run's limits, with its ``timeout`` and ``tokens_per_second`` where these are lower.

    Raises ``UsageError`` as ``Limits.check`` does."""
    if limits is None:
        limits = Limits()
    elif not isinstance(limits, Limits):
        raise UsageError(f"the limits are {limits!r}, and must be Limits(…) or None")
    limits.check()
    if timeout is None and tokens_per_second is None:
        return limits
    short = limits._replace(timeout=timeout, tokens_per_second=tokens_per_second, loosen=False)
    return short.over(limits)._replace(loosen=limits.loosen)


def policy_of_host(policy: Policy | None, limits: Limits) -> Policy:
    """A host's policy; where its limits are given too, the lower of both holds. Raises
    ``UsageError`` as ``Policy.checked`` does."""
    limits = own_limits(limits, None)
    if policy is None:
        return Policy(own_models=False, limits=Limits().over(limits))
    if not isinstance(policy, Policy):
        raise UsageError(f"the policy is {policy!r}, and must be Policy(…) or None")
    policy = policy.checked()
    laid = limits.over(policy.limits)
    return policy._replace(own_models=bool(policy.own_models), limits=laid)


def laid_over(
    host: Policy,
    policy: Policy | None,
    limits: Limits | None,
    timeout: float | None,
    priority: int | None = None,
    tokens_per_second: float | None = None,
) -> Policy:
    """The options of a run laid over its host's policy. Raises ``UsageError`` for a value that is
    not an option's."""
    given = policy, limits, timeout, priority, tokens_per_second
    if given == (None,) * len(given):
        return host
    if policy is not None:
        if not isinstance(policy, Policy):
            raise UsageError(f"the policy is {policy!r}, and must be Policy(…) or None")
        host = policy.over(host)
    if priority is not None:
        host = Policy(priority=priority).over(host)
    return host._replace(limits=own_limits(limits, timeout, tokens_per_second).over(host.limits))


def unenforced(limits: Limits, runtime: Runtime) -> list[str]:
    """The names of the limits that are set and that the engine cannot enforce."""
    # (Features are asked for only if a limit is set: another Python may have to describe them.)
    given = [name for name in _FEATURES if getattr(limits, name) is not None]
    if not given:
        return given
    return [name for name in given if not getattr(runtime.features, _FEATURES[name])]


def enforcing(plugins: Plugins, runtime: Runtime, limits: Limits) -> Runtime:
    """``runtime``, or the same engine in a process if it needs one to enforce the limits. A process
    can be ended, and a module can be bounded before it gets there."""
    if not {*unenforced(limits, runtime)} - {"fuel"}:
        return runtime
    return plugins.runtime(RuntimeName(runtime.name).isolated())


def check_enforced(limits: Limits, runtime: Runtime) -> None:
    """Raise ``UsageError`` for a limit that the engine cannot enforce."""
    for name in unenforced(limits, runtime):
        what = _CANNOT[name].format(isolated=RuntimeName(runtime.name).isolated())
        raise UsageError(f"{runtime.name}, as it is installed here, cannot {what}")
