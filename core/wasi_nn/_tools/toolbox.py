"""Several tools over one host."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wasi_nn._closing import Closing
from wasi_nn._suggestion import did_you_mean
from wasi_nn._tools.reply import ToolResult
from wasi_nn._tools.tool import Tool
from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from wasi_nn._host.host import Host


class Toolbox(Closing):
    """Several tools, by name. Closing it ends the host that ``read`` has made for them:

        with Toolbox.read("tools.toml") as tools:
            agent = pydantic_ai.Agent(model, tools=tools.pydantic_ai())

    ``host`` is a host that ends with the toolbox. Raises ``UsageError`` for a name that two tools
    have."""

    def __init__(self, tools: Iterable[Tool], host: Host | None = None) -> None:
        self._tools: dict[str, Tool] = {}
        self._host = host
        for tool in tools:
            if tool.name in self._tools:
                raise UsageError(f"there are two tools {tool.name!r}: give one another name")
            self._tools[tool.name] = tool

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Toolbox:
        """The tools of a TOML file (docs/tools.md describes it), with a host of their own. Raises
        ``UsageError`` for a file that cannot be read, an unknown key, and what no tool can
        have."""
        from wasi_nn._tools.file import read

        host, tools = read(path)
        return cls(tools, host)

    def __repr__(self) -> str:
        return f"<Toolbox {', '.join(self._tools) or 'empty'}>"

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def __getitem__(self, name: str) -> Tool:
        """The tool of a name. Raises ``UsageError``."""
        found = self._tools.get(name)
        if found is None:
            hint = did_you_mean(name, self._tools) or f"; known: {', '.join(self._tools)}"
            raise UsageError(f"there is no tool {name!r}{hint}")
        return found

    def prepare(self) -> None:
        """Compile all guests, and check that their imports can be met. Raises ``LinkError`` and
        ``UsageError``."""
        for tool in self:
            tool.prepare()

    def call(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """``Tool.call``. A name that is not there is an error of the result too."""
        try:
            return self[name].call(arguments)
        except UsageError as error:
            return ToolResult(str(error), None, str(error))

    async def call_async(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """``Tool.call_async``. A name that is not there is an error of the result too."""
        try:
            tool = self[name]
        except UsageError as error:
            return ToolResult(str(error), None, str(error))
        return await tool.call_async(arguments)

    def pydantic_ai(self) -> list[Any]:
        """The tools for an agent of pydantic-ai."""
        return [tool.pydantic_ai() for tool in self]

    def langchain(self) -> list[Any]:
        """The tools for LangChain."""
        return [tool.langchain() for tool in self]

    def mcp(self, name: str = "wasi-nn", jobs: int | None = None) -> Any:
        """A server of the Model Context Protocol with these tools (``mcp.server.Server``), for a
        transport of your own. At most ``jobs`` guests run at one time, by default four for each
        core. The extra ``mcp`` installs it; raises ``Unavailable`` without it."""
        from wasi_nn._tools.server import server

        return server(self, name, jobs)

    def close(self) -> None:
        """End the host that was made for the tools, with the guests that run in it."""
        if self._host is not None:
            self._host.close()
