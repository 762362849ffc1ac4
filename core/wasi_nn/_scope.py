"""For whom this thread works: for log records, and for the host's observer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from wasi_nn.observer import Observer, Step

_NOT_OBSERVED: AbstractContextManager[None] = nullcontext()


class Scope(NamedTuple):
    """A guest and a request, by name, and who observes them."""

    guest: str = ""
    request: str = ""
    observer: Observer | None = None
    step: Step | None = None


#: The scope of this thread.
scope: ContextVar[Scope] = ContextVar("scope", default=Scope())  # noqa: B039


class Entered:
    """The scope of a ``with`` block."""

    __slots__ = ("_given", "_token")

    def __init__(self, given: Scope) -> None:
        self._given = given

    def __enter__(self) -> None:
        self._token = scope.set(self._given)

    def __exit__(self, *exception: object) -> None:
        scope.reset(self._token)


class _Observed:
    def __init__(self, within: Scope, step: Step) -> None:
        self._within = within
        self._step = step

    def __enter__(self) -> Step:
        _tell(self._within, "begin", self._step)
        self._token = scope.set(self._within._replace(step=self._step))
        return self._step

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        scope.reset(self._token)
        step = self._step
        step.seconds = time.perf_counter() - step.started
        if error is not None:
            step.error = error
        _tell(self._within, "end", step)


def observed(
    kind: Literal["run", "export", "call", "load"], name: str
) -> AbstractContextManager[Step | None]:
    """Tell this thread's observer, if it has one, of a step: the ``with`` block."""
    within = scope.get()
    if within.observer is None:
        return _NOT_OBSERVED
    from wasi_nn.observer import Step

    return _Observed(within, Step(kind, name, within.guest, within.request, within.step))


def watched(name: str, call: Callable[..., Any], failure: Callable[[], Any]) -> Callable[..., Any]:
    """``call`` as a step. ``failure`` gives what its end is told of the last call that failed."""

    def told(*arguments: Any) -> Any:
        before = failure()
        with observed("call", name) as step:
            result = call(*arguments)
            last = failure()
            if step is not None and last is not before:
                step.error = last
            return result

    return told


def _tell(within: Scope, what: str, step: Step) -> None:
    try:
        getattr(within.observer, what)(step)
    except Exception as error:
        from wasi_nn.escaping import logger, trace_of

        logger("wasi_nn").error("the observer's %s failed\n  %s", what, trace_of(error))
