"""The arguments of an exported program. Their structure was fixed by the export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from wasi_nn.backend import position
from wasi_nn.errors import InvalidArgument
from wasi_nn.types import TensorInfo
from wasi_nn_pytorch.leaves import Leaf, describe, leaves
from wasi_nn_pytorch.signature import READERS, TRUTH, Path, Signature, Slot, not_set

if TYPE_CHECKING:
    import torch
    from torch.utils._pytree import TreeSpec

_SYMBOLS = {"SymIntArgument": int, "SymFloatArgument": float, "SymBoolArgument": bool}


class Place(NamedTuple):
    """One leaf of the arguments, with its names. ``info`` is None for a constant: an argument that
    was a plain value at the export and keeps that value."""

    names: tuple[str, ...]
    info: TensorInfo | None
    constant: Any = None


class ProgramSignature(Signature):
    """The leaves of ``spec``. If ``lenient``, any leaf may be left out, because it is unknown which
    of them are constants."""

    def __init__(self, spec: TreeSpec, places: Sequence[Place], lenient: bool = False) -> None:
        self._spec = spec
        self._lenient = lenient
        self._template = [place.constant for place in places]
        self._constants: dict[str, Any] = {}
        self._slots: dict[str, Slot] = {}
        infos: list[TensorInfo] = []
        for index, place in enumerate(places):
            if place.info is None:
                self._constants.update(dict.fromkeys(place.names, place.constant))
                continue
            infos.append(place.info)
            for name in place.names:
                self._slots.setdefault(name, _slot(index, place.info))
        self.infos = infos
        positional, named = spec.unflatten(range(len(places)))
        self._flat = not named and all(type(part) is int for part in positional)

    def slot(self, key: int | str) -> Slot:
        if isinstance(key, int):
            return self._slots[self.infos[position(key, self.infos, "input")].name]
        slot = self._slots.get(key)
        if slot is not None:
            return slot
        if key in self._constants:
            raise InvalidArgument(
                f"input {key} was fixed at {self._constants[key]!r} when the program was exported: "
                "leave it out"
            )
        return self.slot(position(key, self.infos, "input"))

    def arguments(self, given: Mapping[Path, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        if len(given) < len(self.infos) and not self._lenient:
            names = [info.name for info in self.infos]
            raise not_set([name for name in names if self._slots[name].path not in given])
        values = self._template.copy()
        for (index,), value in given.items():
            values[index] = value
        if self._flat:
            return values, {}
        positional, named = self._spec.unflatten(values)
        return positional, named


def of_program(program: torch.export.ExportedProgram) -> ProgramSignature:
    """The signature of an exported program."""
    spec = program.call_spec.in_spec
    assert spec is not None
    inputs = [s.arg for s in program.graph_signature.input_specs if s.kind.name == "USER_INPUT"]
    call = program.module_call_graph[0].signature
    names = _leaf_names(spec, getattr(call, "forward_arg_names", None), [i.name for i in inputs])
    values = _values(program)
    places = []
    for name, argument in zip(names, inputs, strict=True):
        both = (name, argument.name)
        if hasattr(argument, "value"):
            places.append(Place(both, None, argument.value))
        else:
            places.append(Place(both, _describe(name, argument, values)))
    return ProgramSignature(spec, places)


def outputs_of(program: torch.export.ExportedProgram) -> list[TensorInfo]:
    """The outputs of an exported program, in the order of the leaves of its result."""
    spec = program.call_spec.out_spec
    outputs = [s.arg for s in program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
    if spec is None or spec.num_leaves != len(outputs):
        return []
    values = _values(program)
    infos = []
    for leaf in leaves(spec.unflatten(range(len(outputs)))):
        if type(leaf.value) is not int:
            infos.append(describe(leaf))
            continue
        argument = outputs[leaf.value]
        if hasattr(argument, "value"):
            infos.append(describe(Leaf(leaf.name, leaf.name, argument.value)))
        else:
            infos.append(_describe(leaf.name, argument, values))
    return infos


def of_package(loader: Any) -> ProgramSignature:
    """The signature of an AOTInductor package. The package does not tell the names of positional
    arguments, nor which arguments are constants."""
    from torch.utils._pytree import treespec_loads

    spec = treespec_loads(loader.get_call_spec()[0])
    names = _leaf_names(spec, None, [""] * spec.num_leaves)
    places = [Place((name,), TensorInfo(name, None, None, "Tensor")) for name in names]
    return ProgramSignature(spec, places, lenient=True)


def _values(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """The example values from the trace of a program, by node."""
    return {node.name: node.meta.get("val") for node in program.graph.nodes}


def _describe(name: str, argument: Any, values: Mapping[str, Any]) -> TensorInfo:
    """Describe an argument or a result from the signature's ``ArgumentSpec``."""
    number = _SYMBOLS.get(type(argument).__name__)
    if number is not None:
        return describe(Leaf(name, name, number(0)))
    return describe(Leaf(name, name, values.get(argument.name)))


def _slot(index: int, info: TensorInfo) -> Slot:
    reader = READERS.get(info.native_type)
    if reader is not None:
        return Slot(info.name, (index,), reader)
    if info.dims is None:
        return Slot(info.name, (index,))
    dtype = info.native_type.removeprefix("torch.")
    return Slot(info.name, (index,), TRUTH if dtype == "bool" else None, info, dtype)


def _leaf_names(
    spec: TreeSpec, arguments: Sequence[str] | None, placeholders: Sequence[str]
) -> list[str]:
    """The names of the leaves: the argument's name, and the path to the leaf, joined with dots.

    torch before 2.8 does not keep the names of arguments. There, they are the start of the
    placeholders' names."""
    positional, named = spec.unflatten(range(spec.num_leaves))
    names: dict[int, str] = {}
    parts = [*enumerate(positional), *named.items()]
    for number, (key, part) in enumerate(parts):
        found = [leaf for leaf in leaves(part, "*") if type(leaf.value) is int]
        if isinstance(key, str):
            argument = key
        elif arguments is not None:
            argument = arguments[number]
        elif found:
            way = found[0].name[1:].replace(".", "_")
            argument = placeholders[found[0].value].removesuffix(way) or f"arg_{key}"
        for leaf in found:
            names[leaf.value] = argument + leaf.name[1:]
    return [names.get(at) or name or f"input_{at}" for at, name in enumerate(placeholders)]
