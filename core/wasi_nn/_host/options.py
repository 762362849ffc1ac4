"""The options of a guest, each defined here alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Union

from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from wasi_nn._host.guest import Guest
    from wasi_nn._host.output import Output
    from wasi_nn._host.wasi import Dirs, StdinSource
    from wasi_nn.limits import Limits
    from wasi_nn.policy import Policy


class Call(NamedTuple):
    """An export to call in place of ``_start``, with numbers."""

    export: str
    arguments: tuple[float, ...] = ()


class GuestOptions(TypedDict, total=False):
    """The options of every guest: those of ``Program.instantiate``, and some of ``run``'s."""

    #: The guest's dialect. By default, or with ``"auto"``, it is detected.
    dialect: str | None
    #: A policy laid over the host's (see ``Policy``).
    policy: Policy | None
    #: Limits laid over those of both policies (see ``Limits``).
    limits: Limits | None
    #: Short for a limit: the deadline, in seconds of wall-clock time.
    timeout: float | None
    #: Whom it runs for: who shares a cache of prompts, and takes turns with the other tenants. By
    #: default its host.
    tenant: str | None
    #: A name for the request that it runs for, for log records and the host's observer.
    request: str | None
    #: Short for a policy's ``priority``.
    priority: int | None
    #: Short for a limit: tokens of language models in a second.
    tokens_per_second: float | None
    #: Let a guest start that imports functions which nothing provides. Calling one ends it. (A
    #: component must have all of its imports.)
    allow_unknown_imports: bool
    #: Time each wasi-nn function, for ``RunResult.calls``.
    stats: bool
    #: Log every wasi-nn call.
    trace: bool


class RunOptions(GuestOptions, total=False):
    """The options of ``Program.run`` and ``Host.run``, and of their asynchronous forms."""

    #: Environment variables. By default the guest has none.
    env: Mapping[str, str] | None
    #: Directories: ``{guest path: host path}``, or a list of ``Preopen``. By default none.
    dirs: Dirs
    #: Standard input: bytes, ``"inherit"``, a file (of bytes, or of text), an iterable of pieces of
    #: bytes (an asynchronous one for ``run_async`` and ``start``), or a callable that gets a number
    #: of bytes and returns at most as many, none at the end. The next piece is asked for when the
    #: guest has read the one before. A deadline ends a guest that waits for one. What the source
    #: raises ends the guest, and is raised. By default it is empty.
    stdin: StdinSource
    #: Standard output: ``"inherit"``, a file object (a buffered one, or one of text), or a callable
    #: that takes each piece of bytes. By default it is captured for the result, up to
    #: ``Limits.output``.
    stdout: Output
    #: Standard error, likewise.
    stderr: Output
    #: False discards the streams that have no other place.
    capture: bool
    #: Called with the guest before it runs, so that another thread can interrupt it.
    on_start: Callable[[Guest], None] | None
    #: The export to call, in place of ``_start``. The guest's ``_initialize`` is called before.
    invoke: Call | None


class RunInput(RunOptions, total=False):
    """One input of ``run_many``: what its run has of its own."""

    #: The arguments, after the program's name.
    args: Sequence[str]


#: What ``run_many`` makes a run of: bytes are its standard input, a list of texts is its arguments.
Input = Union[bytes, bytearray, memoryview, Sequence[str], RunInput]


def check_args(args: object) -> None:
    """Raise ``UsageError`` unless the arguments of a guest are a list. (Of what: ``wasi_config``
    looks.)"""
    if isinstance(args, (list, tuple)):
        return
    if isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Iterable):
        raise UsageError(f"args is {args!r}, and must be a list of texts, as in ['name:net']")


def starting_with(options: Mapping[str, Any], begin: Callable[[Guest], object]) -> dict[str, Any]:
    """The options of a run that calls ``begin`` with its guest, before their own ``on_start``."""
    on_start = options.get("on_start")

    def start(guest: Guest) -> None:
        begin(guest)
        if on_start is not None:
            on_start(guest)

    return {**options, "on_start": start}


def check_options(given: Mapping[str, object], known: type) -> None:
    """Raise ``TypeError``, as Python does for a parameter, for an option that does not exist."""
    for name in given:
        if name not in known.__annotations__:
            hint = did_you_mean(name, known.__annotations__)
            raise TypeError(f"there is no option {name!r}{hint} (see {known.__name__})")
