"""A graph without any Wasm: load, set inputs, compute, read outputs, with numpy arrays."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from wasi_nn._closing import Closing
from wasi_nn._host.output import python_output
from wasi_nn._models.loading import LoadedGraph
from wasi_nn._process.fork import OfOneProcess, keep
from wasi_nn._process.interrupts import Interruption
from wasi_nn._process.signals import attend
from wasi_nn._scope import Entered, Scope, observed, scope
from wasi_nn._session.cancellation import Cancellation
from wasi_nn._session.execution import Execution
from wasi_nn._session.ledger import Ledger
from wasi_nn._session.meter import Meter
from wasi_nn.backend import Schedule
from wasi_nn.errors import EndOfSequence, InvalidArgument, NnError, UnsupportedOperation
from wasi_nn.limits import Limits
from wasi_nn.types import Tensor, TensorInfo, TensorType

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
# A backend that describes no outputs might refuse every index, endlessly.
_MAX_REFUSED = 1024


class Context(OfOneProcess, Closing):
    """An execution context for Python callers, and a context manager. One thread at a time may use
    it: open one for each thread. The arrays that it returns are copies. The limits that its host
    was given hold for each context: host memory, tensors, tokens and seconds of computing."""

    def __init__(
        self, loaded: LoadedGraph, limits: Limits, schedule: Schedule, within: Scope | None = None
    ) -> None:
        self._loaded = loaded
        self._within = within
        self._open = True
        self._forked = False
        self._meter = Meter(limits)
        self._execution = Execution(
            loaded, Ledger(limits), self._meter, Cancellation(), python_output(), schedule
        )
        if not loaded.backend.survives_fork:
            keep(self)

    def forked(self) -> None:
        """This is a child process now, and the context is the parent's."""
        self._open, self._forked = False, True

    def set_input(self, key: int | str, array: Any) -> None:
        """Set an input to a numpy array, bytes (one dimension of u8), a text (in UTF-8), a
        ``Tensor``, or lists of Python's numbers, which take the type that the graph describes.

        Raises ``InvalidArgument`` for an unknown key and for a type or dimensions that the graph
        does not take, ``TypeError`` for an array that wasi-nn has no type for."""
        if isinstance(array, str):
            array = array.encode()
        if isinstance(array, (bytes, bytearray, memoryview)):
            import numpy as np

            array = np.frombuffer(array, np.uint8)
        if isinstance(array, Tensor):
            tensor = array
        elif isinstance(array, (list, tuple, int, float)):
            tensor = Tensor.of_numbers(array, self._described(key))
        else:
            tensor = Tensor.of(array)
        self._opened().set_input(key, tensor)

    def _described(self, key: int | str) -> TensorType | None:
        for index, info in enumerate(self._loaded.inputs):
            if key in (index, info.name, *info.aliases):
                return info.type
        return None

    def compute(self) -> None:
        """Run the graph. Raises ``InvalidArgument`` if an input is missing. If a signal handler
        raises meanwhile, the computation is cancelled, where the library can, and the handler's
        exception is raised. The context can then only be closed."""
        self._attended("compute", self._opened().compute)

    def get_output(self, key: int | str = 0) -> NDArray[Any]:
        """A copy of an output of the last ``compute``."""
        output = self._opened().get_output(key)
        with self._loaded.blame:
            return output.numpy()

    def stream(self, key: int | str = 0) -> Generator[bytes, None, None]:
        """The pieces of an output as they are made, such as a language model's tokens. Leaving the
        loop early ends the text. Raises ``UnsupportedOperation`` for a graph that does not stream,
        and what ``compute`` raises."""

        def piece() -> bytes:
            execution = self._opened()
            execution.compute_single()
            return bytes(execution.get_output_single(key).data)

        try:
            while True:
                yield self._attended("compute_single", piece)
        except EndOfSequence:
            pass
        finally:
            # (A worker may end before this generator: at the latest when Python ends.)
            if self._open and not self._loaded.lost:
                self._execution.fini_single()

    def stream_text(self, key: int | str = 0) -> Generator[str, None, None]:
        """The pieces as text, in whole characters: a token may be a part of one. Bytes that are not
        UTF-8 become U+FFFD. Raises what ``stream`` raises."""
        decoder = getincrementaldecoder("utf-8")(errors="replace")
        pieces = self.stream(key)
        try:
            for piece in pieces:
                if text := decoder.decode(piece):
                    yield text
            if text := decoder.decode(b"", final=True):
                yield text
        finally:
            # Without this, the text of a loop that was left early ends when it is collected.
            pieces.close()

    def stream_async(self, key: int | str = 0) -> AsyncGenerator[bytes, None]:
        """``stream`` for ``async for``, in a thread. Cancelling the task cancels the computation
        and waits for its end. The context can then only be closed."""
        from wasi_nn._host.asynchronous import each

        return each(self.stream(key), self.cancel)

    def stream_text_async(self, key: int | str = 0) -> AsyncGenerator[str, None]:
        """``stream_text`` for ``async for``, as ``stream_async``."""
        from wasi_nn._host.asynchronous import each

        return each(self.stream_text(key), self.cancel)

    async def compute_async(self) -> None:
        """``compute`` in a thread. Cancelling the task does the same as in ``stream_async``."""
        from wasi_nn._host.asynchronous import in_thread

        await in_thread(self.compute, self.cancel)

    def cancel(self) -> None:
        """Make a call that another thread is making fail soon, where the library can. The context
        can then only be closed."""
        if not self._forked:
            self._execution.cancel()

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self._open:
            self._open = False
            self._meter.close()
            self._execution.close()

    def _attended(self, name: str, work: Callable[[], T]) -> T:
        if self._within is None:
            return attend(work, self.cancel)
        within = self._within._replace(step=scope.get().step)
        with Entered(within), observed("call", name):
            try:
                return attend(work, self.cancel)
            except EndOfSequence as end:
                # (It is not an error.)
                ended = end
        try:
            raise ended
        finally:
            del ended

    def _opened(self) -> Execution:
        if not (self._open or self._forked):
            raise InvalidArgument("the execution context was closed")
        return self._execution


class Model(OfOneProcess):
    """A loaded graph for Python callers. Any number of threads may open contexts of it."""

    def __init__(
        self,
        loaded: LoadedGraph,
        limits: Limits,
        schedule: Schedule = Schedule(),
        within: Scope | None = None,
    ) -> None:
        self._loaded = loaded
        self._within = within
        self._limits = limits
        self._schedule = schedule

    def __repr__(self) -> str:
        try:
            inputs, outputs = (
                ", ".join(info.describe() for info in infos) or "?"
                for infos in (self.inputs, self.outputs)
            )
        except NnError:
            return f"<Model of {self.encoding}>"
        return f"<Model of {self.encoding}: {inputs} -> {outputs}>"

    @property
    def encoding(self) -> str:
        """The graph encoding that it was loaded as."""
        return self._loaded.options.encoding

    @property
    def backend(self) -> str:
        """The name of the backend that runs it."""
        return self._loaded.backend.name

    @property
    def load_seconds(self) -> float:
        """How long loading it took."""
        return self._loaded.seconds

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """Its inputs, by index."""
        return self._loaded.inputs

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """Its outputs, by index."""
        return self._loaded.outputs

    @property
    def choices(self) -> Mapping[str, Sequence[str]]:
        """The values that keys of the config can have for this model, such as its signatures."""
        return self._loaded.choices

    def init_execution_context(self) -> Context:
        """A new execution context."""
        return Context(self._loaded, self._limits, self._schedule, self._within)

    def run(
        self, inputs: Mapping[int | str, Any] | Any = None, /, **named: Any
    ) -> dict[str, NDArray[Any]]:
        """One inference in a new context. Inputs are given by index or name: an array alone is
        input 0, and ``run(x=…, y=…)`` names them. Outputs come by name, or by number if the graph
        does not describe them. Each name of a tensor can be looked up.

        Outputs without a tensor type of wasi-nn (maps, texts) are left out: ``Model.outputs``
        describes them, and ``Context.get_output`` says why. Raises ``UnsupportedOperation`` if no
        output is left."""
        return self._run(_given(inputs, named), lambda cancel: None)

    async def run_async(
        self, inputs: Mapping[int | str, Any] | Any = None, /, **named: Any
    ) -> dict[str, NDArray[Any]]:
        """``run`` in a thread. Cancelling the task cancels the computation, where the library can,
        and waits for its end."""
        from wasi_nn._host.asynchronous import in_thread

        stop = Interruption()
        return await in_thread(partial(self._run, _given(inputs, named), stop.aim), stop)

    def _run(
        self,
        inputs: Mapping[int | str, Any],
        begin: Callable[[Callable[[], None]], None],
    ) -> dict[str, NDArray[Any]]:
        with self.init_execution_context() as context:
            begin(context.cancel)
            for key, array in inputs.items():
                context.set_input(key, array)
            context.compute()
            return _read(context, self.outputs)


def _given(inputs: Any, named: Mapping[str, Any]) -> Mapping[int | str, Any]:
    given: dict[int | str, Any] = dict(named.items())
    if inputs is not None:
        given.update(inputs if isinstance(inputs, Mapping) else {0: inputs})
    return given


class _Outputs(dict[str, Any]):
    """Arrays by their tensors' first names. The other names can be looked up too."""

    def __init__(self, infos: Sequence[TensorInfo]) -> None:
        super().__init__()
        self._infos = infos

    def __missing__(self, name: str) -> Any:
        for info in self._infos:
            if name in info.aliases and info.name in self:
                return self[info.name]
        raise KeyError(name)


def _read(context: Context, infos: Sequence[TensorInfo]) -> dict[str, NDArray[Any]]:
    outputs = _Outputs(infos)
    refused: list[UnsupportedOperation] = []
    for index in range(len(infos)) if infos else count():
        try:
            outputs[infos[index].name if infos else str(index)] = context.get_output(index)
        except UnsupportedOperation as error:
            refused.append(error)
            if len(refused) >= _MAX_REFUSED:
                break
        except InvalidArgument:
            # Without a description, this shows how many outputs there are.
            if infos:
                raise
            break
    if refused and not outputs:
        raise refused[0]
    return outputs
