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

from wasi_nn.bound import BoundContext
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
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


class OnnxContext(BoundContext):
    """One IO binding of a shared session."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
    ) -> None:
        super().__init__(inputs, outputs)
        # The public method of the session spends 24 µs on looking for WebGPU options as soon as it
        # is given run options, and without them a computation cannot be cancelled.
        self._run = session._sess.run_with_iobinding
        self._binding = session.io_binding()
        self._inner = self._binding._iobinding
        self._options = onnxruntime.RunOptions()
        self._buffers: list[_Buffer | None] = [None] * len(inputs)
        self._fixed: dict[int, _Buffer] = {}
        self._open: list[str] = []
        self._values: Sequence[onnxruntime.OrtValue] | None = None
        self._bind_outputs()

    def bind(self, index: int, tensor: Tensor) -> Tensor:
        info = self.input_infos[index]
        buffer = _Buffer(tensor.type, tensor.dims)
        number = element_number(info.native_type)
        try:
            self._binding.bind_input(info.name, "cpu", 0, number, tensor.dims, buffer.address)
        except Exception as error:
            raise RuntimeFailure(f"onnxruntime does not take input {info.name}: {error}") from error
        self._buffers[index] = buffer
        return buffer.tensor

    def run(self) -> None:
        for name in self._open:
            # A value of the last run would be taken for a buffer of the right size.
            self._binding.bind_output(name)
        self._values = None
        try:
            self._run(self._inner, self._options)
        except Exception as error:
            raise RuntimeFailure(f"onnxruntime failed to compute: {error}") from error

    def read(self, index: int) -> Tensor:
        fixed = self._fixed.get(index)
        return fixed.tensor if fixed is not None else self._allocated_output(index)

    def cancel(self) -> None:
        self._options.terminate = True

    def close(self) -> None:
        self.forget()
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._values = None

    def _bind_outputs(self) -> None:
        for index, info in enumerate(self.output_infos):
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
        kind = tensor_type(value.data_type()) if value.is_tensor() else None
        if kind is None:
            raise UnsupportedOperation(
                f"output {self.output_infos[index].name} is a {value.data_type()}, which is no "
                "tensor type of wasi-nn"
            )
        dims = tuple(value.shape())
        length = prod(dims) * kind.size
        if not length:
            return Tensor(kind, dims, memoryview(b""))
        raw = (ctypes.c_ubyte * length).from_address(value.data_ptr())
        return Tensor(kind, dims, memoryview(raw).cast("B"))
