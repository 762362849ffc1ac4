"""An execution context: onnxruntime's IO binding over buffers of ours.

An input is bound once to a buffer that lives as long as the context; setting it again copies the
guest's bytes into that buffer and nothing else. An output whose dimensions are fixed is bound once
in the same way. An output with an open dimension is allocated by onnxruntime on each run, and read
from where it lies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from wasi_nn.backend import ExecutionContext, check_input, position
from wasi_nn.errors import InvalidArgument, RuntimeFailure, UnsupportedOperation
from wasi_nn.types import Tensor, TensorInfo, TensorType
from wasi_nn_onnx.elements import element_number, tensor_type

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Buffer:
    """Bytes that onnxruntime reads or writes; ``array`` owns them."""

    __slots__ = ("address", "array", "tensor")

    def __init__(self, kind: TensorType, dims: tuple[int, ...]) -> None:
        length = prod(dims) * kind.size
        try:
            self.array: NDArray[np.uint8] = np.zeros(length, np.uint8)
        except (MemoryError, ValueError) as error:
            raise RuntimeFailure(f"{length} bytes for a tensor cannot be had: {error}") from error
        self.address = self.array.ctypes.data
        self.tensor = Tensor(kind, dims, self.array.data)


class OnnxContext(ExecutionContext):
    """One IO binding of a shared session."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
    ) -> None:
        # The public method of the session spends 24 µs on looking for WebGPU options as soon as it
        # is given run options, and without them a computation cannot be cancelled.
        self._run = session._sess.run_with_iobinding
        self._input_infos = inputs
        self._output_infos = outputs
        self._binding = session.io_binding()
        self._inner = self._binding._iobinding
        self._options = onnxruntime.RunOptions()
        self._inputs: list[Tensor | None] = [None] * len(inputs)
        self._buffers: list[_Buffer | None] = [None] * len(inputs)
        self._missing = len(inputs)
        self._computed = False
        self._fixed: dict[int, _Buffer] = {}
        self._open: list[str] = []
        self._values: Sequence[onnxruntime.OrtValue] | None = None
        self._bind_outputs()

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
        for name in self._open:
            # A value of the last run would be taken for a buffer of the right size.
            self._binding.bind_output(name)
        self._values = None
        try:
            self._run(self._inner, self._options)
        except Exception as error:
            raise RuntimeFailure(f"onnxruntime failed to compute: {error}") from error
        self._computed = True

    def get_output(self, key: int | str) -> Tensor:
        infos = self._output_infos
        index = (
            key if type(key) is int and 0 <= key < len(infos) else position(key, infos, "output")
        )
        if not self._computed:
            raise InvalidArgument("there is no output before compute has succeeded")
        fixed = self._fixed.get(index)
        if fixed is not None:
            return fixed.tensor
        return self._allocated_output(index)

    def cancel(self) -> None:
        self._options.terminate = True

    def close(self) -> None:
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._values = None
        self._computed = False

    def _bind_input(self, index: int, tensor: Tensor) -> Tensor:
        info = self._input_infos[index]
        check_input(info, tensor)
        buffer = _Buffer(tensor.type, tensor.dims)
        try:
            self._binding.bind_input(
                info.name,
                "cpu",
                0,
                element_number(info.native_type),
                tensor.dims,
                buffer.address,
            )
        except Exception as error:
            raise RuntimeFailure(f"onnxruntime does not take input {info.name}: {error}") from error
        if self._inputs[index] is None:
            self._missing -= 1
        self._buffers[index] = buffer
        self._inputs[index] = buffer.tensor
        return buffer.tensor

    def _bind_outputs(self) -> None:
        for index, info in enumerate(self._output_infos):
            if info.type is None or info.dims is None or min(info.dims, default=1) < 1:
                self._open.append(info.name)
                continue
            buffer = self._fixed[index] = _Buffer(info.type, info.dims)
            self._binding.bind_output(
                info.name, "cpu", 0, element_number(info.native_type), info.dims, buffer.address
            )

    def _allocated_output(self, index: int) -> Tensor:
        if self._values is None:
            self._values = self._binding.get_outputs()
        value = self._values[index]
        info = self._output_infos[index]
        kind = tensor_type(value.data_type()) if value.is_tensor() else None
        if kind is None:
            raise UnsupportedOperation(
                f"output {info.name} is a {value.data_type()}, which is no tensor type of wasi-nn"
            )
        dims = tuple(value.shape())
        length = prod(dims) * kind.size
        if not length:
            return Tensor(kind, dims, memoryview(b""))
        raw = (ctypes.c_ubyte * length).from_address(value.data_ptr())
        return Tensor(kind, dims, memoryview(raw).cast("B"))
