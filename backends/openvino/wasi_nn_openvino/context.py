"""An execution context: one infer request, whose tensors are OpenVINO's own memory.

The guest's bytes are copied straight into the request's input tensor, and outputs are read where
OpenVINO wrote them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import openvino

from wasi_nn.backend.buffers import BufferedContext
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
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
        # The request's own tensors, in new dimensions when these change. A tensor that was put in
        # their place could be freed while an output of a later run still lies in it.
        self._inputs = [self._request.get_input_tensor(i) for i in range(len(inputs))]
        # With all dimensions fixed, OpenVINO writes an output to the same memory each time.
        self._fixed: dict[int, Tensor] = {}
        # Whether dimensions changed since it was looked for outputs that lie in inputs.
        self._rebound = True
        # What the views of the outputs look into.
        self._held: dict[int, openvino.Tensor] = {}

    def bind(self, index: int, tensor: Tensor) -> Tensor:
        memory, dims = self._inputs[index], list(tensor.dims)
        try:
            # Where no memory is left, the request's tensor would keep what it has freed: so it is
            # tried with another one first.
            openvino.Tensor(memory.element_type, dims)
            memory.shape = dims
            self._rebound = True
        except RuntimeError as error:
            name = self.input_infos[index].name
            raise RuntimeFailure(f"OpenVINO does not take input {name}: {said(error)}") from error
        return Tensor(tensor.type, tensor.dims, _bytes_of(memory))

    def run(self) -> None:
        try:
            self._request.infer(share_outputs=True)
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
        memory = self._held[index] = self._request.get_output_tensor(index)
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
        """The outputs that lie in an input, and those without bytes: such an output may be an input
        itself, whose dimensions the next one changes."""
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
        self._inputs, self._fixed, self._held = [], {}, {}


def _place(memory: openvino.Tensor) -> tuple[int, int]:
    """Where a tensor's bytes begin and end."""
    start = int(memory.data.ctypes.data) if memory.byte_size else 0
    return start, start + memory.byte_size


def _bytes_of(memory: openvino.Tensor) -> memoryview:
    """A flat view of a tensor's memory, which the request keeps alive."""
    if not memory.byte_size:
        return memoryview(bytearray())
    raw = (ctypes.c_ubyte * memory.byte_size).from_address(_place(memory)[0])
    return memoryview(raw).cast("B")
