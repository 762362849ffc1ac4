"""What a worker tells of a graph, and what it has generated: written there, and checked here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wasi_nn._models.checks import (
    checked_choices,
    checked_flag,
    checked_infos,
    checked_statistics,
)
from wasi_nn._worker.messages import MAX_MESSAGE, as_json, from_json
from wasi_nn.backend import Generation, Graph
from wasi_nn.errors import RuntimeFailure
from wasi_nn.types import Quantization, TensorInfo, TensorType

_TYPES = {str(kind): kind for kind in TensorType}
_MAX_DIMENSION = 1 << 63
# Floats have all whole numbers up to this one.
_MAX_NUMBER = 1 << 53


class Description(NamedTuple):
    """The attributes of a ``backend.Graph``. ``memory`` is the worker's number of what takes its
    memory: the same one for each graph that shares it."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    concurrent_contexts: bool
    untyped_bytes: bool
    stateless: bool
    choices: Mapping[str, Sequence[str]]
    memory: int | None


def write(graph: Graph, memory: int | None) -> bytes:
    """A graph's description for the host. Raises ``RuntimeFailure`` if it is too long, and
    ``BrokenContract`` if it is not what a graph must have."""
    described = as_json(
        {
            "inputs": [_described(info) for info in checked_infos("inputs", graph.inputs)],
            "outputs": [_described(info) for info in checked_infos("outputs", graph.outputs)],
            "concurrent_contexts": checked_flag("concurrent_contexts", graph.concurrent_contexts),
            "untyped_bytes": checked_flag("untyped_bytes", graph.untyped_bytes),
            "stateless": checked_flag("stateless", graph.stateless),
            "choices": checked_choices(graph.choices),
            "memory": memory,
        }
    )
    if len(described) > MAX_MESSAGE:
        raise RuntimeFailure(
            f"the names of the graph's inputs and outputs take {len(described)} bytes: "
            f"{MAX_MESSAGE} is the most that a graph in a worker may have"
        )
    return described


def read(body: memoryview) -> Description:
    """What ``write`` was given. Raises what reading nonsense raises."""
    found = from_json(body)
    memory = found["memory"]
    return Description(
        tuple(_info(**one) for one in found["inputs"]),
        tuple(_info(**one) for one in found["outputs"]),
        checked(found["concurrent_contexts"], bool),
        checked(found["untyped_bytes"], bool),
        checked(found["stateless"], bool),
        {key: _texts(values) for key, values in checked(found["choices"], dict).items()},
        None if memory is None else checked(memory, int),
    )


def generation(numbers: Sequence[float] | None) -> Generation | None:
    """The worker's numbers: those of tokens and texts are whole ones. Raises ``ValueError`` and
    ``TypeError``."""
    if numbers is None:
        return None
    if not all(0 <= value < _MAX_NUMBER for value in numbers):
        raise ValueError("what was generated is not made of numbers from 0")
    whole = ("tokens" in name or name == "texts" for name in Generation._fields)
    return Generation._make(
        int(value) if is_whole else float(value)
        for value, is_whole in zip(numbers, whole, strict=True)
    )


def statistics(body: memoryview) -> Mapping[str, float]:
    """What a graph in a worker counts. Raises what reading nonsense raises, and
    ``BrokenContract``."""
    return checked_statistics(from_json(body))


def checked(value: Any, kind: type) -> Any:
    """``value``, which a worker has sent. Raises ``ValueError`` if it is of another kind."""
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} must")
    return value


def _described(info: TensorInfo) -> dict[str, Any]:
    if not all(-1 <= size < _MAX_DIMENSION for size in info.dims or ()):
        # (The host would end a worker that sends it.)
        raise RuntimeFailure(f"the model has a tensor that cannot be: {info.describe()}")
    scale = info.quantization
    return {
        "name": info.name,
        "type": None if info.type is None else str(info.type),
        "dims": None if info.dims is None else [int(size) for size in info.dims],
        "native_type": info.native_type,
        "quantization": scale and [float(scale.scale), int(scale.zero_point), scale.element],
        "aliases": info.aliases,
    }


def _info(
    name: str,
    type: str | None,
    dims: list[int] | None,
    native_type: str,
    quantization: list[Any] | None,
    aliases: list[str],
) -> TensorInfo:
    return TensorInfo(
        checked(name, str),
        None if type is None else _TYPES[type],
        None if dims is None else tuple(map(_size, checked(dims, list))),
        checked(native_type, str),
        None if quantization is None else _quantization(*quantization),
        _texts(aliases),
    )


def _size(value: object) -> int:
    size: int = checked(value, int)
    if not -1 <= size < _MAX_DIMENSION:
        raise ValueError(f"a dimension is {size}")
    return size


def _quantization(scale: object, zero_point: object, element: object) -> Quantization:
    return Quantization(checked(scale, float), checked(zero_point, int), checked(element, str))


def _texts(values: object) -> tuple[str, ...]:
    return tuple(checked(value, str) for value in checked(values, list))
