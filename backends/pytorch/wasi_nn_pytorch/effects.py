"""What a call leaves behind: a module may write to itself, and to its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Effects(NamedTuple):
    """``state``: the module keeps something from one call to the next. ``arguments``: it writes to
    what it is given."""

    state: bool = False
    arguments: bool = False


def of_script(module: torch.jit.ScriptModule) -> Effects:
    """A frozen copy is looked at, in which what only training would write is gone."""
    import torch

    try:
        graph = torch._C._freeze_module(module._c)._get_method("forward").graph
    except RuntimeError:
        # Not every module can be frozen, and one copy too many does no harm.
        return Effects(True, True)
    if graph.findAllNodes("prim::CallMethod"):
        return Effects(True, True)
    aliases = graph.alias_db()
    attributes = [node.output() for node in graph.findAllNodes("prim::GetAttr")]
    state = bool(graph.findAllNodes("prim::SetAttr")) or any(map(aliases.has_writers, attributes))
    return Effects(state, any(map(aliases.has_writers, list(graph.inputs())[1:])))


def of_program(program: torch.export.ExportedProgram) -> Effects:
    """Operators that write in place are followed back to what they, or a view, may write to."""
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
