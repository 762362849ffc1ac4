"""The side effects of a call: a module may write to itself and to its arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


_CONTAINERS = ("ListType", "DictType", "TupleType", "OptionalType")


class Effects(NamedTuple):
    """``state``: the module keeps state between calls. ``arguments``: it may write to its
    arguments. ``prints``: it may print."""

    state: bool = False
    arguments: bool = False
    prints: bool = False


def of_script(module: torch.jit.ScriptModule, nested: bool = False) -> Effects:
    """The effects of a TorchScript module. This looks at a frozen copy, without the writes of
    training. ``nested``: an argument contains tensors."""
    import torch

    try:
        graph = torch._C._freeze_module(module._c)._get_method("forward").graph
    except RuntimeError:
        # Not every module can be frozen. An unnecessary copy does no harm.
        return Effects(True, True, True)
    if graph.findAllNodes("prim::CallMethod"):
        return Effects(True, True, True)
    aliases = graph.alias_db()
    # The alias analysis does not look into lists, dicts and tuples. For them, assume that any
    # writing operator may write to their contents.
    writes = any("!" in node.schema() for node in _nodes(graph))
    attributes = [node.output() for node in graph.findAllNodes("prim::GetAttr")]
    state = bool(graph.findAllNodes("prim::SetAttr")) or any(
        aliases.has_writers(value) or (writes and value.type().kind() in _CONTAINERS)
        for value in attributes
    )
    arguments = any(map(aliases.has_writers, list(graph.inputs())[1:]))
    prints = bool(graph.findAllNodes("prim::Print"))
    return Effects(state, arguments or (nested and writes), prints)


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def of_program(program: torch.export.ExportedProgram) -> Effects:
    """The effects of an exported program. Operators that write in place are traced back, through
    views, to what they write to."""
    import torch

    signature = program.graph_signature
    state, arguments = bool(signature.buffers_to_mutate), bool(signature.user_inputs_to_mutate)
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable:
            continue
        written = node
        while written.args and isinstance(written.args[0], torch.fx.Node):
            written = written.args[0]
        state = state or written.name in signature.inputs_to_buffers
        arguments = arguments or written.name in signature.user_inputs
    return Effects(state, arguments)
