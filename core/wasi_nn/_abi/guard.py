"""Turns whatever a guest's call raises into an errno."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wasi_nn import _scope as scope
from wasi_nn._abi.core.negotiation import DialectNegotiation
from wasi_nn.backend import config
from wasi_nn.errors import ErrorCode, GuestError, InvalidArgument, MissingMemory, NnError
from wasi_nn.escaping import logger, trace_of, visible
from wasi_nn.runtime import GuestMemory

log = logger("wasi_nn")

# The end of a stream has an errno but is not a failure.
_NOT_FAILURES = frozenset({ErrorCode.END_OF_SEQUENCE})
_MAX_FAILURES = 100
#: The most bytes of a model's name and of a config, which may contain a grammar or a JSON schema.
MAX_NAME, MAX_CONFIG = 4096, 4 << 20


class Failure(NamedTuple):
    """A call that returned an errno to the guest, with the reason, which an errno cannot carry.
    ``rule`` is the name of the policy's rule that refused it, or an empty text."""

    function: str
    arguments: tuple[int, ...]
    code: ErrorCode
    errno: int
    reason: str
    rule: str = ""

    def __str__(self) -> str:
        arguments = ", ".join(map(str, self.arguments))
        return f"{self.function}({arguments}) -> {self.errno} {self.code}: {self.reason}"


class CallStats:
    """How often a function was called, how often it failed, and how many seconds it took."""

    __slots__ = ("calls", "failures", "longest", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.failures = 0
        self.seconds = 0.0
        self.longest = 0.0

    def __repr__(self) -> str:
        return (
            f"CallStats(calls={self.calls}, failures={self.failures}, "
            f"seconds={self.seconds:.6f}, longest={self.longest:.6f})"
        )

    def add(self, seconds: float, failed: bool) -> None:
        self.calls += 1
        self.failures += failed
        self.seconds += seconds
        self.longest = max(self.longest, seconds)


class Observer:
    """What the host records of one guest's calls.

    ``failures`` holds the latest 100. Timing and tracing cost time on every call, so ``stats`` is
    filled only if ``timed`` is set, and calls are logged only if ``traced`` is set. ``refused``
    counts what the rules of the policy refused, by their names.
    """

    def __init__(self, timed: bool = False, traced: bool = False, observed: bool = False) -> None:
        self.timed = timed
        self.traced = traced
        #: Whether the host has an observer, which is told of each call.
        self.observed = observed
        self.failures: deque[Failure] = deque(maxlen=_MAX_FAILURES)
        self.failed = 0
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.stats: dict[str, CallStats] = {}

    def fail(self, failure: Failure) -> None:
        """Record and log a failure."""
        self.failed += 1
        self.failures.append(failure)
        self.refuse(failure.rule)
        # A failing log handler (a closed pipe, a full disk) must not affect the guest.
        with contextlib.suppress(Exception):
            log.warning("%s", failure)

    def _last_failure(self) -> Failure | None:
        return self.failures[-1] if self.failures else None

    def refuse(self, rule: str) -> None:
        """Count what a rule refused, if one did."""
        if rule:
            self.refused[rule] += 1

    def watch(
        self, name: str, call: Callable[..., Any], says: Callable[..., str]
    ) -> Callable[..., Any]:
        """``call`` with timing and tracing if they are on, and ``call`` itself otherwise.

        ``says`` gets the result and the arguments of a call that did not fail. It returns what the
        log says of it, or an empty string."""
        if self.observed:
            call = scope.watched(name, call, self._last_failure)
        if not (self.timed or self.traced):
            return call
        stats = self.stats.setdefault(name, CallStats())

        def watched(*arguments: Any) -> Any:
            before = self.failed
            started = time.perf_counter()
            result = call(*arguments)
            seconds = time.perf_counter() - started
            failed = self.failed > before
            stats.add(seconds, failed)
            if self.traced and not failed and (text := says(result, *arguments)):
                log.info("%s in %.3f ms", text, seconds * 1e3)
            return result

        return watched


def guard(
    name: str, function: Callable[..., None], reading: DialectNegotiation, observer: Observer
) -> Callable[..., int]:
    """A host function that returns 0, or an errno for whatever ``function`` raises.

    ``GuestError`` and exceptions that are not an ``Exception`` (``KeyboardInterrupt``) pass: they
    end the guest."""

    def guarded(memory: GuestMemory | None, *arguments: int) -> int:
        try:
            if memory is None:
                raise MissingMemory("the guest exports no memory named 'memory'")
            function(memory, *arguments)
            return 0
        except NnError as error:
            code, reason, rule = error.code, visible(str(error)), error.rule
        except GuestError:
            # The guest ended in the middle of this call.
            raise
        except Exception as error:
            code, rule = ErrorCode.RUNTIME_ERROR, ""
            reason = f"{type(error).__name__}: {visible(str(error))}"
            with contextlib.suppress(Exception):
                log.error("%s failed in an unforeseen way\n  %s", name, trace_of(error))
        errno = reading.dialect.errnos[code]
        if code not in _NOT_FAILURES:
            observer.fail(Failure(name, arguments, code, errno, reason, rule))
        return errno

    def says(errno: int, memory: GuestMemory | None, *arguments: int) -> str:
        # The end of a stream returns an errno but does not count as a failure.
        if errno or memory is None:
            return ""
        from wasi_nn._abi.core.trace import described

        return described(name, memory, arguments)

    return observer.watch(name, guarded, says)


def read_text(memory: GuestMemory, pointer: int, length: int, what: str, most: int) -> str:
    """Read a string of the guest. Raises ``InvalidArgument`` if it is not UTF-8, or has more than
    ``most`` bytes."""
    check_text(length, what, most)
    try:
        return bytes(memory.read(pointer, length)).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the {what} is not UTF-8: {error}") from error


def check_text(length: int, what: str, most: int) -> None:
    """Raise ``InvalidArgument`` for a string that is longer than any that means something. Each
    copy of it would take the host's memory."""
    if length > most:
        raise InvalidArgument(f"the {what} has {length} bytes, and may have {most}")


def read_config(memory: GuestMemory, pointer: int, length: int) -> Mapping[str, Any]:
    """Read a JSON object of the guest. An empty string is an empty object."""
    return config.parse(read_text(memory, pointer, length, "config", MAX_CONFIG))
