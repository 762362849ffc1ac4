"""Where a model runs: in the host's process, or in a worker."""

from __future__ import annotations

from pathlib import Path

from wasi_nn.backend import Backend
from wasi_nn.errors import NotAllowed, UsageError
from wasi_nn.policy import Policy
from wasi_nn.types import ExecutionTarget

# The devices of NVIDIA, of AMD, of others through DRM, and accelerators without a display.
_DEVICES = ("nvidia[0-9]*", "kfd", "dri/renderD*", "accel/*")


def isolation_of(
    backend: Backend,
    encoding: str,
    policy: Policy = Policy(),
    name: str | None = None,
    chosen: str | None = None,
) -> str:
    """``"none"``, ``"shared"`` or ``"guest"`` (see ``Policy.isolation_of``).

    A program's own backend runs in its process: a worker imports backends by the modules of
    installed plugins. Raises ``UsageError`` if the operator has ``chosen`` a worker for it."""
    if backend.plugin:
        return policy.isolation_of(encoding, backend.always_in_worker, name, chosen)
    if chosen not in (None, "none"):
        raise UsageError(
            f"{backend.title} cannot run with isolation={chosen!r}: a worker imports backends "
            "from installed plugins, and this program registers it itself"
        )
    return "none"


def uses_device(target: ExecutionTarget) -> bool:
    """Whether a model of the operator may run on another device than the CPU. The drivers of such
    devices need what a confined worker has not, so its worker is not confined."""
    return target is not ExecutionTarget.CPU and any(
        next(Path("/dev").glob(pattern), None) for pattern in _DEVICES
    )


def check_programs(backend: Backend, encoding: str, policy: Policy, isolation: str) -> None:
    """Raise ``NotAllowed`` for a guest's own models that are programs, where nothing restricts what
    they do."""
    if not backend.models_are_programs or policy.unsandboxed_programs:
        return
    why = "they run in the host's process"
    if isolation != "none":
        from wasi_nn._sandbox import offered

        why = next((missing for missing in offered() if missing), "")
    if why:
        raise NotAllowed(
            "unsandboxed-programs",
            f"models of {encoding} are programs, and nothing restricts what they do: {why}",
        )
