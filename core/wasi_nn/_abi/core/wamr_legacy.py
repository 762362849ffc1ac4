"""WAMR's legacy module `wasi_nn`: other structs, and sizes in f32 elements.

Layouts (WAMR core/iwasm/libraries/wasi-nn, before June 2025): ``load`` takes a pointer to
``{u32 builders, u32 count}``; a tensor is 12 bytes, ``{u32 dims, u8 type, 3 bytes of padding, u32
data}`` where dims points to ``{u32 pointer, u32 rank}``. The length of the data is not passed: it
follows from dimensions and type. ``get_output`` takes a pointer to a size in f32 elements, and
writes the needed size there.

Guests of this ABI know only f32. The inputs of a quantised model are quantised for them, and its
outputs dequantised (WAMR src/wasi_nn_tensorflowlite.cpp).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from struct import Struct

from wasi_nn._abi.core.common import MAX_RANK, PAIR, U32, CoreAbi
from wasi_nn._abi.core.dialects import LEGACY
from wasi_nn._session import quantization
from wasi_nn.errors import InvalidArgument, TooLarge
from wasi_nn.runtime import GuestMemory
from wasi_nn.types import Tensor

_TENSOR = Struct("<IB3xI")
_ELEMENT = 4


class WamrLegacy(CoreAbi):
    """The functions of `wasi_nn` for one session."""

    module = LEGACY

    def table(self) -> dict[str, tuple[int, Callable[..., None]]]:
        """Every function by name, with its number of parameters."""
        return {
            "load": (4, self.load),
            "load_by_name": (3, self.load_by_name),
            "init_execution_context": (2, self.init_execution_context),
            "set_input": (3, self.set_input),
            "compute": (1, self.compute),
            "get_output": (4, self.get_output),
        }

    def load(self, memory: GuestMemory, array: int, encoding: int, target: int, out: int) -> None:
        memory.check(out, 4)
        builders, count = PAIR.unpack(memory.read(array, 8))
        handle = self.open_graph(memory, builders, count, encoding, target)
        memory.write(out, U32.pack(handle))

    def set_input(self, memory: GuestMemory, context: int, index: int, tensor: int) -> None:
        dims_struct, number, data_at = _TENSOR.unpack(memory.read(tensor, 12))
        dims_at, rank = PAIR.unpack(memory.read(dims_struct, 8))
        if rank > MAX_RANK:
            raise InvalidArgument(
                f"the tensor has {rank} dimensions: at most {MAX_RANK} are allowed"
            )
        dims = Struct(f"<{rank}I").unpack(memory.read(dims_at, 4 * rank))
        types = self.negotiation.dialect.tensor_types
        if number >= len(types):
            raise InvalidArgument(f"tensor type {number} is unknown in the dialect wamr-legacy")
        data = memory.read(data_at, prod(dims) * types[number].size)
        given = Tensor(types[number], dims, data)
        quantization.set_input(self.session.contexts[context], index, given)

    def get_output(
        self, memory: GuestMemory, context: int, index: int, buffer: int, size_at: int
    ) -> None:
        (elements,) = U32.unpack(memory.read(size_at, 4))
        data = quantization.get_output(self.session.contexts[context], index).data
        needed = -(-len(data) // _ELEMENT)
        if needed > elements:
            memory.write(size_at, U32.pack(needed))
            raise TooLarge(
                f"the output takes {needed} f32 elements, the buffer has {elements}", len(data)
            )
        memory.write(buffer, data)
        memory.write(size_at, U32.pack(needed))
