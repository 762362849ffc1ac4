"""An execution context: one infer request, whose tensors are OpenVINO's own memory.

The guest's bytes are copied straight into the request's input tensor, and outputs are read where
OpenVINO wrote them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import openvino

from wasi_nn.backend import ExecutionContext, check_input, position
from wasi_nn.errors import InvalidArgument, RuntimeFailure, UnsupportedOperation
from wasi_nn.types import Tensor, TensorInfo
from wasi_nn_openvino.elements import ELEMENTS


class OpenvinoContext(ExecutionContext):
    """One infer request of a shared compiled model."""

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
    ) -> None:
        self._request = compiled.create_infer_request()
        self._types = [port.element_type for port in compiled.inputs]
        self._input_infos = inputs
        self._output_infos = outputs
        self._inputs: list[Tensor | None] = [None] * len(inputs)
        self._missing = len(inputs)
        self._outputs: dict[int, Tensor] = {}
        # What the views of the outputs look into.
        self._held: dict[int, openvino.Tensor] = {}
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
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO failed to compute: {error}") from error
        self._computed = True

    def get_output(self, key: int | str) -> Tensor:
        infos = self._output_infos
        index = (
            key if type(key) is int and 0 <= key < len(infos) else position(key, infos, "output")
        )
        if not self._computed:
            raise InvalidArgument("there is no output before compute has succeeded")
        known = self._outputs.get(index)
        if known is not None:
            return known
        return self._read_output(index)

    def cancel(self) -> None:
        self._request.cancel()

    def close(self) -> None:
        self._inputs = []
        self._outputs, self._held = {}, {}
        self._computed = False

    def _bind_input(self, index: int, tensor: Tensor) -> Tensor:
        info = self._input_infos[index]
        check_input(info, tensor)
        try:
            memory = openvino.Tensor(self._types[index], list(tensor.dims))
            self._request.set_input_tensor(index, memory)
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO does not take input {info.name}: {error}") from error
        bound = Tensor(tensor.type, tensor.dims, _bytes_of(memory))
        if self._inputs[index] is None:
            self._missing -= 1
        self._inputs[index] = bound
        return bound

    def _read_output(self, index: int) -> Tensor:
        info = self._output_infos[index]
        memory = self._held[index] = self._request.get_output_tensor(index)
        kind = ELEMENTS.get(memory.element_type.get_type_name())
        if kind is None:
            raise UnsupportedOperation(
                f"output {info.name} is {info.native_type}, which is no tensor type of wasi-nn"
            )
        tensor = Tensor(kind, tuple(memory.shape), _bytes_of(memory))
        if info.dims is not None and min(info.dims, default=0) >= 0:
            # With all dimensions fixed, OpenVINO writes to the same memory each time.
            self._outputs[index] = tensor
        return tensor


def _bytes_of(memory: openvino.Tensor) -> memoryview:
    """A flat view of a tensor's memory, which the request keeps alive."""
    if not memory.byte_size:
        return memoryview(b"")
    address = memory.data.ctypes.data
    return memoryview((ctypes.c_ubyte * memory.byte_size).from_address(address)).cast("B")
