"""Execution contexts, in the backend contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from wasi_nn.types import Tensor, TensorType


class Generation(NamedTuple):
    """What a language model has read and written in a context, for ``--stats``.

    - ``prompt_tokens`` of prompts were computed, in ``prompt_seconds``.
    - ``kept_tokens`` of prompts were known from an earlier prompt.
    - ``tokens`` were generated, in ``seconds``.
    - ``texts`` were begun. ``first_seconds`` is the time from each call to its first token, summed.
    """

    prompt_tokens: int = 0
    kept_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    texts: int = 0
    first_seconds: float = 0.0

    def plus(self, other: Generation) -> Generation:
        """The sum of both."""
        return Generation._make(a + b for a, b in zip(self, other, strict=True))


class Schedule(NamedTuple):
    """Whom a context computes for, and how soon, where several contexts wait for one library.

    - ``tenant``: who shares a cache and a turn. A graph lets tenants take turns, and shares nothing
      of one with another.
    - ``priority``: a higher one computes first.
    - ``tokens_per_second``: how many tokens a language model may write in a second on average; 0
      for no limit.

    A guest's config may only lower the last two, so the lower value of both holds."""

    tenant: str = ""
    priority: int = 0
    tokens_per_second: float = 0.0


class Journal(NamedTuple):
    """What a context tells the host to keep of its present text.

    ``data`` is added to what was kept before. If the text ``begins``, it replaces that."""

    data: bytes = b""
    begins: bool = False


def discard(data: bytes) -> None:
    """The ``stdout`` of a context whose output nobody reads."""


def _nothing(stepping: bool) -> None:
    """The ``stepping`` of a context in the host's own process: it dies with the host."""


class ExecutionContext(ABC):
    """One guest's inputs and outputs of a graph. One thread uses it at a time.

    ``key`` is an index from 0, or a name. An unknown key raises ``InvalidArgument``."""

    #: Writes bytes to the guest's standard output, within a call of the context. Core sets it. A
    #: context must print nowhere else.
    stdout: Callable[[bytes], object] = staticmethod(discard)

    #: Whom the context computes for, and how soon. Core sets it right after the context is made.
    schedule: Schedule = Schedule()

    #: Tells core who is at work, in case the process dies: a graph that computes several contexts
    #: together calls it with True before library code runs for this context (a step that it takes
    #: part in), and with False when the context begins to wait for its next step. Core sets it.
    #: It takes less than a microsecond, and any thread may call it.
    stepping: Callable[[bool], object] = staticmethod(_nothing)

    @abstractmethod
    def set_input(self, key: int | str, tensor: Tensor) -> None:
        """Copy the tensor's bytes to where the library reads them. When this returns, the guest may
        reuse ``tensor.data``.

        Core has checked that the length fits type and dimensions (except for graphs with
        ``untyped_bytes``). Raises ``InvalidArgument`` for a type or dimensions that the graph does
        not take."""

    @abstractmethod
    def compute(self) -> None:
        """Run the graph. The inputs stay set. Raises ``InvalidArgument`` if an input is missing,
        and ``RuntimeFailure`` if the library fails."""

    def accumulates(self, key: int | str) -> bool:
        """Whether earlier tensors of this input have an effect beside the newest one (parts of a
        config). If the context has to be made again, core sets them again too, in order."""
        return False

    def read_from(self, key: int | str, tensor: Tensor) -> bool:
        """Read an input from ``tensor.data`` itself, now and in each later ``compute``: the caller
        keeps the memory, and writes the next tensors of this type and these dimensions into it.
        False if the library cannot; then nothing is set. Raises what ``set_input`` raises."""
        return False

    def input_memory(
        self, key: int | str, kind: TensorType, dims: tuple[int, ...]
    ) -> memoryview | None:
        """Set an input as ``set_input`` does, and let the caller write its bytes: the memory that
        the library reads it from, valid until the next call on this context. None if nobody else
        can write there; then nothing is set. Raises what ``set_input`` raises."""
        return None

    @abstractmethod
    def get_output(self, key: int | str) -> Tensor:
        """An output of the last ``compute``, without a copy. Its view is valid until the next call
        on this context. Raises ``InvalidArgument`` before the first ``compute``."""

    def cancel(self) -> None:
        """Make a running call of another thread fail soon, if the library can: the guest must end.
        This is the only method that core calls from another thread."""

    def generation(self) -> Generation | None:
        """What a language model did in this context; None for every other graph."""
        return None

    def close(self) -> None:
        """Free the context's memory. Called once, whatever happened before."""


class StreamingContext(ExecutionContext):
    """A context that can also produce its output piece by piece (WasmEdge's extension).

    A graph supports streaming if its contexts are of this class."""

    @abstractmethod
    def compute_single(self) -> None:
        """Produce one more piece. Raises ``EndOfSequence`` when there is none."""

    @abstractmethod
    def get_output_single(self, key: int | str) -> Tensor:
        """The newest piece. Its view is valid until the next call on this context."""

    def allow_tokens(self, most: int) -> None:
        """Before ``compute`` and ``compute_single``, core says how many tokens the call may
        generate: what the guest's quota leaves. A language model generates no more, and raises
        ``OutOfTokens`` in place of the next one; its text so far can be read. A context whose
        pieces are not tokens has nothing to do: core counts its pieces."""

    @abstractmethod
    def fini_single(self) -> None:
        """End the stream, early or not, and free its memory."""

    def journal(self) -> Journal:
        """What the host must keep to go on with the present text in another process: what is new
        since the last call. Core asks after each ``set_input``, ``compute``, ``compute_single`` and
        ``fini_single`` in a worker, failed or not. A context whose class does not override this is
        not made again if its worker dies."""
        return Journal()

    def resume(self, journal: bytes, alone: bool) -> None:
        """Go on in a new context where another one was lost with its process. Core has set the same
        inputs again. ``journal`` has what the lost context's ``journal`` gave since its text began.
        Core repeats the call that was under way next.

        With ``alone``, the context may be the one that ended the process: compute it apart from
        all others until a step of it has succeeded. Core does not call this for a context that has
        given no journal and need not be ``alone``."""
