"""What a module takes: where a tensor goes that is set by index or name, and how the module is
called with what was set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn.errors import InvalidArgument
from wasi_nn.types import Tensor, TensorInfo

if TYPE_CHECKING:
    import torch

# A list that was set at its end alone misses all the elements before.
_MOST_NAMED = 16
#: Where a value stands among the arguments: the argument's number, then numbers and keys inside it.
Path = tuple[Any, ...]


class Reader(NamedTuple):
    """How an argument that is not a tensor is read from one. ``rank`` is the number of dimensions
    that the tensor must have; 0 stands for one element in none or one dimension, None for any."""

    what: str
    rank: int | None
    read: Callable[[str, torch.Tensor], Any]

    def check(self, name: str, tensor: Tensor) -> None:
        """Raise ``InvalidArgument`` for a tensor of other dimensions."""
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


#: By torch's names of the types.
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
#: A bool tensor's bytes are 0 or 1, and a guest may have sent others: this copy makes them so.
TRUTH = Reader("a tensor of truth values", None, lambda name, tensor: tensor.ne(0))


class Slot(NamedTuple):
    """Where one tensor goes. ``reader`` makes another value of it. ``info`` says which type and
    dimensions it may have, and ``dtype`` is torch's name of the type, where the module says so."""

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
        """Where the input of an index or name goes. Raises ``InvalidArgument`` for an unknown one,
        and ``UnsupportedOperation`` for one that no tensor can stand for."""

    @abstractmethod
    def arguments(self, given: Mapping[Path, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """Positional and named arguments, of the values by their paths. Raises ``InvalidArgument``
        that names the inputs that are missing."""


def not_set(names: Sequence[str]) -> InvalidArgument:
    """The error for inputs that are missing."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    shown = ", ".join(names[:_MOST_NAMED])
    return InvalidArgument(f"these inputs have not been set: {shown}{more}")
