"""Tools as a server of the Model Context Protocol, with the package `mcp`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from wasi_nn import __version__
from wasi_nn._tools.libraries import missing
from wasi_nn.errors import UsageError
from wasi_nn.escaping import logger

if TYPE_CHECKING:
    from wasi_nn._tools.toolbox import Toolbox

log = logger("wasi_nn.tools")
_JOBS_PER_CORE = 4
_CLOSING_SECONDS = 2


def server(tools: Toolbox, name: str, jobs: int | None = None) -> Any:
    """A low-level server of the package `mcp`. Raises ``Unavailable`` without it."""
    try:
        import mcp_types as types
        from mcp.server.lowlevel import Server
        from mcp.shared.exceptions import MCPError
    except ImportError as error:
        raise missing("mcp", error) from error
    room = asyncio.Semaphore(jobs or _JOBS_PER_CORE * (os.cpu_count() or 1))

    async def list_tools(context: Any, parameters: Any) -> Any:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    description=tool.description or None,
                    input_schema=dict(tool.input_schema),
                )
                for tool in tools
            ]
        )

    async def call_tool(context: Any, parameters: Any) -> Any:
        try:
            tool = tools[parameters.name]
        except UsageError as error:
            # The protocol has an error of its own for it.
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        async with room:
            started = time.perf_counter()
            result = await tool.call_async(parameters.arguments)
        seconds = time.perf_counter() - started
        log.info("tool %s: %.3f s, %s", tool.name, seconds, result.error or "done")
        structured = result.value if isinstance(result.value, dict) else None
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=result.text)],
            structured_content=structured,
            is_error=bool(result.error),
        )

    return Server(name, version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)


class Wire:
    """The protocol's stdin and stdout, which nothing else in this process and its children can
    reach: what prints there prints to stderr. Make it before anything else is started."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._input, self._output = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)

    async def serve(self, made: Any) -> None:
        """Serve one client, until it closes its end."""
        import anyio
        from mcp.server.stdio import stdio_server

        files = (
            TextIOWrapper(os.fdopen(self._input, "rb"), encoding="utf-8", errors="replace"),
            TextIOWrapper(os.fdopen(self._output, "wb"), encoding="utf-8"),
        )
        async with stdio_server(*map(anyio.wrap_file, files)) as (reader, writer):
            await made.run(reader, writer, made.create_initialization_options())


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ``UsageError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen()
    except OSError as error:
        found.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return found


async def serve_http(
    made: Any, host: str, bound: socket.socket, begun: Callable[[], None] = lambda: None
) -> None:
    """Serve any number of clients over streamable HTTP, at ``/mcp``, until SIGINT or SIGTERM."""
    import uvicorn

    app = made.streamable_http_app(host=host)
    config = uvicorn.Config(
        app, log_config=None, lifespan="on", timeout_graceful_shutdown=_CLOSING_SECONDS
    )
    begun()
    await uvicorn.Server(config).serve([bound])
