"""The signature of a module: where an input set by index or name goes, and how the module is
called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn.errors import InvalidArgument
from wasi_nn.types import Tensor, TensorInfo

if TYPE_CHECKING:
    import torch

# If only the last element of a list was set, all elements before it are missing.
_MAX_NAMED = 16
#: The place of a value: the argument's number, then numbers and keys of its parts.
Path = tuple[Any, ...]


class Reader(NamedTuple):
    """How to read an argument that is not a tensor from a tensor. ``rank`` is the number of
    dimensions that the tensor must have. 0 means one element in no or one dimension, and None means
    any."""

    what: str
    rank: int | None
    read: Callable[[str, torch.Tensor], Any]

    def check(self, name: str, tensor: Tensor) -> None:
        """Raise ``InvalidArgument`` for a tensor with wrong dimensions."""
        dims = tensor.dims
        if self.rank is not None and (
            len(dims) != self.rank if self.rank else dims not in ((), (1,))
        ):
            shape = "one dimension" if self.rank else "one element"
            raise InvalidArgument(
                f"input {name} is {self.what}: it takes a tensor of {shape}, not of the "
                f"dimensions {list(dims)}"
            )


def _whole(name: str, number: Any) -> int:
    if number != number or number in (float("inf"), float("-inf")) or number != int(number):
        raise InvalidArgument(f"input {name} must be a whole number, not {number}")
    return int(number)


def _text(name: str, tensor: torch.Tensor) -> str:
    try:
        return bytes(tensor.tolist()).decode()
    except (ValueError, TypeError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"input {name} is a text: it takes a tensor of u8 with its UTF-8 bytes ({error})"
        ) from None


#: The readers by torch's names of the types.
READERS = {
    "int": Reader("a whole number", 0, lambda name, tensor: _whole(name, tensor.item())),
    "float": Reader("a number", 0, lambda name, tensor: float(tensor.item())),
    "bool": Reader("a truth value", 0, lambda name, tensor: bool(tensor.item())),
    "number": Reader("a number", 0, lambda name, tensor: tensor.item()),
    "str": Reader("a text", 1, _text),
    "List[int]": Reader(
        "a list of whole numbers", 1, lambda name, t: [_whole(name, x) for x in t.tolist()]
    ),
    "List[float]": Reader(
        "a list of numbers", 1, lambda name, tensor: [float(x) for x in tensor.tolist()]
    ),
    "List[bool]": Reader(
        "a list of truth values", 1, lambda name, tensor: [bool(x) for x in tensor.tolist()]
    ),
}
#: The bytes of a bool tensor must be 0 or 1, but a guest may send others. This makes a clean copy.
TRUTH = Reader("a tensor of truth values", None, lambda name, tensor: tensor.ne(0))


class Slot(NamedTuple):
    """Where one tensor goes. ``reader`` converts it to another value. ``info`` has the required
    type and dimensions, and ``dtype`` torch's name of the type, if the module tells them."""

    name: str
    path: Path
    reader: Reader | None = None
    info: TensorInfo | None = None
    dtype: str | None = None


class Signature(ABC):
    """The arguments of a module."""

    #: The inputs by index.
    infos: Sequence[TensorInfo] = ()

    @abstractmethod
    def slot(self, key: int | str) -> Slot:
        """The slot of an input, by index or name. Raises ``InvalidArgument`` for an unknown one,
        and ``UnsupportedOperation`` for one that cannot be set with a tensor."""

    @abstractmethod
    def arguments(self, given: Mapping[Path, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The positional and named arguments for a call, from values by path. Raises
        ``InvalidArgument`` with the names of missing inputs."""


def not_set(names: Sequence[str]) -> InvalidArgument:
    """The error for missing inputs."""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    shown = ", ".join(names[:_MAX_NAMED])
    return InvalidArgument(f"these inputs have not been set: {shown}{more}")
