"""An execution context: one interpreter, with tensors that are read and written in place.

The interpreter offers its memory as numpy arrays and refuses to run while one of them is alive. So
only their addresses are kept. An address is valid until the tensors are allocated again. That
happens here, and in the library when a graph has tensors whose dimensions depend on values.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wasi_nn.backend.buffers import BufferedContext
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
from wasi_nn.runtime.library import view_at
from wasi_nn.types import Tensor, TensorInfo, byte_size
from wasi_nn_tflite.subgraph import Subgraph

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TfliteContext(BufferedContext):
    """A subgraph of an interpreter, with its tensors allocated."""

    def __init__(
        self, subgraph: Subgraph, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
    ) -> None:
        super().__init__(inputs, outputs)
        self._subgraph: Any = subgraph
        # A tensor's index in the subgraph differs from its position among the inputs.
        self._input_at = subgraph.inputs
        self._output_at = subgraph.outputs
        self.aliased_outputs = [i for i, at in enumerate(self._output_at) if at in self._input_at]
        # The functions that return the tensors' arrays, and the last known addresses of inputs.
        self._arrays = [subgraph.array(at) for at in self._input_at]
        self._output_arrays = [subgraph.array(at) for at in self._output_at]
        self._addresses = [0] * len(inputs)
        # The last value of each output, and its address.
        self._last: dict[int, tuple[int, Tensor]] = {}
        # The interpreter returns a copy of a tensor without dimensions, so set it before each run.
        self._scalars: dict[int, NDArray[Any]] = {}
        self._resized = False

    def bind(self, index: int, tensor: Tensor) -> Tensor:
        if not tensor.dims:
            dtype = self._subgraph.details(self._input_at[index])["dtype"]
            scalar = self._scalars[index] = np.zeros((), dtype)
            return Tensor(tensor.type, (), scalar.reshape(1).view(np.uint8).data)
        if not self._resized:
            bound = self._look_at_input(index)
            if bound.dims == tensor.dims:
                return bound
        # Other inputs may have to change too before the interpreter can allocate. So the bytes wait
        # in our own buffer until the next compute. This costs a second copy, but only when
        # dimensions change.
        self._resized = True
        return Tensor(tensor.type, tensor.dims, memoryview(bytearray(byte_size(*tensor[:2]))))

    def run(self) -> None:
        if self._resized:
            self._resize()
        try:
            for index, scalar in self._scalars.items():
                self._subgraph.write(self._input_at[index], scalar)
            self._subgraph.invoke()
        except (ValueError, RuntimeError) as error:
            raise RuntimeFailure(f"TensorFlow Lite failed to compute: {error}") from error
        finally:
            self._follow()

    def read(self, index: int) -> Tensor:
        last = self._last.get(index)
        if last is not None and self._is_there(index, *last):
            return last[1]
        output = self._look(self._output_at[index], self.output_infos[index])
        if output.dims and output.data.nbytes:
            address = _address_of(self._output_arrays[index]())
            self._last[index] = address, output
        return output

    def _is_there(self, index: int, address: int, output: Tensor) -> bool:
        """Whether the library still has an output at an address, with the same dimensions."""
        try:
            array = self._output_arrays[index]()
        except ValueError:
            # The library has no array for an empty result.
            return False
        return bool(array.shape == output.dims and _address_of(array) == address)

    def close(self) -> None:
        self.reset()
        self._subgraph = None
        self._arrays, self._output_arrays, self._last = [], [], {}

    def _resize(self) -> None:
        """Give every input its new dimensions and its bytes."""
        # Allocating moves the tensors, so keep the bytes of all of them.
        kept = [t._replace(data=memoryview(bytes(t.data))) for t in self.bound if t is not None]
        try:
            for at, tensor in zip(self._input_at, kept, strict=True):
                if tensor.dims:
                    self._subgraph.resize(at, tensor.dims)
            self._subgraph.allocate()
        except (ValueError, RuntimeError, OverflowError) as error:
            self.reset()
            raise RuntimeFailure(
                f"TensorFlow Lite cannot take these dimensions: {error}"
            ) from error
        self._resized = False
        for index, tensor in enumerate(kept):
            if index in self._scalars:
                continue
            bound = self._look_at_input(index)
            bound.data[:] = tensor.data
            self.bound[index] = bound

    def _follow(self) -> None:
        """Find the inputs that the library has moved."""
        for index, bound in enumerate(self.bound):
            if bound is not None and bound.dims and self._moved(index):
                self.bound[index] = self._look_at_input(index)

    def _look_at_input(self, index: int) -> Tensor:
        self._addresses[index] = _address_of(self._arrays[index]())
        return self._look(self._input_at[index], self.input_infos[index])

    def _moved(self, index: int) -> bool:
        return _address_of(self._arrays[index]()) != self._addresses[index]

    def _look(self, at: int, info: TensorInfo) -> Tensor:
        """The current value of a tensor, by reference."""
        # Reading an array of strings before it has any crashes the process.
        if info.type is None:
            raise UnsupportedOperation(
                f"{info.name} is {info.native_type}, which is not a tensor type of wasi-nn"
            )
        try:
            array = self._subgraph.array(at)()
        except ValueError as error:
            dims = tuple(int(dim) for dim in self._subgraph.details(at)["shape"])
            if 0 in dims:
                # The library has no array for an empty result.
                return Tensor(info.type, dims, memoryview(b""))
            raise UnsupportedOperation(
                f"the model never gives {info.name} a value ({error}): read the other outputs"
            ) from error
        dims = tuple(array.shape)
        if not dims:
            return Tensor(info.type, dims, memoryview(array.tobytes()))
        return Tensor(info.type, dims, view_at(array.ctypes.data, array.nbytes))


def _address_of(array: Any) -> int:
    """Where an array's elements are. (An array's ``ctypes`` takes three times as long.)"""
    if not array.size:
        return 0
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except ValueError:
        # The buffer protocol does not know bfloat16.
        return ctypes.addressof(ctypes.c_char.from_buffer(array.view(np.uint8)))
