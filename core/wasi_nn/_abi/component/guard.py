"""Turns whatever a component's call raises into an `error` resource."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from wasi_nn._abi.component.versions import CODES, ERROR_CODES
from wasi_nn._abi.guard import Failure, Observer
from wasi_nn.errors import ErrorCode, NnError
from wasi_nn.escaping import logger, trace_of, visible
from wasi_nn.runtime.component import Result

log = logger("wasi_nn")


def fallible(
    name: str,
    call: Callable[..., Any],
    observer: Observer,
    make_error: Callable[[str, str], int],
) -> Callable[..., Result]:
    """``call``, with an `error` resource for whatever it raises. ``make_error`` makes the resource
    from a code and a reason."""

    def guarded(*arguments: Any) -> Result:
        try:
            return Result(True, call(*arguments))
        except NnError as error:
            code, text, reason = error.code, CODES[error.code], visible(str(error))
            rule = error.rule
        except Exception as error:
            code, text, rule = ErrorCode.RUNTIME_ERROR, "unknown", ""
            reason = f"{type(error).__name__}: {visible(str(error))}"
            with contextlib.suppress(Exception):
                log.error("%s failed in an unforeseen way\n  %s", name, trace_of(error))
        numbers = tuple(value for value in arguments if isinstance(value, int))
        observer.fail(Failure(name, numbers, code, ERROR_CODES.index(text), reason, rule))
        return Result(False, make_error(text, reason))

    return guarded
