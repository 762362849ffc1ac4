"""The core-module ABI `wasi_ephemeral_nn`: the specification's functions and WasmEdge's.

Every parameter is an i32 and every result an errno. Layouts (wasm32, little-endian): a graph
builder is ``{u32 pointer, u32 length}``; a tensor is 20 bytes, ``{u32 dims, u32 dims_len, u8 type,
3 bytes of padding that may hold anything, u32 data, u32 data_len}``. Nothing needs to be aligned,
as in WasmEdge. A result is written only after success. The one exception is the size of an output
that does not fit.

Pointers are checked in WasmEdge's order. Out-pointers come first, so that a call with a wrong one
has no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from wasi_nn._abi.core.common import MAX_RANK, U32, CoreAbi
from wasi_nn._abi.core.dialects import EPHEMERAL
from wasi_nn._abi.guard import MAX_NAME, read_config, read_text
from wasi_nn._session.execution import Execution
from wasi_nn.errors import InvalidArgument, TooLarge
from wasi_nn.runtime import GuestMemory
from wasi_nn.types import Tensor

_TENSOR = Struct("<IIB3xII")
_NOTHING = memoryview(b"")
_DIMS = [Struct(f"<{rank}I") for rank in range(MAX_RANK + 1)]


class Witx(CoreAbi):
    """The functions of `wasi_ephemeral_nn` for one session."""

    module = EPHEMERAL

    def table(self) -> dict[str, tuple[int, Callable[..., None]]]:
        """Every function by name, with its number of parameters."""
        return {
            "load": (5, self.load),
            "load_by_name": (3, self.load_by_name),
            "load_by_name_with_config": (5, self.load_by_name_with_config),
            "init_execution_context": (2, self.init_execution_context),
            "set_input": (3, self.set_input),
            "compute": (1, self.compute),
            "get_output": (5, self._getter(Execution.get_output)),
            "compute_single": (1, self.compute_single),
            "get_output_single": (5, self._getter(Execution.get_output_single)),
            "fini_single": (1, self.fini_single),
            "unload": (1, self.unload),
            "finalize_execution_context": (1, self.finalize_execution_context),
        }

    def load(
        self, memory: GuestMemory, builders: int, count: int, encoding: int, target: int, out: int
    ) -> None:
        memory.check(out, 4)
        handle = self.open_graph(memory, builders, count, encoding, target)
        memory.write(out, U32.pack(handle))

    def load_by_name_with_config(
        self, memory: GuestMemory, name: int, length: int, config: int, config_length: int, out: int
    ) -> None:
        memory.check(out, 4)
        handle = self.session.load_by_name(
            read_text(memory, name, length, "name", MAX_NAME),
            read_config(memory, config, config_length),
        )
        memory.write(out, U32.pack(handle))

    def set_input(self, memory: GuestMemory, context: int, index: int, tensor: int) -> None:
        dims_at, rank, number, data_at, length = _TENSOR.unpack(memory.read(tensor, 20))
        if rank > MAX_RANK:
            raise InvalidArgument(
                f"the tensor has {rank} dimensions: at most {MAX_RANK} are allowed"
            )
        dims = _DIMS[rank].unpack(memory.read(dims_at, 4 * rank)) if rank else ()
        data = memory.read(data_at, length) if length else _NOTHING
        execution = self.session.contexts[context]
        if execution.untyped_bytes:
            kind = self.negotiation.byte_type(number)
        else:
            kind = self.negotiation.tensor_type(number, dims, length)
        execution.set_input(index, Tensor(kind, dims, data))
        if self.negotiation.pending is not None:
            self.negotiation.commit()

    def compute_single(self, memory: GuestMemory, context: int) -> None:
        self.session.contexts[context].compute_single()

    def fini_single(self, memory: GuestMemory, context: int) -> None:
        self.session.contexts[context].fini_single()

    def unload(self, memory: GuestMemory, graph: int) -> None:
        self.session.unload(graph)

    def finalize_execution_context(self, memory: GuestMemory, context: int) -> None:
        self.session.finalize_execution_context(context)

    def _getter(self, get: Callable[[Execution, int], Tensor]) -> Callable[..., None]:
        """A function that writes an output and its length. If the output does not fit, it writes
        the length alone."""

        def give(
            memory: GuestMemory, context: int, index: int, buffer: int, size: int, out: int
        ) -> None:
            memory.check(buffer, size)
            memory.check(out, 4)
            execution = self.session.contexts[context]
            data = get(execution, index).data
            length = len(data)
            if length > size:
                unbounded = self.negotiation.dialect.unbounded_zero and execution.untyped_bytes
                if size or not unbounded:
                    memory.write(out, U32.pack(min(length, 0xFFFFFFFF)))
                    raise TooLarge(
                        f"the output takes {length} bytes, the buffer has {size}", length
                    )
            memory.write(buffer, data)
            memory.write(out, U32.pack(length))

        return give
