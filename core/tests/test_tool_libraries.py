"""Tools in pydantic-ai and LangChain, with scripted models."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
from pathlib import Path

import pytest
from conftest import CAT, hide, needs, run_python
from tool_guests import TRAP

from wasi_nn import UsageError
from wasi_nn.tools import Tool, Toolbox

needs("pydantic_ai")
needs("langchain_core")
from langchain_core.language_models.fake_chat_models import (  # noqa: E402
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage  # noqa: E402
from pydantic_ai import Agent  # noqa: E402
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart  # noqa: E402
from pydantic_ai.models.function import FunctionModel  # noqa: E402
from pydantic_ai.models.test import TestModel  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tools(host, wat):
    echo = Tool(host, wat(CAT), name="echo", description="Says it again.", input="text")
    return Toolbox([echo, Tool(host, wat(TRAP), name="trap", input_schema={"properties": {}})])


def scripted(*calls):
    """A model that makes these calls in turn, and then says what the tools have answered."""
    left = list(calls)

    def answer(messages, info):
        if left:
            return ModelResponse(parts=[ToolCallPart(*left.pop(0))])
        said = [p.content for m in messages for p in m.parts if p.part_kind == "tool-return"]
        return ModelResponse(parts=[TextPart(" | ".join(map(str, said)))])

    return FunctionModel(answer)


def test_an_agent_of_pydantic_ai_uses_the_tools(tools):
    model = scripted(("echo", {"text": "to be"}), ("trap", {}), ("echo", {"txt": 1}))
    agent = Agent(model, tools=tools.pydantic_ai())
    said = asyncio.run(agent.run("go")).output.split(" | ")
    assert said[0] == "to be"
    # An error is what the model reads; the agent goes on.
    assert "unreachable" in said[1]
    assert "lacks 'text'" in said[2]


def test_the_test_model_of_pydantic_ai_understands_the_schema(tools):
    agent = Agent(TestModel(call_tools=["echo"]), tools=tools.pydantic_ai())
    assert "echo" in asyncio.run(agent.run("go")).output


class Scripted(GenericFakeChatModel):
    """LangChain's fake chat model, which accepts tools."""

    def bind_tools(self, tools, **options):
        return self


def test_a_chat_model_of_langchain_uses_the_tools(tools):
    calls = [("echo", {"text": "to be"}), ("trap", {}), ("echo", {"txt": 1})]
    message = AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": arguments, "id": str(n), "type": "tool_call"}
            for n, (name, arguments) in enumerate(calls)
        ],
    )
    adapted = {tool.name: tool for tool in tools.langchain()}
    assert adapted["echo"].description == "Says it again."
    model = Scripted(messages=iter([message])).bind_tools([*adapted.values()])
    asked = model.invoke("go").tool_calls
    said = [adapted[call["name"]].invoke(call) for call in asked]

    async def later():
        return [await adapted[call["name"]].ainvoke(call) for call in asked]

    for answers in (said, asyncio.run(later())):
        assert answers[0].content == "to be"
        assert [each.status for each in answers] == ["success", "error", "error"]
        assert "unreachable" in answers[1].content
        assert "lacks 'text'" in answers[2].content


def test_langchain_has_names_of_its_own(host, wat):
    tool = Tool(host, wat(CAT), name="it", input_schema={"properties": {"config": {}}})
    with pytest.raises(UsageError, match="rename the property"):
        tool.langchain()


@pytest.mark.parametrize(
    ("call", "module", "extra"),
    [
        ("pydantic_ai()", "pydantic_ai", "pydantic-ai"),
        ("langchain()", "langchain_core", "langchain"),
        ("mcp()", "mcp", "mcp"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(tmp_path, wat, call, module, extra):
    hide(tmp_path, module, "mcp_types" if module == "mcp" else module)
    (tmp_path / "cat.wasm").write_bytes(wat(CAT))
    code = f"""
from wasi_nn import Host
from wasi_nn.tools import Tool, Toolbox
try:
    Toolbox([Tool(Host(), "cat.wasm")]).{call}
except Exception as error:
    print(type(error).__name__, error)
"""
    # (What it imports already is not needed for tools.)
    run = run_python(code, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": ""})
    assert run.stdout.startswith("Unavailable"), run
    assert f'pip install "wasi-nn[{extra}]"' in run.stdout


def test_tools_import_none_of_the_libraries():
    code = "import sys, wasi_nn.tools; print({'mcp', 'pydantic_ai', 'langchain_core', 'anyio', "
    assert run_python(code + "'pydantic', 'asyncio'} & set(sys.modules))").stdout == "set()\n"


def test_the_example_works(capsys):
    needs("magika")
    runpy.run_path(str(ROOT / "examples" / "tools" / "agent.py"), run_name="__main__")
    assert re.fullmatch(
        r"python\t[01]\.\d+\t/project/core/wasi_nn/tools\.py\n", capsys.readouterr().out
    )


def test_the_page_shows_what_the_example_does():
    """The excerpts of the page are the example's, and its other block runs."""
    page = (ROOT / "docs" / "tools.md").read_text("utf-8")
    folder = ROOT / "examples" / "tools"
    toml = re.findall(r"^```toml\n(.*?)^```$", page, re.S | re.M)
    excerpt, use = re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M)
    (server,) = re.findall(r"^```json\n(.*?)^```$", page, re.S | re.M)
    described = (folder / "tools.toml").read_text("utf-8")
    assert all(part in described for block in toml for part in block.split("\n\n"))
    assert excerpt in (folder / "agent.py").read_text("utf-8")
    assert json.loads(server)["mcpServers"]["files"]["command"] == "wasi-nn"
    needs("magika")
    with Toolbox.read(folder / "tools.toml") as tools:
        names = {"tools": tools}
        exec(use, names)
        assert names["result"].text.startswith("markdown\t")
