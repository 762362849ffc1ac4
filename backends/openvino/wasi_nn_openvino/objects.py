"""OpenVINO's objects: the core, compiled models, infer requests, tensors."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from wasi_nn.runtime.library import POINTER, view_at
from wasi_nn.types import TensorInfo
from wasi_nn_openvino.elements import ELEMENTS
from wasi_nn_openvino.library import (
    Devices,
    OpenvinoError,
    Owned,
    PartialShape,
    Shape,
    openvino,
)

_INT, _SIZE = ctypes.c_int, ctypes.c_size_t
_INVALID_C_PARAM = -14


class Core:
    """``ov::Core``. The methods raise ``OpenvinoError``."""

    def __init__(self) -> None:
        self._library = openvino()
        self._owned = self._library.owned("core", self._library.core_create)
        self._address = self._owned.address

    def devices(self) -> list[str]:
        """The names of the available devices. OpenVINO opens the library of each."""
        library, found = self._library, Devices()
        library.check(library.core_get_available_devices(self._address, ctypes.byref(found)))
        names = [found.names[index].decode() for index in range(found.size)]
        library.available_devices_free(ctypes.byref(found))
        return names

    def property(self, device: str, name: str) -> str:
        """A property of a device."""
        function = self._library.core_get_property
        value = self._library.value(
            POINTER, function, self._address, device.encode(), name.encode()
        )
        return self._library.text(value)

    def element(self, name: str) -> int:
        """The number of an element type."""
        return self._library.types.index(name)

    def read_files(self, model: Path, weights: Path | None) -> Owned:
        """A model of files."""
        beside = None if weights is None else os.fsencode(weights)
        function = self._library.core_read_model
        return self._library.owned("model", function, self._address, os.fsencode(model), beside)

    def read_bytes(self, xml: bytes, weights: Tensor) -> Owned:
        """A model of IR. It keeps the memory of the weights."""
        function = self._library.core_read_model_from_memory_buffer
        return self._library.owned("model", function, self._address, xml, len(xml), weights.address)

    def compile(self, model: Owned, device: str, settings: Mapping[str, str]) -> CompiledModel:
        """Compile a model for a device."""
        texts = [text for setting in settings.items() for text in setting]
        arguments = self._address, model.address, device.encode(), len(texts)
        function = self._library.core_compile_model
        return CompiledModel(
            self._library.owned("compiled_model", function, *arguments, more=texts)
        )


class CompiledModel:
    """``ov::CompiledModel``"""

    def __init__(self, owned: Owned) -> None:
        self._library = openvino()
        self._owned = owned

    def describe(self, side: str, shared_names: Iterable[Collection[str]]) -> list[TensorInfo]:
        """The model's inputs (``side`` is ``input``) or outputs. The C library tells one name of a
        tensor, and knows all of them: ``shared_names`` are those that may mean the same one."""
        library, address = self._library, self._owned.address
        count = library.value(_SIZE, library.compiled_model_size[side], address)
        return [self._describe(side, index, shared_names) for index in range(count)]

    def _describe(
        self, side: str, index: int, shared_names: Iterable[Collection[str]]
    ) -> TensorInfo:
        library = self._library
        function = library.compiled_model_port[side]
        port = library.owned("output_const_port", function, self._owned.address, index)
        native = library.type_name(library.value(_INT, library.port_get_element_type, port.address))
        name = self._name(port)
        if name is None:
            known = [str(index)]
        else:
            others = {other for names in shared_names if name in names for other in names}
            known = sorted({name, *(other for other in others if self._means(side, other, name))})
        dims = self._dims(port)
        return TensorInfo(known[0], ELEMENTS.get(native), dims, native, aliases=tuple(known[1:]))

    def _name(self, port: Owned) -> str | None:
        """One of the names of a port; None if it has none."""
        library = self._library
        try:
            return library.text(library.value(POINTER, library.port_get_any_name, port.address))
        except OpenvinoError:
            return None

    def _means(self, side: str, name: str, other: str) -> bool:
        """Whether two names mean the same tensor."""
        function = self._library.compiled_model_named_port[side]
        try:
            port = self._library.owned(
                "output_const_port", function, self._owned.address, name.encode()
            )
        except OpenvinoError:
            return False
        return self._name(port) == other

    def _dims(self, port: Owned) -> tuple[int, ...] | None:
        library, shape = self._library, PartialShape()
        library.check(library.port_get_partial_shape(port.address, ctypes.byref(shape)))
        try:
            if shape.rank.min != shape.rank.max:
                return None
            dims = shape.dims[: shape.rank.min] if shape.rank.min else []
            return tuple(dim.min if dim.min == dim.max else -1 for dim in dims)
        finally:
            library.partial_shape_free(ctypes.byref(shape))

    def create_infer_request(self) -> InferRequest:
        function = self._library.compiled_model_create_infer_request
        return InferRequest(self._library.owned("infer_request", function, self._owned.address))


class InferRequest:
    """``ov::InferRequest``"""

    def __init__(self, owned: Owned) -> None:
        self._library = library = openvino()
        self._owned = owned
        self._address = owned.address
        self._infer = library.infer_request_infer

    def infer(self) -> None:
        """Compute."""
        status = self._infer(self._address)
        if status:
            self._library.check(status)

    def cancel(self) -> None:
        """Make a computation of another thread fail soon."""
        self._library.infer_request_cancel(self._address)

    def input_tensor(self, index: int) -> Tensor:
        """The tensor that an input is read from."""
        return self._tensor("input", index)

    def output_tensor(self, index: int) -> Tensor:
        """The tensor that an output was written to."""
        return self._tensor("output", index)

    def _tensor(self, side: str, index: int) -> Tensor:
        function = self._library.infer_request_get_tensor[side]
        return Tensor(self._library.owned("tensor", function, self._address, index))

    def set_input_tensor(self, index: int, tensor: Tensor) -> None:
        """Read an input from another tensor, whose memory the request does not keep."""
        library = self._library
        library.check(library.infer_request_set_input_tensor(self._address, index, tensor.address))


class Tensor:
    """``ov::Tensor``"""

    def __init__(self, owned: Owned) -> None:
        self._library = openvino()
        self._owned = owned
        self.address = owned.address
        self._memory: object = None

    @classmethod
    def allocate(cls, element: int, dims: Sequence[int]) -> Tensor:
        """A tensor in memory of its own."""
        library = openvino()
        return cls(library.owned("tensor", library.tensor_create, element, _shape(dims)))

    @classmethod
    def at(cls, element: int, dims: Sequence[int], memory: memoryview) -> Tensor:
        """A tensor in memory of the caller's, which it keeps."""
        library = openvino()
        bytes_of = (ctypes.c_ubyte * memory.nbytes).from_buffer(memory)
        made = cls(
            library.owned(
                "tensor",
                library.tensor_create_from_host_ptr,
                element,
                _shape(dims),
                ctypes.addressof(bytes_of),
            )
        )
        made._memory = bytes_of
        return made

    @property
    def element(self) -> int:
        """The number of its element type."""
        library = self._library
        number: int = library.value(_INT, library.tensor_get_element_type, self.address)
        return number

    @property
    def type_name(self) -> str:
        """The name of its element type."""
        return self._library.type_name(self.element)

    def set_dims(self, dims: Sequence[int]) -> None:
        """Change its dimensions, and its memory if that is too small."""
        self._library.check(self._library.tensor_set_shape(self.address, _shape(dims)))

    @property
    def dims(self) -> tuple[int, ...]:
        library, shape = self._library, Shape()
        status = library.tensor_get_shape(self.address, ctypes.byref(shape))
        if status == _INVALID_C_PARAM:
            # That is its answer for a tensor of no dimensions.
            return ()
        library.check(status)
        dims = tuple(shape.dims[: shape.rank])
        library.shape_free(ctypes.byref(shape))
        return dims

    @property
    def place(self) -> tuple[int, int]:
        """The addresses of the start and the end of its bytes."""
        library = self._library
        size = library.value(_SIZE, library.tensor_get_byte_size, self.address)
        start = library.value(POINTER, library.tensor_data, self.address) if size else 0
        return start, start + size

    def view(self) -> memoryview:
        """Its bytes, while the tensor lives and keeps its dimensions."""
        start, end = self.place
        return view_at(start, end - start)


def _shape(dims: Sequence[int]) -> Shape:
    return Shape(len(dims), (ctypes.c_int64 * len(dims))(*dims))
