"""A subgraph of an interpreter: the main one, or that of a signature.

The public interface runs any signature, but copies each tensor once more on its way in and on its
way out. The functions below it take the number of a subgraph, in tflite-runtime 2.14 as in LiteRT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Signature(NamedTuple):
    """A signature: its names for the tensors of a subgraph, by index."""

    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def signatures(interpreter: Any) -> dict[str, Signature]:
    """The signatures of a model by their names."""
    subgraph = interpreter._interpreter.GetSubgraphIndexFromSignature
    return {
        name: Signature(int(subgraph(name)), found["inputs"], found["outputs"])
        for name, found in interpreter._get_full_signature_list().items()
    }


def main_tensors(interpreter: Any) -> tuple[list[int], list[int]]:
    """The inputs and the outputs of the main subgraph: the indices of their tensors."""
    native = interpreter._interpreter
    return [int(at) for at in native.InputIndices()], [int(at) for at in native.OutputIndices()]


class Subgraph:
    """``inputs`` and ``outputs`` are the indices of tensors. The methods raise ``ValueError`` or
    ``RuntimeError`` with the library's reason."""

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
        """Give every tensor its memory; those whose dimensions were changed move."""
        if self._number:
            self._native.AllocateTensors(self._number)
        else:
            # With a number, a delegate that fails is not an error.
            self._native.AllocateTensors()

    def resize(self, at: int, dims: Sequence[int]) -> None:
        """Give an input other dimensions, which hold from the next ``allocate`` on."""
        import numpy as np  # (Plugins are imported before anybody needs them.)

        self._native.ResizeInputTensor(at, np.array(dims, np.int32), False, self._number)

    def write(self, at: int, array: NDArray[Any]) -> None:
        """Copy an array into a tensor."""
        self._native.SetTensor(at, array, self._number)

    def array(self, at: int) -> Callable[[], Any]:
        """A function that gives a tensor as it is now, by reference."""
        return partial(self._native.tensor, self._native, at, self._number)
