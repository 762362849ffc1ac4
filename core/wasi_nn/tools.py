"""Guests as tools of agents: a guest with a name, a description and the schema of its input.

    with Toolbox.read("tools.toml") as tools:
        print(tools.call("count", {"text": "to be or not to be"}).text)

``wasi-nn mcp tools.toml`` serves the same tools over the Model Context Protocol.
"""

from wasi_nn._tools.reply import ToolError, ToolResult
from wasi_nn._tools.tool import Tool
from wasi_nn._tools.toolbox import Toolbox

__all__ = ["Tool", "ToolError", "ToolResult", "Toolbox"]
