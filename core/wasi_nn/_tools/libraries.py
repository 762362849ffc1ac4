"""Tools for the libraries of agents, which are imported when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wasi_nn._tools.schema import properties_of
from wasi_nn.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from wasi_nn._tools.tool import Tool

# LangChain passes these by itself.
_RESERVED = ("callbacks", "config", "run_manager")


def pydantic_ai(tool: Tool) -> Any:
    """A ``pydantic_ai.Tool``."""
    try:
        from pydantic_ai import Tool as Adapted
        from pydantic_ai.exceptions import ToolFailed
    except ImportError as error:
        raise missing("pydantic-ai", error) from error

    async def call(**arguments: Any) -> Any:
        result = await tool.call_async(arguments)
        if result.error:
            # The model reads the reason. (A ModelRetry too many would end the agent's run.)
            raise ToolFailed(result.error)
        return result.value

    schema = dict(tool.input_schema)
    return Adapted.from_schema(call, tool.name, tool.description, schema)


def langchain(tool: Tool) -> Any:
    """A ``langchain_core.tools.StructuredTool``."""
    try:
        from langchain_core.tools import StructuredTool, ToolException
    except ImportError as error:
        raise missing("langchain", error) from error
    for name in properties_of(tool.input_schema):
        if name in _RESERVED:
            raise UsageError(f"LangChain has a use of its own for {name!r}: rename the property")

    def call(**arguments: Any) -> Any:
        result = tool.call(arguments)
        if result.error:
            raise ToolException(result.error)
        return result.value

    async def call_async(**arguments: Any) -> Any:
        result = await tool.call_async(arguments)
        if result.error:
            raise ToolException(result.error)
        return result.value

    return StructuredTool.from_function(
        call,
        call_async,
        name=tool.name,
        # (It refuses a tool without one.)
        description=tool.description or tool.name,
        args_schema=dict(tool.input_schema),
        infer_schema=False,
        handle_tool_error=True,
    )


def missing(extra: str, error: ImportError) -> Unavailable:
    """What to install."""
    return Unavailable(f'{error}: pip install "wasi-nn[{extra}]"')
