"""Checks what backends return, and reports their failures with the backend's name.

For an output, core checks the number of bytes against type and dimensions, and the type against the
graph's description. It does not check the dimensions against the description: a model's annotation
can be wrong and its library still answers (onnxruntime only warns). The conformance cases check the
dimensions, on models with right annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from wasi_nn._process import exit as python_exit
from wasi_nn._process.signals import raised_by_handler
from wasi_nn.backend import (
    Backend,
    Builder,
    ExecutionContext,
    Generation,
    Graph,
    Journal,
    LoadOptions,
)
from wasi_nn.errors import InvalidArgument, RuntimeFailure, WasiNnError
from wasi_nn.escaping import logger, trace_of
from wasi_nn.types import Tensor, TensorInfo, TensorType, check_length

log = logger("wasi_nn")

#: Exceptions that pass unchanged from a backend's call.
PASSING = (WasiNnError, KeyboardInterrupt, GeneratorExit)
# The most keys to remember, because a guest may ask for any key.
_MAX_KEYS = 64


class Blame:
    """A ``with`` block for calls into a backend. ``WasiNnError``, ``KeyboardInterrupt``,
    ``GeneratorExit`` and whatever a signal handler raises pass unchanged. Anything else is logged
    with its traceback and raised as a ``RuntimeFailure`` that names the backend and says that it
    ``failed``."""

    __slots__ = ("_backend", "_failed")

    def __init__(self, backend: Backend, failed: str = "failed") -> None:
        self._backend = backend
        self._failed = failed

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.report(error)

    def report(self, error: BaseException) -> None:
        """Raise what the exception comes out as, and return where it passes as it is."""
        if python_exit.begun:
            python_exit.stay()
        raised = raised_by_handler(error)
        if raised is not None:
            raise raised from None
        if isinstance(error, BrokenContract):
            raise RuntimeFailure(f"{self._backend.title}: {error}") from error
        if not isinstance(error, PASSING):
            what = f"{self._backend.title} {self._failed}"
            log.error("%s\n  %s", what, trace_of(error))
            raise RuntimeFailure(f"{what}: {type(error).__name__}: {error}") from error


class BrokenContract(Exception):
    """A backend returned something that its contract does not allow. The text says what it
    returned and what it must return."""


def checked_graph(backend: Backend, builders: Sequence[Builder], options: LoadOptions) -> Graph:
    """The graph that a backend loads. Raises what ``Backend.load`` may raise."""
    with Blame(backend, "could not load the model"):
        graph = backend.load(builders, options)
        if not isinstance(graph, Graph):
            raise BrokenContract(f"load gave {_kind(graph)}, and must give a Graph")
        return graph


def checked_context(context: object) -> ExecutionContext:
    """Return the backend's context unchanged. Raises ``BrokenContract``; use it in a ``Blame``."""
    if not isinstance(context, ExecutionContext):
        raise BrokenContract(
            f"init_execution_context gave {_kind(context)}, and must give an ExecutionContext"
        )
    return context


def checked_generation(generation: object) -> Generation | None:
    """Return a context's ``generation()`` unchanged. Raises ``BrokenContract``."""
    if generation is None:
        return None
    if not isinstance(generation, Generation):
        raise BrokenContract(
            f"generation gave {_kind(generation)}, and must give a Generation or None"
        )
    if not all(isinstance(count, Real) for count in generation):
        raise BrokenContract(f"generation gave {generation!r}, and its fields must be numbers")
    return generation


def counted(backend: Backend, context: ExecutionContext) -> Generation | None:
    """What a language model did in a context. A backend's failure is logged, and then it is None;
    raises only what a signal's handler does."""
    try:
        return checked_generation(context.generation())
    except (Exception, SystemExit) as error:
        if raised_by_handler(error) is not None:
            raise
        log.error("%s failed to count\n  %s", backend.title, trace_of(error))
        return None


def checked_flag(what: str, value: object) -> bool:
    """Return a graph's attribute ``what`` unchanged. Raises ``BrokenContract``; use it within a
    ``Blame``."""
    if not isinstance(value, bool):
        raise BrokenContract(f"{what} is {value!r}, and must be True or False")
    return value


def checked_journal(journal: object) -> Journal:
    """Return a context's ``journal()`` unchanged. Raises ``BrokenContract``; use it within a
    ``Blame``."""
    if not isinstance(journal, Journal) or not isinstance(journal.data, bytes):
        raise BrokenContract(f"journal gave {journal!r:.200}, and must give a Journal of bytes")
    return journal


def checked_statistics(statistics: object) -> Mapping[str, float]:
    """Return a graph's ``statistics`` as floats. Raises ``BrokenContract``; use it within a
    ``Blame``."""
    if (
        isinstance(statistics, Mapping)
        and len(statistics) <= _MAX_KEYS
        and all(isinstance(k, str) and isinstance(v, Real) for k, v in statistics.items())
    ):
        return {name: float(value) for name, value in statistics.items()}
    raise BrokenContract(
        f"statistics gave {statistics!r:.200}, and must give at most {_MAX_KEYS} numbers by name"
    )


def checked_choices(choices: object) -> Mapping[str, Sequence[str]]:
    """Return a graph's ``choices`` as tuples. Raises ``BrokenContract``; use it within a
    ``Blame``."""
    if isinstance(choices, Mapping) and not any(isinstance(v, str) for v in choices.values()):
        lists = {key: tuple(values) for key, values in choices.items()}
        if all(isinstance(word, str) for key, words in lists.items() for word in (key, *words)):
            return lists
    raise BrokenContract(
        f"choices are {choices!r}, and must be lists of texts, by key of the config"
    )


def checked_infos(what: str, infos: Sequence[TensorInfo]) -> Sequence[TensorInfo]:
    """Return a graph's description of its ``what`` (inputs, outputs) unchanged. Raises
    ``BrokenContract``; use it within a ``Blame``."""
    if not isinstance(infos, Sequence):
        raise BrokenContract(f"{what} are {_kind(infos)}, and must be a list of TensorInfo")
    for info in infos:
        if not isinstance(info, TensorInfo):
            raise BrokenContract(f"one of {what} is {_kind(info)}, and must be a TensorInfo")
        if (
            not isinstance(info.name, str)
            or not isinstance(info.type, (TensorType, type(None)))
            or not all(isinstance(size, Integral) for size in info.dims or ())
        ):
            raise BrokenContract(
                f"one of {what} is {info!r}; its name must be a text, its type a TensorType or "
                "None, its dimensions whole numbers or None"
            )
    return infos


class Outputs:
    """Checks the outputs of a graph's contexts. Use it within a ``Blame``.

    An output with the type, dimensions and length of the last valid output of the same key is
    valid too. ``looks`` has these, so that most checks are comparisons and compute nothing."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        #: The type, dimensions and number of bytes of the last valid output of each key.
        self.looks: dict[int | str, tuple[TensorType, tuple[int, ...], int]] = {}

    def check(self, key: int | str, output: Tensor) -> None:
        """Raise ``BrokenContract`` unless ``output`` is a valid tensor of the described type."""
        self._look(key, output)
        if key in self.looks or len(self.looks) < _MAX_KEYS:
            self.looks[key] = output.type, output.dims, output.data.nbytes

    def _look(self, key: int | str, output: object) -> None:
        what = f"output {key!r}"
        if not isinstance(output, Tensor):
            raise BrokenContract(f"{what} is {_kind(output)}, and must be a Tensor")
        kind, dims, data = output
        if not isinstance(kind, TensorType):
            raise BrokenContract(f"the type of {what} is {kind!r}, and must be a TensorType")
        if not isinstance(dims, tuple) or any(
            not isinstance(size, int) or size < 0 for size in dims
        ):
            raise BrokenContract(
                f"the dimensions of {what} are {dims!r}, and must be a tuple of whole numbers "
                "from 0"
            )
        if not isinstance(data, memoryview):
            raise BrokenContract(f"the data of {what} are {_kind(data)}, and must be a memoryview")
        if data.itemsize != 1 or data.ndim != 1 or not data.c_contiguous:
            raise BrokenContract(
                f"the data of {what} are a view of {data.ndim} dimensions, items of "
                f"{data.itemsize} bytes and strides {data.strides}, and must be a flat and "
                "contiguous view of bytes"
            )
        if self._graph.untyped_bytes:
            return
        try:
            check_length(kind, dims, data.nbytes)
        except InvalidArgument as error:
            raise BrokenContract(f"{what} does not fit its dimensions: {error}") from None
        described = self._described(key)
        if described not in (None, kind):
            raise BrokenContract(
                f"{what} has type {kind}, but the graph describes it as {described}"
            )

    def _described(self, key: int | str) -> TensorType | None:
        infos = self._graph.outputs
        if isinstance(key, int):
            return infos[key].type if 0 <= key < len(infos) else None
        return next((info.type for info in infos if info.name == key), None)


def _kind(value: object) -> str:
    return "None" if value is None else f"of Python's type {type(value).__name__}"


def as_json(config: Mapping[str, Any]) -> str:
    """The config as text. Raises ``InvalidArgument`` if it is not made of JSON's types."""
    # Imported here: it takes long beside the start of a small guest.
    import json

    try:
        return json.dumps(config, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"the config is not made of JSON's types: {error}") from error
