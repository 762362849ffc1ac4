"""The leaves of nested containers, in order, with names, and as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn.errors import UnsupportedOperation
from wasi_nn.types import TensorInfo, TensorType
from wasi_nn_pytorch.elements import ELEMENTS

if TYPE_CHECKING:
    import torch

#: The tensor type and the name of the torch.dtype for a Python number, by its Python type.
NUMBERS = {
    bool: (TensorType.U8, "bool"),
    int: (TensorType.I64, "int64"),
    float: (TensorType.F64, "float64"),
}


class Leaf(NamedTuple):
    """A value with its name. ``numbered`` is the same name, with numbers instead of the fields of
    named tuples and dataclasses."""

    name: str
    numbered: str
    value: Any

    def tensor(self) -> torch.Tensor:
        """The value as a flat tensor on the CPU: a number becomes a tensor without dimensions.

        Raises ``UnsupportedOperation`` for a value that is not a tensor of a known type."""
        import torch

        value = self.value
        if type(value) in NUMBERS:
            try:
                return torch.tensor(value, dtype=getattr(torch, NUMBERS[type(value)][1]))
            except (OverflowError, RuntimeError):
                raise self._refusal(f"{value}, which does not fit into 64 bits") from None
        if not isinstance(value, torch.Tensor):
            raise self._refusal(f"{_word(value)}, which wasi-nn has no tensor type for")
        if not is_plain(value):
            layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
            way = {"nested": "torch.nested.to_padded_tensor(y, 0)"}.get(layout, "y.to_dense()")
            if value.device.type == "meta":
                raise self._refusal("a tensor of the device meta, which has no elements")
            raise self._refusal(
                f"a tensor of the layout {layout}: let the module return {way}, which wasi-nn "
                "can carry"
            )
        if str(value.dtype) not in ELEMENTS:
            raise self._refusal(f"{value.dtype}, which wasi-nn has no tensor type for")
        if value.is_cpu and value.is_contiguous() and value.is_inference() and not value.is_neg():
            return value
        # A negated view keeps its sign in a flag, and a strided view is not contiguous.
        return value.detach().resolve_neg().cpu().contiguous()

    def _refusal(self, what: str) -> UnsupportedOperation:
        return UnsupportedOperation(f"output {self.name} is {what}")


def leaves(value: Any, name: str = "", numbered: str = "") -> list[Leaf]:
    """The leaves of a value. The names are the keys of a dict, the fields of a named tuple or
    dataclass, and the numbers of other tuples and lists, joined with dots. A value that is not a
    container is named ``0``. An empty container is one leaf, so that later leaves keep their
    places."""
    parts = _parts(value)
    if not parts:
        return [Leaf(name or "0", numbered or "0", value)]
    return [
        leaf
        for key, number, part in parts
        for leaf in leaves(part, _join(name, key), _join(numbered, number))
    ]


def describe(leaf: Leaf) -> TensorInfo:
    """Describe a leaf whose value is an example or a plain number."""
    value = leaf.value
    if type(value) in NUMBERS:
        return TensorInfo(leaf.name, NUMBERS[type(value)][0], (), type(value).__name__)
    shape = getattr(value, "shape", None)
    if shape is None:
        return TensorInfo(leaf.name, None, None, _word(value))
    dims = tuple(int(dim) if isinstance(dim, int) else -1 for dim in shape)
    kind = ELEMENTS.get(str(value.dtype)) if is_plain(value) else None
    return TensorInfo(leaf.name, kind, dims, str(value.dtype))


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the elements of a tensor are in one strided block of memory."""
    import torch

    return tensor.layout is torch.strided and not tensor.is_nested and tensor.device.type != "meta"


def _parts(value: Any) -> list[tuple[str, str, Any]]:
    """The parts of a container, each with its name and its numbered name."""
    if isinstance(value, Mapping):
        return [(str(key), str(key), part) for key, part in value.items()]
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", range(len(value)))
        values = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        values = [getattr(value, field) for field in names]
    else:
        return []
    return [
        (str(key), str(number), part)
        for number, (key, part) in enumerate(zip(names, values, strict=True))
    ]


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _word(value: Any) -> str:
    if value is None:
        return "None"
    empty = "empty " if isinstance(value, (Mapping, tuple, list)) else ""
    return f"a value of the type {empty}{type(value).__name__}"
