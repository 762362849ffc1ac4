"""An execution context: a module, its arguments in our own tensors, and its results by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from wasi_nn.backend import ExecutionContext, check_input, position
from wasi_nn.errors import InvalidArgument, RuntimeFailure
from wasi_nn.runtime.library import view_at
from wasi_nn.types import Tensor, TensorInfo, TensorType
from wasi_nn_pytorch.elements import ELEMENTS, torch_dtype
from wasi_nn_pytorch.leaves import Leaf, is_plain, leaves
from wasi_nn_pytorch.signature import Path, Signature, Slot

# A list or dict takes any number of inputs, so there must be a limit.
_MAX_INPUTS = 1024


class PytorchContext(ExecutionContext):
    """The arguments and results of one module."""

    def __init__(
        self,
        module: Callable[..., Any],
        signature: Signature,
        device: str,
        writes: bool = False,
    ) -> None:
        self._module = module
        self._signature = signature
        self._device = device
        # Inputs stay set, so a module that writes to its arguments gets copies.
        self._writes = writes
        self._slots: dict[int | str, Slot] = {}
        self._inputs: dict[Path, Tensor] = {}
        self._arguments: dict[Path, tuple[Slot, torch.Tensor]] = {}
        self._results: list[Leaf] | None = None
        self._outputs: dict[int, Tensor] = {}
        # The positional and named arguments, if they are our tensors themselves.
        self._call: tuple[Sequence[Any], Mapping[str, Any]] | None = None
        # Where the elements of our tensors are.
        self._places: set[int] = set()
        # What each output was shown as the last time.
        self._shown: dict[int, tuple[int, torch.Size, torch.dtype, Tensor]] = {}
        self._mode = torch.inference_mode()

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        self._bound(key, tensor)[:] = tensor.data

    def input_memory(
        self, key: int | str, kind: TensorType, dims: tuple[int, ...]
    ) -> memoryview | None:
        return self._bound(key, Tensor(kind, dims, memoryview(b"")))

    def read_from(self, key: int | str, tensor: Tensor) -> bool:
        self._bind_input(self._slot(key), tensor, in_place=True)
        return True

    def _slot(self, key: int | str) -> Slot:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._signature.slot(key)
            if len(self._slots) < _MAX_INPUTS:
                self._slots[key] = slot
        return slot

    def _bound(self, key: int | str, tensor: Tensor) -> memoryview:
        """The memory of an input of the tensor's type and dimensions."""
        slot = self._slot(key)
        bound = self._inputs.get(slot.path)
        if bound is None or bound.dims != tensor.dims or bound.type is not tensor.type:
            bound = self._bind_input(slot, tensor)
        return bound.data

    def compute(self) -> None:
        positional, named = self._call or self._given()
        self._results = None
        self._outputs.clear()
        try:
            # The mode belongs to the thread, and the guest may use another thread now.
            with self._mode:
                value = self._module(*positional, **named)
                # (The usual result needs no look for containers.)
                results = [Leaf("0", "0", value)] if type(value) is torch.Tensor else leaves(value)
            self._results = [leaf._replace(value=self._apart(leaf.value)) for leaf in results]
        except NotImplementedError as error:
            raise RuntimeFailure(f"torch cannot compute this: {error}") from error
        except Exception as error:
            raise RuntimeFailure(f"torch failed to compute: {error}") from error

    def get_output(self, key: int | str) -> Tensor:
        if self._results is None:
            raise InvalidArgument("there is no output before compute has succeeded")
        index = _result_index(key, self._results)
        known = self._outputs.get(index)
        if known is None:
            known = self._outputs[index] = self._show(index, self._results)
        return known

    def close(self) -> None:
        self._inputs.clear()
        self._arguments.clear()
        self._outputs.clear()
        self._shown.clear()
        self._results = self._call = None

    def _given(self) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The positional and named arguments."""
        given = {path: self._value(*bound) for path, bound in self._arguments.items()}
        positional, named = self._signature.arguments(given)
        memories = [memory for _, memory in self._arguments.values()]
        self._places = {memory.untyped_storage().data_ptr() for memory in memories}
        # Tensors of ours stay the same, however often their bytes are set. A container may change.
        ours = set(map(id, memories))
        if all(id(value) in ours for value in (*positional, *named.values())):
            self._call = positional, named
        return positional, named

    def _value(self, slot: Slot, memory: torch.Tensor) -> Any:
        value = memory if slot.reader is None else slot.reader.read(slot.name, memory)
        if not isinstance(value, torch.Tensor):
            return value
        if self._device != "cpu":
            return value.to(self._device)
        return value.clone() if self._writes and value is memory else value

    def _apart(self, result: Any) -> Any:
        """The result in its own memory. A module may return an argument, or a view of one, and the
        next ``set_input`` would change it."""
        if not isinstance(result, torch.Tensor) or not is_plain(result):
            return result
        return result.clone() if result.untyped_storage().data_ptr() in self._places else result

    def _bind_input(self, slot: Slot, tensor: Tensor, in_place: bool = False) -> Tensor:
        if slot.info is not None:
            check_input(slot.info, tensor)
        if slot.reader is not None:
            slot.reader.check(slot.name, tensor)
        if slot.path not in self._inputs and len(self._inputs) >= _MAX_INPUTS:
            raise InvalidArgument(f"a context takes {_MAX_INPUTS} inputs at most")
        # A guest's bytes for a bool tensor may be other than 0 and 1. The reader corrects them.
        own = slot.dtype is not None and slot.dtype != "bool"
        dtype = getattr(torch, slot.dtype) if own and slot.dtype else torch_dtype(tensor.type)
        try:
            if in_place:
                memory = torch.frombuffer(tensor.data, dtype=dtype).reshape(tensor.dims)
            else:
                memory = torch.empty(tensor.dims, dtype=dtype)
        except (RuntimeError, TypeError, ValueError) as error:
            dims = list(tensor.dims)
            raise InvalidArgument(f"torch takes no tensor of dimensions {dims}: {error}") from error
        bound = Tensor(tensor.type, tensor.dims, _bytes_of(memory))
        self._arguments[slot.path] = (slot, memory)
        self._call = None
        self._inputs[slot.path] = bound
        return bound

    def _show(self, index: int, results: list[Leaf]) -> Tensor:
        flat = results[index].tensor()
        # Keep it, because the view below does not keep its memory alive.
        results[index] = results[index]._replace(value=flat)
        place = flat.data_ptr(), flat.shape, flat.dtype
        shown = self._shown.get(index)
        # torch often gives a result the memory of the last one.
        if shown is not None and shown[:3] == place:
            return shown[3]
        tensor = Tensor(ELEMENTS[str(flat.dtype)], tuple(flat.shape), _bytes_of(flat))
        self._shown[index] = (*place, tensor)
        return tensor


def _result_index(key: int | str, results: list[Leaf]) -> int:
    if isinstance(key, int) and 0 <= key < len(results):
        return key
    for index, leaf in enumerate(results):
        if key in (leaf.name, leaf.numbered):
            return index
    return position(key, [TensorInfo(leaf.name, None, None) for leaf in results], "output")


def _bytes_of(memory: torch.Tensor) -> memoryview:
    """A flat view of a contiguous tensor's memory. The caller keeps the tensor alive."""
    return view_at(memory.data_ptr(), memory.numel() * memory.element_size())
