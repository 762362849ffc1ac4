"""Tensors and execution targets, in the specification's words.

Nothing here imports numpy. A tensor is its type, its dimensions and a view of its bytes. The bytes
are copied once, when they move to where they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import InvalidArgument, Unavailable, UsageError
from wasi_nn.escaping import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Availability",
    "ExecutionTarget",
    "Quantization",
    "Tensor",
    "TensorInfo",
    "TensorType",
    "byte_size",
    "check_length",
]

# The most characters of a name to show.
_MAX_NAME = 200


class TensorType(Enum):
    """The element types that some version of wasi-nn names; ``size`` is in bytes."""

    F16 = ("f16", 2)
    F32 = ("f32", 4)
    F64 = ("f64", 8)
    BF16 = ("bf16", 2)
    U8 = ("u8", 1)
    I32 = ("i32", 4)
    I64 = ("i64", 8)

    label: str
    size: int

    def __init__(self, label: str, size: int) -> None:
        self.label = label
        self.size = size

    def __str__(self) -> str:
        return self.label


class ExecutionTarget(Enum):
    """Where a graph runs. ``AUTO`` (WasmEdge's addition, number 3) is the best device here."""

    CPU = "cpu"
    GPU = "gpu"
    TPU = "tpu"
    AUTO = "auto"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def named(cls, name: str) -> ExecutionTarget:
        """The target of a name in any case; ``npu`` is another word for ``tpu``. Raises
        ``UsageError``."""
        if not isinstance(name, str):
            raise UsageError(f"the execution target must be a name, such as 'cpu', not {name!r}")
        lowered = name.lower()
        try:
            return cls("tpu" if lowered == "npu" else lowered)
        except ValueError:
            known = [target.value for target in cls]
            raise UsageError(
                f"there is no execution target {name!r}{did_you_mean(name, known)}; "
                f"known: {', '.join(known)}"
            ) from None


def byte_size(kind: TensorType, dims: Sequence[int]) -> int:
    """The bytes that a tensor of these dimensions takes."""
    return prod(dims) * kind.size


def check_length(kind: TensorType, dims: Sequence[int], length: int) -> None:
    """Raise ``InvalidArgument`` unless a tensor of this type and these dimensions takes ``length``
    bytes."""
    expected = byte_size(kind, dims)
    if length != expected:
        raise InvalidArgument(
            f"a {kind} tensor of dimensions {list(dims)} takes {expected} bytes, not {length}"
        )


class Tensor(NamedTuple):
    """A tensor by reference.

    ``data`` is a flat, C-contiguous view of bytes in little-endian order, ``type.size`` bytes for
    each element. The method that returns a tensor says how long the view stays valid; copy the
    bytes if you need them longer.
    """

    type: TensorType
    dims: tuple[int, ...]
    data: memoryview

    @classmethod
    def of(cls, array: Any) -> Tensor:
        """Wrap a numpy array, or anything that ``numpy.ascontiguousarray`` accepts. A contiguous
        array is not copied. bf16 is ``ml_dtypes.bfloat16``. Raises ``TypeError`` for an element
        type that wasi-nn does not have."""
        import numpy as np

        contiguous = np.ascontiguousarray(array)
        if not contiguous.dtype.isnative:
            contiguous = contiguous.astype(contiguous.dtype.newbyteorder("="))
        kind = _BY_NUMPY_NAME.get(contiguous.dtype.name)
        if kind is None:
            name = contiguous.dtype.name
            bits = _AS_BITS.get(name)
            raise TypeError(
                f"wasi-nn has no tensor type for numpy's {contiguous.dtype}; "
                f"convert to one of {', '.join(sorted(_BY_NUMPY_NAME))}"
                + (f". A model that takes {name} reads the bits of {bits}: " if bits else "")
                + (f'give it array.view("{bits}")' if bits else "")
            )
        dims = np.shape(array)  # ascontiguousarray turns a scalar into one dimension
        return cls(kind, dims, contiguous.reshape(-1).view(np.uint8).data)

    @classmethod
    def of_numbers(cls, numbers: Any, kind: TensorType | None) -> Tensor:
        """A tensor from a Python number or nested lists of numbers, of type ``kind`` if it is
        given. Raises ``TypeError`` for numbers that the type cannot hold, such as 1.5 or 300 in
        u8."""
        import numpy as np

        given, wanted = np.asarray(numbers), _NUMPY_NAMES.get(kind) if kind else None
        if wanted is None or given.dtype.kind not in "biuf":
            return cls.of(given)
        try:
            with np.errstate(over="raise", invalid="raise"):
                converted = given.astype(wanted)
        except FloatingPointError:
            converted = given
        whole = np.issubdtype(wanted, np.integer)
        if converted is given or (whole and not np.array_equal(converted, given)):
            raise TypeError(f"a tensor of {kind} cannot hold all of these numbers: {numbers!r:.60}")
        return cls.of(converted)

    def numpy(self) -> NDArray[Any]:
        """A new numpy array with a copy of the data, in the shape ``dims``.

        numpy has no bf16, so such an array has the dtype ``ml_dtypes.bfloat16``. Raises
        ``Unavailable`` if the package ml_dtypes is not installed."""
        import numpy as np

        dtype: Any = _NUMPY_NAMES.get(self.type)
        if dtype is None:
            dtype = _bfloat16()
        array: NDArray[Any] = np.frombuffer(self.data, dtype).reshape(self.dims).copy()
        return array


_NUMPY_NAMES = {
    TensorType.F16: "float16",
    TensorType.F32: "float32",
    TensorType.F64: "float64",
    TensorType.U8: "uint8",
    TensorType.I32: "int32",
    TensorType.I64: "int64",
}
# Backends take bool as u8.
_BY_NUMPY_NAME = {name: kind for kind, name in _NUMPY_NAMES.items()} | {
    "bfloat16": TensorType.BF16,
    "bool": TensorType.U8,
}
# The types that carry the bits of a type that wasi-nn does not have.
_AS_BITS = {"int8": "uint8", "uint32": "int32", "uint64": "int64"}


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise Unavailable("bf16 arrays need a numpy type: pip install ml_dtypes") from None
    return ml_dtypes.bfloat16


class Availability(NamedTuple):
    """Whether a plugin's library can be used here.

    ``detail`` is its version, or the reason why it cannot be used and what to do (``pip install
    …``). ``devices`` names what it can run on."""

    usable: bool
    detail: str
    devices: tuple[str, ...] = ()


class Quantization(NamedTuple):
    """How the elements of a quantised tensor map to real numbers:
    ``(element - zero_point) * scale``. ``element`` is numpy's name of the stored type (``uint8``,
    ``int8``)."""

    scale: float
    zero_point: int
    element: str


class TensorInfo(NamedTuple):
    """An input or output of a graph.

    ``type`` is None if wasi-nn has no such type (strings, sequences); ``native_type`` is the
    library's name of it. A dynamic dimension is -1. ``dims`` is None if the graph does not say.
    ``quantization`` is set for a quantised tensor. ``aliases`` are other names of the same tensor.
    """

    name: str
    type: TensorType | None
    dims: tuple[int, ...] | None
    native_type: str = ""
    quantization: Quantization | None = None
    aliases: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line to print: ``bytes: i32[?, 2048]``."""
        kind = str(self.type) if self.type else visible(self.native_type) or "unknown"
        name = visible(self.name, _MAX_NAME)
        if self.dims is None:
            return f"{name}: {kind}"
        return f"{name}: {kind}[{', '.join('?' if d < 0 else str(d) for d in self.dims)}]"
