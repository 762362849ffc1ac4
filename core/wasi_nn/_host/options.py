"""The options of a run, for type checkers: those of ``Program.run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from wasi_nn._host.guest import Guest
    from wasi_nn._host.program import Call
    from wasi_nn._host.wasi import Dirs
    from wasi_nn.limits import Limits
    from wasi_nn.runtime import Stdin, Stdout


class RunOptions(TypedDict, total=False):
    """What ``Program.run`` takes beside the arguments."""

    env: Mapping[str, str] | None
    dirs: Dirs
    stdin: Stdin
    stdout: Stdout
    stderr: Stdout
    capture: bool
    dialect: str | None
    limits: Limits | None
    timeout: float | None
    stats: bool
    trace: bool
    on_start: Callable[[Guest], None] | None
    invoke: Call | None
