"""The values of a policy: checked, and in their usual spelling."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, Union

from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import UsageError
from wasi_nn.types import ExecutionTarget

T = TypeVar("T")
#: Where a model runs, the weakest isolation first.
ISOLATIONS = ("none", "shared", "guest")
#: One of ``ISOLATIONS`` for every model, or one for each encoding or named model.
Isolation = Union[str, Mapping[str, str]]

_MAX_PRIORITY = 1000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}(?:,sha256:[0-9a-f]{64})*")


def isolation(value: object) -> str:
    """One of ``ISOLATIONS``. Raises ``UsageError`` for anything else."""
    if not isinstance(value, str) or value not in ISOLATIONS:
        hint = did_you_mean(value, ISOLATIONS) if isinstance(value, str) else ""
        known = ", ".join(ISOLATIONS)
        raise UsageError(f"the isolation is {value!r}, and must be one of {known}{hint}")
    return value


def isolations(given: object) -> Isolation:
    """One isolation, or a mapping of them. Raises ``UsageError``."""
    if not isinstance(given, Mapping):
        return isolation(given)
    return {key: isolation(value) for key, value in strings("isolation", given).items()}


def digest(value: object) -> str:
    """The digests of a model's files, in small letters. Raises ``UsageError`` for anything
    else."""
    found = value.lower().replace(" ", "") if isinstance(value, str) else ""
    if not _DIGEST.fullmatch(found):
        raise UsageError(
            "the digest of a model is sha256: and 64 hexadecimal digits, once for each of its "
            f"files with commas between them, not {value!r:.200}"
        )
    return found


def target(value: str | ExecutionTarget) -> ExecutionTarget:
    """The execution target of a name. Raises ``UsageError``."""
    return value if isinstance(value, ExecutionTarget) else ExecutionTarget.named(value)


def boolean(what: str, value: object) -> bool | None:
    """True, False or None. Raises ``UsageError`` for anything else."""
    if value is None or isinstance(value, bool):
        return value
    raise UsageError(f"the policy's {what} is {value!r}, and must be True or False")


def priority(value: object) -> int | None:
    """A priority, or None. Raises ``UsageError`` for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_PRIORITY:
        raise UsageError(
            f"the priority is {value!r}, and must be a whole number from -{_MAX_PRIORITY} to "
            f"{_MAX_PRIORITY}"
        )
    return value


def names(what: str, given: Any, each: Callable[[Any], T]) -> frozenset[T] | None:
    """A set of names, or None. Raises ``UsageError`` for anything else."""
    if given is None:
        return None
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise UsageError(f"the policy's {what} are {given!r}, and must be a set of names")
    return frozenset(map(each, given))


def strings(what: str, given: Any) -> Mapping[str, Any]:
    """A mapping whose keys are names. Raises ``UsageError`` for anything else."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise UsageError(f"the policy's {what} are {given!r}, and must be a mapping of names")
    return given


def name(value: object) -> str:
    """The name of a model. Raises ``UsageError`` for anything else."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"a model's name must be a non-empty string (str), not {value!r}")
    return value


def listed(found: Iterable[object]) -> str:
    """What is allowed, for a message."""
    return ", ".join(sorted(map(str, found))) or "nothing"
