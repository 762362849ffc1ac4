"""An execution context: one infer request with tensors in OpenVINO's own memory.

The guest's bytes are copied straight into the request's input tensor, and outputs are read in
place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openvino

from wasi_nn.backend.buffers import BufferedContext
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
from wasi_nn.runtime.library import view_at
from wasi_nn.types import Tensor, TensorInfo
from wasi_nn_openvino.elements import ELEMENTS
from wasi_nn_openvino.graph import said


class OpenvinoContext(BufferedContext):
    """One infer request of a shared compiled model."""

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
    ) -> None:
        super().__init__(inputs, outputs)
        self._request = compiled.create_infer_request()
        # The method of Python's class first converts inputs, of which it is given none.
        native: Any = super(openvino.InferRequest, self._request)
        self._infer = native.infer
        # The request's own tensors, reshaped when the dimensions change. A replacement tensor could
        # be freed while an output of a later run is still in it.
        self._inputs = [self._request.get_input_tensor(i) for i in range(len(inputs))]
        # With all dimensions fixed, OpenVINO writes an output to the same memory each time.
        self._fixed: dict[int, Tensor] = {}
        # Whether dimensions changed since we last looked for outputs that share memory with inputs.
        self._rebound = True
        # The tensors behind the views of the outputs.
        self._output_tensors: dict[int, openvino.Tensor] = {}

    def bind(self, index: int, tensor: Tensor) -> Tensor:
        memory, dims = self._inputs[index], list(tensor.dims)
        try:
            # If there is not enough memory, the request's tensor would keep a pointer to memory
            # that it has freed. So try the allocation with another tensor first.
            openvino.Tensor(memory.element_type, dims)
            memory.shape = dims
            self._rebound = True
        except RuntimeError as error:
            name = self.input_infos[index].name
            raise RuntimeFailure(f"OpenVINO does not take input {name}: {said(error)}") from error
        return Tensor(tensor.type, tensor.dims, _bytes_of(memory))

    def run(self) -> None:
        try:
            # (No inputs, and outputs that are shared and not decoded.)
            self._infer({}, True, False)
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO failed to compute: {said(error)}") from error
        if self._rebound:
            self._rebound = False
            self.aliased_outputs = self._find_aliased_outputs()

    def read(self, index: int) -> Tensor:
        fixed = self._fixed.get(index)
        if fixed is not None:
            return fixed
        info = self.output_infos[index]
        memory = self._output_tensors[index] = self._request.get_output_tensor(index)
        kind = ELEMENTS.get(memory.element_type.get_type_name())
        if kind is None:
            raise UnsupportedOperation(
                f"output {info.name} is {info.native_type}, which is not a tensor type of wasi-nn"
            )
        tensor = Tensor(kind, tuple(memory.shape), _bytes_of(memory))
        if info.dims is not None and min(info.dims, default=0) >= 0:
            self._fixed[index] = tensor
        return tensor

    def _find_aliased_outputs(self) -> list[int]:
        """The outputs that share memory with an input, and the outputs without bytes: these may be
        an input too, and the next ``set_input`` would change their dimensions."""
        request = self._request
        known = [index for index, info in enumerate(self.output_infos) if info.type is not None]
        inputs = [_place(memory) for memory in self._inputs]
        outputs = [(index, *_place(request.get_output_tensor(index))) for index in known]
        return [
            index
            for index, start, end in outputs
            if start == end or any(start < until and at < end for at, until in inputs)
        ]

    def cancel(self) -> None:
        self._request.cancel()

    def close(self) -> None:
        self.reset()
        self._inputs, self._fixed, self._output_tensors = [], {}, {}


def _place(memory: openvino.Tensor) -> tuple[int, int]:
    """The addresses of the start and the end of a tensor's bytes."""
    start = int(memory.data.ctypes.data) if memory.byte_size else 0
    return start, start + memory.byte_size


def _bytes_of(memory: openvino.Tensor) -> memoryview:
    """A flat view of a tensor's memory. The request keeps the memory alive."""
    return view_at(_place(memory)[0], memory.byte_size)
