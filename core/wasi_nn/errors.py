"""Every error that wasi_nn raises.

WasiNnError
├── NnError                  what the guest gets, as an errno or a `wasi:nn` error
│   ├── InvalidArgument · InvalidEncoding · MissingMemory · RuntimeFailure
│   ├── UnsupportedOperation · TooLarge · NotFound
│   ├── NotAllowed · QuotaExceeded (OutOfTokens)                        (rules of the policy)
│   └── EndOfSequence · ContextFull · PromptTooLong · ModelNotFound      (language models)
├── UsageError               the user's mistake: an option, a path, a name given twice
│   ├── Unavailable          a plugin or library that is not installed, and how to get it
│   └── ForkedProcess        something that was used before this process was forked
├── LinkError                the guest imports what nothing here provides
└── GuestError               the guest did not end by itself
    ├── GuestTrap (GuestExited) · DeadlineExceeded · OutOfFuel · Interrupted
    └── LimitExceeded
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar

from wasi_nn.escaping import visible, visible_lines

__all__ = [
    "ContextFull",
    "DeadlineExceeded",
    "EndOfSequence",
    "ErrorCode",
    "ForkedProcess",
    "GuestError",
    "GuestExited",
    "GuestTrap",
    "Interrupted",
    "InvalidArgument",
    "InvalidEncoding",
    "LimitExceeded",
    "LinkError",
    "MissingMemory",
    "ModelNotFound",
    "NnError",
    "NotAllowed",
    "NotFound",
    "OutOfFuel",
    "OutOfTokens",
    "PromptTooLong",
    "QuotaExceeded",
    "RuntimeFailure",
    "TooLarge",
    "Unavailable",
    "UnsupportedOperation",
    "UsageError",
    "WasiNnError",
]


class ErrorCode(Enum):
    """Why a call failed, as the guest learns it. Each dialect maps these to its numbers.

    The first eight are `nn_errno` of the specification's witx (since 2023-08-09), the next four
    are WasmEdge's for language models, and `security` is of `wasi:nn`.
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
    SECURITY = "security"

    def __str__(self) -> str:
        return self.value


class WasiNnError(Exception):
    """The base of every error of this package. Its text is safe to print and to log: text from
    models, libraries and guests is escaped (see ``escaping``)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(visible(a) if isinstance(a, str) else a for a in arguments))


class NnError(WasiNnError):
    """An operation on a graph or context failed; a guest sees ``code``, the host keeps the text.

    ``rule`` is the name of the policy's rule that the guest broke, or an empty text."""

    code: ClassVar[ErrorCode] = ErrorCode.RUNTIME_ERROR
    rule: str = ""


class InvalidArgument(NnError):
    """A pointer, handle, index, name, length or type is wrong, or calls came in a wrong order."""

    code = ErrorCode.INVALID_ARGUMENT


class InvalidEncoding(NnError):
    """No installed backend serves the graph encoding, or it could not be detected."""

    code = ErrorCode.INVALID_ENCODING


class MissingMemory(NnError):
    """The guest has no linear memory named ``memory``."""

    code = ErrorCode.MISSING_MEMORY


class RuntimeFailure(NnError):
    """The machine-learning library failed. The text comes from the library."""

    code = ErrorCode.RUNTIME_ERROR


class QuotaExceeded(RuntimeFailure):
    """The guest has more than a quota of its limits allows: ``quota tensor-bytes: …``."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"quota {rule}: {text}")
        self.rule = rule


class OutOfTokens(QuotaExceeded):
    """The guest may generate no further token. The text generated so far can be read."""

    def __init__(self, text: str = "the guest has generated all the tokens that it may") -> None:
        super().__init__("tokens", text.removeprefix("quota tokens: "))


class NotAllowed(NnError):
    """The policy does not let the guest do this: ``policy own-models: …``."""

    code = ErrorCode.SECURITY

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"policy {rule}: {text}")
        self.rule = rule


class UnsupportedOperation(NnError):
    """The backend does not offer this operation or this execution target."""

    code = ErrorCode.UNSUPPORTED_OPERATION


class TooLarge(NnError):
    """The guest's buffer is too small. ``needed`` is the size in bytes that it must have."""

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
    """The model's context window is full. The text generated so far can be read (101)."""

    code = ErrorCode.CONTEXT_FULL


class PromptTooLong(NnError):
    """The prompt does not fit the model's context window (102)."""

    code = ErrorCode.PROMPT_TOO_LONG


class ModelNotFound(NnError):
    """The file of a registered model does not exist (103)."""

    code = ErrorCode.MODEL_NOT_FOUND


class UsageError(WasiNnError):
    """A mistake of the user who runs or embeds the host. The text says what to do."""


class Unavailable(UsageError):
    """A plugin is not installed, or the library that it drives is not."""


class ForkedProcess(UsageError):
    """An engine, a model or a guest was used before this process was forked."""


class LinkError(WasiNnError):
    """The guest cannot start: it imports something that nothing here provides."""


class GuestError(WasiNnError):
    """The guest did not run to its own end. ``exit_code`` is what a shell would see.

    ``rule`` is the name of the policy's rule that ended it, or an empty text."""

    exit_code: ClassVar[int] = 134
    rule: str = ""

    def __init__(self, *arguments: Any) -> None:
        # A trap's text includes the guest's stack, one line for each function.
        Exception.__init__(
            self, *(visible_lines(a) if isinstance(a, str) else a for a in arguments)
        )


class GuestTrap(GuestError):
    """The guest trapped. The exit code is 134, like that of the wasmtime command."""


class GuestExited(GuestTrap):
    """A called export ended the guest with ``proc_exit``. ``code`` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the guest called proc_exit({code})")
        self.code = code


class LimitExceeded(GuestError):
    """The guest needs more than its limits allow, before it can start."""

    rule = "memory"


class OutOfFuel(GuestError):
    """The guest used up its fuel."""

    rule = "fuel"


class DeadlineExceeded(GuestError):
    """The guest ran past its deadline, or has computed for all of its seconds. The exit code is
    124, like that of timeout(1)."""

    exit_code = 124

    def __init__(self, text: str, rule: str = "timeout") -> None:
        super().__init__(text)
        self.rule = rule


class Interrupted(GuestError):
    """The guest was interrupted. The exit code is 130, like a shell's after Ctrl-C."""

    exit_code = 130
