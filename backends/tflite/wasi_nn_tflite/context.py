"""An execution context: one interpreter, whose tensors are read and written where they lie.

The interpreter offers its memory as numpy arrays, and refuses to run while one is alive. Only their
addresses are taken: they are right until tensors are allocated anew, which happens here alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from wasi_nn.backend import ExecutionContext, check_input, position
from wasi_nn.errors import InvalidArgument, RuntimeFailure, UnsupportedOperation
from wasi_nn.types import Tensor, TensorInfo
from wasi_nn_tflite.backend import ELEMENTS


class TfliteContext(ExecutionContext):
    """An interpreter with its tensors allocated."""

    def __init__(
        self, interpreter: Any, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
    ) -> None:
        self._interpreter = interpreter
        self._input_infos = inputs
        self._output_infos = outputs
        # A tensor's index in the interpreter is not its position among the inputs.
        self._input_at = [detail["index"] for detail in interpreter.get_input_details()]
        self._output_at = [detail["index"] for detail in interpreter.get_output_details()]
        self._inputs: list[Tensor | None] = [None] * len(inputs)
        self._missing = len(inputs)
        self._outputs: dict[int, Tensor] = {}
        self._resized = False
        self._computed = False

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        infos = self._input_infos
        index = key if type(key) is int and 0 <= key < len(infos) else position(key, infos, "input")
        bound = self._inputs[index]
        if bound is None or bound.dims != tensor.dims or bound.type is not tensor.type:
            bound = self._bind_input(index, tensor)
        bound.data[:] = tensor.data

    def compute(self) -> None:
        if self._missing:
            names = [
                i.name for i, t in zip(self._input_infos, self._inputs, strict=True) if t is None
            ]
            raise InvalidArgument(f"these inputs have not been set: {', '.join(names)}")
        self._computed = False
        self._outputs.clear()
        if self._resized:
            self._resize()
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise RuntimeFailure(f"TensorFlow Lite failed to compute: {error}") from error
        self._computed = True

    def get_output(self, key: int | str) -> Tensor:
        infos = self._output_infos
        index = (
            key if type(key) is int and 0 <= key < len(infos) else position(key, infos, "output")
        )
        if not self._computed:
            raise InvalidArgument("there is no output before compute has succeeded")
        known = self._outputs.get(index)
        if known is None:
            known = self._outputs[index] = self._look(self._output_at[index], infos[index])
        return known

    def close(self) -> None:
        self._inputs = []
        self._outputs.clear()
        self._computed = False
        self._interpreter = None

    def _bind_input(self, index: int, tensor: Tensor) -> Tensor:
        info = self._input_infos[index]
        check_input(info, tensor)
        bound = None if self._resized else self._look(self._input_at[index], info)
        if bound is None or bound.dims != tensor.dims:
            # Other inputs may have to change with this one before the interpreter can allocate:
            # until the next compute the bytes wait in a buffer of ours, which costs a second copy
            # whenever dimensions change.
            self._resized = True
            bound = Tensor(tensor.type, tensor.dims, memoryview(bytearray(len(tensor.data))))
        if self._inputs[index] is None:
            self._missing -= 1
        self._inputs[index] = bound
        return bound

    def _resize(self) -> None:
        """Give every input the dimensions that were set, and its bytes."""
        # Allocating moves the tensors: what lies in them has to be kept as well.
        kept = [t._replace(data=memoryview(bytes(t.data))) for t in self._inputs if t is not None]
        self._inputs = list(kept)
        try:
            for at, tensor in zip(self._input_at, kept, strict=True):
                self._interpreter.resize_tensor_input(at, list(tensor.dims))
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            # The kept copies are no buffers to write to: every input has to be set anew.
            self._inputs = [None] * len(kept)
            self._missing = len(kept)
            raise RuntimeFailure(
                f"TensorFlow Lite cannot take these dimensions: {error}"
            ) from error
        self._resized = False
        for index, tensor in enumerate(kept):
            bound = self._look(self._input_at[index], self._input_infos[index])
            bound.data[:] = tensor.data
            self._inputs[index] = bound

    def _look(self, at: int, info: TensorInfo) -> Tensor:
        """A tensor of the interpreter as it is now, by reference."""
        array = self._interpreter.tensor(at)()
        kind = ELEMENTS.get(array.dtype.name)
        if kind is None:
            raise UnsupportedOperation(
                f"{info.name} is {info.native_type}, which is no tensor type of wasi-nn"
            )
        dims = tuple(array.shape)
        if not array.nbytes:
            return Tensor(kind, dims, memoryview(b""))
        raw = (ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data)
        return Tensor(kind, dims, memoryview(raw).cast("B"))
