"""A subgraph of an interpreter: the main one, or that of a signature.

The public interface can run any signature, but it copies each tensor once more on the way in and
on the way out. The functions below it take the number of a subgraph, in tflite-runtime 2.14 and in
LiteRT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Signature(NamedTuple):
    """A signature: a subgraph, and names for its input and output tensors."""

    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def signatures(interpreter: Any) -> dict[str, Signature]:
    """The signatures of a model by name."""
    subgraph = interpreter._interpreter.GetSubgraphIndexFromSignature
    return {
        name: Signature(int(subgraph(name)), found["inputs"], found["outputs"])
        for name, found in interpreter._get_full_signature_list().items()
    }


def main_tensors(interpreter: Any) -> tuple[list[int], list[int]]:
    """The tensor indexes of the inputs and the outputs of the main subgraph."""
    native = interpreter._interpreter
    return [int(at) for at in native.InputIndices()], [int(at) for at in native.OutputIndices()]


class Subgraph:
    """A subgraph. ``inputs`` and ``outputs`` are tensor indexes. The methods raise ``ValueError``
    or ``RuntimeError`` with the library's reason."""

    def __init__(
        self, interpreter: Any, number: int, inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._interpreter = interpreter
        self._native = interpreter._interpreter
        self._number = number
        self.invoke: Callable[[], Any] = partial(self._native.Invoke, number)

    def details(self, at: int) -> Mapping[str, Any]:
        """The description of a tensor."""
        details: Mapping[str, Any] = self._interpreter._get_tensor_details(at, self._number)
        return details

    def allocate(self) -> None:
        """Allocate memory for every tensor. Tensors whose dimensions changed move."""
        if self._number:
            self._native.AllocateTensors(self._number)
        else:
            # With a number, the library would not report a failing delegate.
            self._native.AllocateTensors()

    def resize(self, at: int, dims: Sequence[int]) -> None:
        """Change the dimensions of an input. They take effect with the next ``allocate``."""
        import numpy as np  # Imported here: a plugin must import quickly.

        self._native.ResizeInputTensor(at, np.array(dims, np.int32), False, self._number)

    def write(self, at: int, array: NDArray[Any]) -> None:
        """Copy an array into a tensor."""
        self._native.SetTensor(at, array, self._number)

    def array(self, at: int) -> Callable[[], Any]:
        """A function that returns the current value of a tensor, by reference."""
        return partial(self._native.tensor, self._native, at, self._number)
