"""Every error that wasi_nn raises.

WasiNnError
├── NnError                  what a guest is told, as an errno or a `wasi:nn` error
│   ├── InvalidArgument · InvalidEncoding · MissingMemory · RuntimeFailure
│   ├── UnsupportedOperation · TooLarge · NotFound
│   └── EndOfSequence · ContextFull · PromptTooLong · ModelNotFound      (language models)
├── UsageError               the person's mistake: an option, a path, a name given twice
│   ├── Unavailable          a plugin or library that is not installed, and how to get it
│   └── ForkedProcess        something that was used before this process was forked
├── LinkError                the guest imports what nobody provides
└── GuestError               the guest did not end by itself
    ├── GuestTrap (GuestExited) · DeadlineExceeded · OutOfFuel · Interrupted
    └── LimitExceeded
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar

from wasi_nn.escaping import visible, visible_lines


class ErrorCode(Enum):
    """The reasons that a guest can be given; a dialect maps each to its number.

    The first eight are `nn_errno` of the specification's witx (since 2023-08-09), the last four
    are WasmEdge's for language models.
    """

    INVALID_ARGUMENT = "invalid_argument"
    INVALID_ENCODING = "invalid_encoding"
    MISSING_MEMORY = "missing_memory"
    BUSY = "busy"
    RUNTIME_ERROR = "runtime_error"
    UNSUPPORTED_OPERATION = "unsupported_operation"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    END_OF_SEQUENCE = "end_of_sequence"
    CONTEXT_FULL = "context_full"
    PROMPT_TOO_LONG = "prompt_too_long"
    MODEL_NOT_FOUND = "model_not_found"

    def __str__(self) -> str:
        return self.value


class WasiNnError(Exception):
    """The base of every error of this package. Its text is fit for a terminal and a log: what a
    model, a library or a guest put into it is escaped (see ``escaping``)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(visible(a) if isinstance(a, str) else a for a in arguments))


class NnError(WasiNnError):
    """An operation on a graph or context failed; a guest sees ``code``, the host keeps the text."""

    code: ClassVar[ErrorCode] = ErrorCode.RUNTIME_ERROR


class InvalidArgument(NnError):
    """A pointer, handle, index, name, length, type or order of calls that cannot be right."""

    code = ErrorCode.INVALID_ARGUMENT


class InvalidEncoding(NnError):
    """A graph encoding that nobody here serves, or that could not be detected."""

    code = ErrorCode.INVALID_ENCODING


class MissingMemory(NnError):
    """The guest has no linear memory named ``memory``."""

    code = ErrorCode.MISSING_MEMORY


class RuntimeFailure(NnError):
    """The machine-learning library failed; the text is the library's."""

    code = ErrorCode.RUNTIME_ERROR


class UnsupportedOperation(NnError):
    """The backend does not offer this operation or this execution target."""

    code = ErrorCode.UNSUPPORTED_OPERATION


class TooLarge(NnError):
    """What is to be written does not fit; ``needed`` is its size in bytes."""

    code = ErrorCode.TOO_LARGE

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class NotFound(NnError):
    """No model is registered under the name."""

    code = ErrorCode.NOT_FOUND


class EndOfSequence(NnError):
    """Not a failure: the stream has ended (WasmEdge's 100)."""

    code = ErrorCode.END_OF_SEQUENCE


class ContextFull(NnError):
    """The model's context window is full; what was generated can be read (101)."""

    code = ErrorCode.CONTEXT_FULL


class PromptTooLong(NnError):
    """The prompt does not fit the model's context window (102)."""

    code = ErrorCode.PROMPT_TOO_LONG


class ModelNotFound(NnError):
    """A registered model's file is not there (103)."""

    code = ErrorCode.MODEL_NOT_FOUND


class UsageError(WasiNnError):
    """A mistake of the person who runs or embeds the host; the text says what to do."""


class Unavailable(UsageError):
    """A plugin, or the library that it drives, is not installed."""


class ForkedProcess(UsageError):
    """An engine, a model or a guest that was used before this process was forked."""


class LinkError(WasiNnError):
    """The guest cannot start: it imports something that nothing here provides."""


class GuestError(WasiNnError):
    """The guest did not run to its own end. ``exit_code`` is what a shell would see."""

    exit_code: ClassVar[int] = 134

    def __init__(self, *arguments: Any) -> None:
        # A trap comes with the guest's stack, a line for each function.
        Exception.__init__(
            self, *(visible_lines(a) if isinstance(a, str) else a for a in arguments)
        )


class GuestTrap(GuestError):
    """The guest trapped (134, as the wasmtime command answers)."""


class GuestExited(GuestTrap):
    """An export that was called ended the guest with ``proc_exit``; ``code`` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the guest called proc_exit({code})")
        self.code = code


class LimitExceeded(GuestError):
    """The guest needs more than its limits allow before it can start."""


class OutOfFuel(GuestError):
    """The guest used up its fuel."""


class DeadlineExceeded(GuestError):
    """The guest ran past its deadline (124, as timeout(1) answers)."""

    exit_code = 124


class Interrupted(GuestError):
    """Somebody stopped the guest (130, as a shell answers to Ctrl-C)."""

    exit_code = 130
