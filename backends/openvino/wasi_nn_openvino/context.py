"""An execution context: one infer request with tensors in OpenVINO's own memory.

The guest's bytes are copied straight into the request's input tensor, and outputs are read in
place.
"""

from __future__ import annotations

from collections.abc import Sequence

from wasi_nn.backend.buffers import BufferedContext
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
from wasi_nn.types import Tensor, TensorInfo
from wasi_nn_openvino import objects
from wasi_nn_openvino.elements import ELEMENTS
from wasi_nn_openvino.library import OpenvinoError
from wasi_nn_openvino.objects import CompiledModel


class OpenvinoContext(BufferedContext):
    """One infer request of a shared compiled model."""

    def __init__(
        self,
        compiled: CompiledModel,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
    ) -> None:
        super().__init__(inputs, outputs)
        self._request = compiled.create_infer_request()
        # The request's own tensors, reshaped when the dimensions change. A replacement tensor could
        # be freed while an output of a later run is still in it.
        self._inputs = [self._request.input_tensor(i) for i in range(len(inputs))]
        # With all dimensions fixed, OpenVINO writes an output to the same memory each time.
        self._fixed: dict[int, Tensor] = {}
        # Whether dimensions changed since we last looked for outputs that share memory with inputs.
        self._rebound = True
        # The tensors in memory of the caller's, which the request reads in place of its own.
        self._lent: dict[int, objects.Tensor] = {}
        # The tensors behind the views of the outputs.
        self._output_tensors: dict[int, objects.Tensor] = {}

    def bind(self, index: int, tensor: Tensor) -> Tensor:
        memory = self._inputs[index]
        try:
            # If there is not enough memory, the request's tensor would keep a pointer to memory
            # that it has freed. So try the allocation with another tensor first.
            objects.Tensor.allocate(memory.element, tensor.dims)
            memory.set_dims(tensor.dims)
            self._rebound = True
        except OpenvinoError as error:
            name = self.input_infos[index].name
            raise RuntimeFailure(f"OpenVINO does not take input {name}: {error}") from error
        return Tensor(tensor.type, tensor.dims, memory.view())

    def bind_memory(self, index: int, tensor: Tensor) -> bool:
        dims = self.input_infos[index].dims
        # The caller's memory may go when an output is still read. So the outputs must be known to
        # lie elsewhere: with open dimensions, OpenVINO may move them at any time.
        fixed = dims is not None and min(dims, default=0) >= 0
        if not fixed or self._rebound or self.aliased_outputs or tensor.data.readonly:
            return False
        lent = objects.Tensor.at(self._inputs[index].element, tensor.dims, tensor.data)
        self._request.set_input_tensor(index, lent)
        self._lent[index] = lent
        return True

    def run(self) -> None:
        try:
            self._request.infer()
        except OpenvinoError as error:
            raise RuntimeFailure(f"OpenVINO failed to compute: {error}") from error
        if self._rebound:
            self._rebound = False
            self.aliased_outputs = self._find_aliased_outputs()

    def read(self, index: int) -> Tensor:
        fixed = self._fixed.get(index)
        if fixed is not None:
            return fixed
        info = self.output_infos[index]
        memory = self._output_tensors[index] = self._request.output_tensor(index)
        kind = ELEMENTS.get(memory.type_name)
        if kind is None:
            raise UnsupportedOperation(
                f"output {info.name} is {info.native_type}, which is not a tensor type of wasi-nn"
            )
        tensor = Tensor(kind, memory.dims, memory.view())
        if info.dims is not None and min(info.dims, default=0) >= 0:
            self._fixed[index] = tensor
        return tensor

    def _find_aliased_outputs(self) -> list[int]:
        """The outputs that share memory with an input, and the outputs without bytes: these may be
        an input too, and the next ``set_input`` would change their dimensions."""
        known = [index for index, info in enumerate(self.output_infos) if info.type is not None]
        inputs = [memory.place for memory in self._inputs]
        outputs = [(index, *self._request.output_tensor(index).place) for index in known]
        return [
            index
            for index, start, end in outputs
            if start == end or any(start < until and at < end for at, until in inputs)
        ]

    def cancel(self) -> None:
        self._request.cancel()

    def close(self) -> None:
        self.reset()
        self._inputs, self._fixed, self._output_tensors, self._lent = [], {}, {}, {}
