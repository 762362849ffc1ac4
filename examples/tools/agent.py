"""An agent whose tool is a guest. A scripted model stands in for a hosted one, so this needs no
key: put a model such as ``"anthropic:…"`` in place of ``FunctionModel(script)``."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from wasi_nn.tools import Toolbox


def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call the tool, and then say what it has answered."""
    if len(messages) == 1:
        path = {"path": "core/wasi_nn/tools.py"}
        return ModelResponse(parts=[ToolCallPart("file_type", path)])
    return ModelResponse(parts=[TextPart(messages[-1].parts[0].content)])


with Toolbox.read(Path(__file__).with_name("tools.toml")) as tools:
    agent = Agent(FunctionModel(script), tools=tools.pydantic_ai())
    print(asyncio.run(agent.run("What is core/wasi_nn/tools.py?")).output)
