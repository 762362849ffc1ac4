"""An execution context: onnxruntime's IO binding over our own buffers.

An input is bound once to a buffer that lives as long as the context. Setting it again only copies
the guest's bytes into that buffer. An output with fixed dimensions is bound once too. onnxruntime
allocates all other outputs on each run, and they are read in place: outputs with a dynamic
dimension or a single element, outputs that are also inputs, and all outputs of a model whose
declared dimensions are wrong.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from onnxruntime.capi import _pybind_state as _native

from wasi_nn.backend.buffers import BufferedContext
from wasi_nn.errors import RuntimeFailure, UnsupportedOperation
from wasi_nn.runtime.library import view_at
from wasi_nn.types import Tensor, TensorInfo, TensorType
from wasi_nn_onnx.elements import element_number, tensor_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wasi_nn_onnx.graph import OnnxGraph

_CPU = onnxruntime.OrtDevice.make("cpu", 0)._get_c_device()


class _Buffer:
    """Bytes that onnxruntime reads or writes. ``array`` owns them."""

    __slots__ = ("address", "array", "tensor")

    def __init__(self, kind: TensorType, dims: tuple[int, ...]) -> None:
        length = prod(dims) * kind.size
        try:
            self.array: NDArray[np.uint8] = np.zeros(length, np.uint8)
        except (MemoryError, ValueError) as error:
            raise RuntimeFailure(
                f"there is no memory for a tensor of {length} bytes: {error}"
            ) from error
        self.address = _address(self.array)
        self.tensor = Tensor(kind, dims, self.array.data)


def _address(array: NDArray[np.uint8]) -> int:
    """Where an array's bytes are. (An array's ``ctypes`` takes three times as long.)"""
    if not array.size or not array.flags.writeable:
        return array.ctypes.data
    return ctypes.addressof(ctypes.c_char.from_buffer(array.data))


class OnnxContext(BufferedContext):
    """One IO binding of a graph's session."""

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__(graph.inputs, graph.outputs)
        session = graph.session._sess
        # onnxruntime's own classes look for WebGPU's options in each of their calls, which takes
        # longer than the call: 24 µs of a run with options. Without options, a computation cannot
        # be cancelled.
        self._run = session.run_with_iobinding
        self._binding = _native.SessionIOBinding(session)
        self._options = onnxruntime.RunOptions()
        # What keeps the memory of the bound inputs.
        self._memory: list[NDArray[np.uint8] | None] = [None] * len(graph.inputs)
        self.optional = graph.optional
        self.aliased_outputs = graph.aliased_outputs
        self._unfixed = graph.unfixed
        # The position of each output in the binding. A name that occurs twice is bound once.
        self._places: dict[str, int] = {}
        self._fixed: dict[str, _Buffer] = {}
        self._open: list[str] = []
        self._values: Sequence[onnxruntime.OrtValue] | None = None
        self._bind_outputs(graph.input_names)

    def bind(self, index: int, tensor: Tensor) -> Tensor:
        buffer = _Buffer(tensor.type, tensor.dims)
        self._bind_input(index, tensor, buffer.array)
        return buffer.tensor

    def bind_memory(self, index: int, tensor: Tensor) -> bool:
        self._bind_input(index, tensor, np.frombuffer(tensor.data, np.uint8))
        return True

    def _bind_input(self, index: int, tensor: Tensor, memory: NDArray[np.uint8]) -> None:
        info = self.input_infos[index]
        number, address = element_number(info.native_type), _address(memory)
        try:
            self._binding.bind_input(info.name, _CPU, number, tensor.dims, address)
        except Exception as error:
            raise RuntimeFailure(f"onnxruntime does not take input {info.name}: {error}") from error
        self._memory[index] = memory

    def run(self) -> None:
        if not self._places:
            return
        try:
            self._run_once()
        except Exception as error:
            if self._options.terminate:
                # The library's own message sounds like a broken model.
                raise RuntimeFailure("the guest is being stopped") from error
            if not self._fixed:
                raise RuntimeFailure(f"onnxruntime failed to compute: {error}") from error
            self._run_open()

    def read(self, index: int) -> Tensor:
        info = self.output_infos[index]
        fixed = self._fixed.get(info.name)
        return fixed.tensor if fixed is not None else self._allocated_output(info)

    def cancel(self) -> None:
        self._options.terminate = True

    def close(self) -> None:
        self.reset()
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._values = None

    def _bind_outputs(self, inputs: Collection[str]) -> None:
        for info in self.output_infos:
            # An output that is not a tensor cannot be read, so onnxruntime need not compute it.
            # Also, onnxruntime ends the process if we look at an optional one without a value.
            if info.type is None or info.name in self._places:
                continue
            self._places[info.name] = len(self._places)
            # onnxruntime silently writes a scalar into a buffer of one element.
            known = info.dims is not None and min(info.dims) > 0 and prod(info.dims) > 1
            if not known or info.name in inputs or info.name in self._unfixed:
                self._open.append(info.name)
                self._binding.bind_output(info.name, _CPU)
                continue
            assert info.dims is not None
            self._fixed[info.name] = _Buffer(info.type, info.dims)
            self._bind_fixed(info)

    def _run_once(self) -> None:
        for name in self._open:
            # Otherwise onnxruntime would reuse the value of the last run as a buffer.
            self._binding.bind_output(name, _CPU)
        self._values = None
        self._run(self._binding, self._options)

    def _run_open(self) -> None:
        """Run again without our buffers for outputs. If an output's real dimensions differ from
        the declared ones, onnxruntime rejects a buffer for it, and only warns without one."""
        fixed, self._fixed = self._fixed, {}
        before, self._open = self._open, list(self._places)
        try:
            self._run_once()
        except Exception as error:
            # The dimensions were not the reason.
            self._fixed, self._open = fixed, before
            for info in self.output_infos:
                if info.name in fixed:
                    self._bind_fixed(info)
            raise RuntimeFailure(f"onnxruntime failed to compute: {error}") from error
        self._unfixed.update(fixed)

    def _bind_fixed(self, info: TensorInfo) -> None:
        number, buffer = element_number(info.native_type), self._fixed[info.name]
        dims, address = buffer.tensor.dims, buffer.address
        self._binding.bind_output(info.name, _CPU, number, dims, address)

    def _allocated_output(self, info: TensorInfo) -> Tensor:
        if info.type is None:
            raise UnsupportedOperation(
                f"output {info.name} is a {info.native_type}, which is not a tensor type of "
                "wasi-nn: read the other outputs"
            )
        if self._values is None:
            self._values = self._binding.get_outputs()
        value = self._values[self._places[info.name]]
        kind = tensor_type(value.data_type())
        if kind is None:
            raise UnsupportedOperation(
                f"output {info.name} is a {value.data_type()}, which is not a tensor type of "
                "wasi-nn"
            )
        dims = tuple(value.shape())
        length = prod(dims) * kind.size
        return Tensor(kind, dims, view_at(value.data_ptr(), length))
