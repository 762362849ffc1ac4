"""`wasi-nn mcp`, with the client of the package `mcp`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import CAT, needs
from tool_guests import EXPORTS, LOOP, ONCE, TRAP, printing

needs("mcp")
from mcp import Client, MCPError, StdioServerParameters  # noqa: E402
from mcp.client.stdio import stdio_client  # noqa: E402

TOOLS = """
[tools.echo]
guest = "cat.wasm"
description = "Says it again."
input = "text"
[tools.json]
guest = "cat.wasm"
output = "json"
[tools.loop]
guest = "loop.wasm"
policy.limits.timeout = 0.2
[tools.trap]
guest = "trap.wasm"
[tools.garbage]
guest = "garbage.wasm"
[tools.endless]
guest = "endless.wasm"
[tools.same]
guest = "exports.wasm"
export = "same"
input = "text"
"""
COMMAND = [sys.executable, "-m", "wasi_nn", "mcp"]


@pytest.fixture
def tools(tmp_path, wat):
    guests = {
        "cat": CAT,
        "loop": LOOP,
        "trap": TRAP,
        "garbage": printing("\\ff\\fe\\00abc\\0a\\0d"),
        "endless": printing("endless\\0a", f"(loop $l {ONCE} (br $l))"),
        "exports": EXPORTS,
    }
    for name, text in guests.items():
        (tmp_path / f"{name}.wasm").write_bytes(wat(text))
    (tmp_path / "tools.toml").write_text(TOOLS)
    return tmp_path / "tools.toml"


async def use(client):
    """What a client asks of the tools above, right and wrong."""
    listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert [*listed] == ["echo", "json", "loop", "trap", "garbage", "endless", "same"]
    assert listed["echo"].description == "Says it again."
    assert listed["echo"].input_schema["required"] == ["text"]
    for name in ("echo", "same"):
        result = await client.call_tool(name, {"text": "to be"})
        assert (result.content[0].text, result.is_error) == ("to be", False)
    result = await client.call_tool("json", {"a": [1, None]})
    assert result.structured_content == {"a": [1, None]}
    wrong = {
        ("loop", ()): "ran past its deadline",
        ("trap", ()): "unreachable",
        ("garbage", ()): "not text in UTF-8",
        ("endless", ()): "quota output",
        ("echo", (("txt", 1),)): "lacks 'text'",
        ("echo", (("text", 1),)): "'text' must be a string, not 1",
    }
    for (name, arguments), says in wrong.items():
        result = await client.call_tool(name, dict(arguments))
        assert result.is_error
        assert says in result.content[0].text
    with pytest.raises(MCPError, match=r"no tool 'ecko'; did you mean 'echo'\?"):
        await client.call_tool("ecko", {})
    # It serves on, several calls at a time too.
    calls = [client.call_tool("echo", {"text": str(n)}) for n in range(5)]
    assert [r.content[0].text for r in await asyncio.gather(*calls)] == list("01234")


def test_a_client_uses_the_tools_over_stdio(tools):
    server = StdioServerParameters(
        command=COMMAND[0], args=[*COMMAND[1:], str(tools)], env=dict(os.environ)
    )

    async def main():
        async with Client(stdio_client(server)) as client:
            await use(client)

    asyncio.run(main())


def test_a_client_uses_the_tools_over_http(tools):
    command = [*COMMAND, str(tools), "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert line.startswith("wasi-nn: the tools are at http://127.0.0.1:"), line
            url = line.split()[5]

            async def main():
                async with Client(url) as client:
                    await use(client)

            asyncio.run(main())
            assert asyncio.run(status(url, "evil.example")) == 421
        finally:
            process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait() == 0


async def status(url, host):
    """What a request gets whose Host header is of another site (DNS rebinding)."""
    import http.client
    from urllib.parse import urlsplit

    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    headers = {"Host": host, "Content-Type": "application/json", "Accept": "application/json"}
    connection.request("POST", "/mcp", "{}", headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_nothing_but_the_protocol_reaches_stdout(tools):
    """Lines that are not messages do not end the server either."""
    lines = [
        "not json",
        "[" * 3000,
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/list"',
        {
            "method": "initialize",
            "id": 2,
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "hostile", "version": "0"},
            },
        },
        {"method": "notifications/initialized"},
        {"method": "tools/call", "id": 3, "params": {"name": "garbage", "arguments": {}}},
        {"method": "tools/call", "id": 4, "params": {"name": 7}},
        {"method": "tools/call", "id": 5, "params": {"name": "echo", "arguments": "text"}},
        {"method": "tools/call", "id": 6, "params": {"name": "echo", "arguments": {"text": "a"}}},
    ]
    process = subprocess.Popen(
        [*COMMAND, str(tools)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    answers = {}
    with process:
        for line in lines:
            text = line if isinstance(line, str) else json.dumps({"jsonrpc": "2.0", **line})
            process.stdin.write(text + "\n")
        process.stdin.flush()
        while 6 not in answers or 3 not in answers:
            line = process.stdout.readline()
            assert line, "the server has ended"
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            answers[message.get("id")] = message
        process.stdin.close()
        for line in process.stdout:
            assert json.loads(line)["jsonrpc"] == "2.0"
    assert process.returncode == 0
    assert answers[3]["result"]["isError"]
    assert "error" in answers[4]
    assert "error" in answers[5]
    assert answers[6]["result"]["content"][0]["text"] == "a"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no.toml"], "cannot read the tools no.toml"),
        (["tools.toml", "--timeout", "3"], "--timeout is for one guest: write it in tools.toml"),
        (["tools.toml", "--graph", "a=b"], "--graph is for one guest"),
        (["tools.toml", "--http", "8000"], "--http takes HOST:PORT"),
        (["cat.wasm", "--schema", "{"], "is not JSON"),
        (["cat.wasm", "--export", "x"], "exports no function 'x'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tools, arguments, says):
    run = subprocess.run([*COMMAND, *arguments], cwd=tools.parent, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert says in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_one_guest_is_served_with_options(tools):
    options = ["--describe", "Again.", "--input", "text", "--timeout", "5", "cat.wasm"]
    server = StdioServerParameters(
        command=COMMAND[0],
        args=[*COMMAND[1:], *options],
        cwd=tools.parent,
        env=dict(os.environ),
    )

    async def main():
        async with Client(stdio_client(server)) as client:
            (tool,) = (await client.list_tools()).tools
            assert (tool.name, tool.description) == ("cat", "Again.")
            assert (await client.call_tool("cat", {"text": "a"})).content[0].text == "a"

    asyncio.run(main())
