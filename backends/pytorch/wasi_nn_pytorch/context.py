"""An execution context: a module, its arguments in tensors of ours, and its results by name."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from wasi_nn.backend import ExecutionContext, check_input, position
from wasi_nn.errors import InvalidArgument, RuntimeFailure, UnsupportedOperation
from wasi_nn.types import Tensor, TensorInfo
from wasi_nn_pytorch.elements import ELEMENTS, torch_dtype

# A module without a description takes as many inputs as it is given; more than this is a mistake.
_MOST_INPUTS = 1024
_SCALARS = {"int": int, "float": float, "bool": bool}


class PytorchContext(ExecutionContext):
    """The arguments and results of one module."""

    def __init__(
        self,
        module: Callable[..., Any],
        infos: Sequence[TensorInfo],
        device: str,
        writes: bool = False,
    ) -> None:
        self._module = module
        self._infos = infos
        self._device = device
        # The module writes to its arguments: it gets copies, since inputs stay set.
        self._writes = writes
        self._inputs: dict[int, Tensor] = {}
        self._arguments: dict[int, torch.Tensor] = {}
        self._results: list[tuple[str, torch.Tensor]] | None = None
        self._outputs: dict[int, Tensor] = {}
        self._scalars = {
            index: _SCALARS[info.native_type]
            for index, info in enumerate(infos)
            if info.native_type in _SCALARS
        }

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        index = self._index(key)
        bound = self._inputs.get(index)
        if bound is None or bound.dims != tensor.dims or bound.type is not tensor.type:
            bound = self._bind_input(index, tensor)
        bound.data[:] = tensor.data

    def compute(self) -> None:
        count = len(self._infos) or len(self._arguments)
        missing = [index for index in range(count) if index not in self._arguments]
        if missing or not count:
            raise InvalidArgument(f"these inputs have not been set: {missing or 'all'}")
        self._results = None
        self._outputs.clear()
        arguments: list[Any] = [self._arguments[index] for index in range(count)]
        if self._device != "cpu":
            arguments = [argument.to(self._device) for argument in arguments]
        elif self._writes:
            arguments = [argument.clone() for argument in arguments]
        for index, scalar in self._scalars.items():
            arguments[index] = self._number(index, scalar)
        try:
            # The mode belongs to the thread, and a guest may have come in another one.
            with torch.inference_mode():
                results = self._module(*arguments)
            self._results = [(name, self._apart(result)) for name, result in _flatten("", results)]
        except NotImplementedError as error:
            raise RuntimeFailure(f"torch cannot compute this: {error}") from error
        except Exception as error:
            raise RuntimeFailure(f"torch failed to compute: {error}") from error

    def get_output(self, key: int | str) -> Tensor:
        if self._results is None:
            raise InvalidArgument("there is no output before compute has succeeded")
        index = self._result_index(key, self._results)
        known = self._outputs.get(index)
        if known is None:
            known = self._outputs[index] = self._show(index, self._results)
        return known

    def close(self) -> None:
        self._inputs.clear()
        self._arguments.clear()
        self._outputs.clear()
        self._results = None

    def _number(self, index: int, scalar: Callable[[Any], Any]) -> Any:
        value = self._arguments[index].item()
        try:
            return scalar(value)
        except (ValueError, OverflowError) as error:
            raise InvalidArgument(f"input {index} is to be a whole number, not {value}") from error

    def _apart(self, result: torch.Tensor) -> torch.Tensor:
        """A result in memory of its own: a module may give back an argument, or a view of one,
        which the next input would change."""
        at = result.untyped_storage().data_ptr()
        for argument in self._arguments.values():
            if argument.untyped_storage().data_ptr() == at:
                return result.clone()
        return result

    def _index(self, key: int | str) -> int:
        if self._infos:
            return position(key, self._infos, "input")
        if isinstance(key, int) and 0 <= key < _MOST_INPUTS:
            return key
        raise InvalidArgument(f"there is no input {key!r}: this module's inputs have no names")

    def _bind_input(self, index: int, tensor: Tensor) -> Tensor:
        info = self._infos[index] if self._infos else None
        if info is not None and info.dims is not None:
            check_input(info, tensor)
        if index in self._scalars and tensor.dims not in ((), (1,)):
            raise InvalidArgument(f"input {index} is one number, not {list(tensor.dims)} of them")
        try:
            memory = torch.empty(tensor.dims, dtype=torch_dtype(tensor.type))
        except (RuntimeError, TypeError) as error:
            dims = list(tensor.dims)
            raise InvalidArgument(f"torch takes no tensor of dimensions {dims}: {error}") from error
        bound = Tensor(tensor.type, tensor.dims, _bytes_of(memory))
        self._arguments[index] = memory
        self._inputs[index] = bound
        return bound

    @staticmethod
    def _result_index(key: int | str, results: Sequence[tuple[str, torch.Tensor]]) -> int:
        return position(key, [TensorInfo(name, None, None) for name, _ in results], "output")

    @staticmethod
    def _show(index: int, results: list[tuple[str, torch.Tensor]]) -> Tensor:
        name, result = results[index]
        kind = ELEMENTS.get(str(result.dtype))
        if kind is None:
            raise UnsupportedOperation(
                f"output {name} is {result.dtype}, which is no tensor type of wasi-nn"
            )
        # A result on another device, or a strided view of another tensor, has no flat bytes here.
        flat = result.detach().cpu().contiguous()
        results[index] = (name, flat)
        return Tensor(kind, tuple(flat.shape), _bytes_of(flat))


def _flatten(name: str, value: Any) -> list[tuple[str, torch.Tensor]]:
    """Results by name: a dict's by their keys, a tuple's or list's by their numbers, and those
    inside one another with a dot between; a single tensor is ``0``."""
    if isinstance(value, torch.Tensor):
        return [(name or "0", value)]
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, (tuple, list)):
        parts = [(str(number), part) for number, part in enumerate(value)]
    else:
        return []
    return [
        item for key, part in parts for item in _flatten(f"{name}.{key}" if name else key, part)
    ]


def _bytes_of(memory: torch.Tensor) -> memoryview:
    """A flat view of a contiguous tensor's memory, which its holder keeps alive."""
    length = memory.numel() * memory.element_size()
    if not length:
        return memoryview(bytearray())
    return memoryview((ctypes.c_ubyte * length).from_address(memory.data_ptr())).cast("B")
