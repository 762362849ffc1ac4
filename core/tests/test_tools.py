"""Guests as tools: what goes in, what comes out, and what becomes an error."""

from __future__ import annotations

import asyncio
import threading

import pytest
from conftest import CAT
from tool_guests import EXPORTS, LOOP, ONCE, TRAP, printing

from wasi_nn import Host, Limits, Policy, UsageError
from wasi_nn.tools import Tool, Toolbox, ToolError

ADD = {"properties": {"a": {"type": "integer"}, "b": {"type": "number"}}, "required": ["a", "b"]}
QUICK = Policy(limits=Limits(timeout=0.2))
SMALL = Policy(limits=Limits(output=64))


@pytest.fixture
def make(host, wat):
    """A function that makes a tool of a guest in the text format."""
    return lambda text, **options: Tool(host, wat(text), **{"name": "it", **options})


def test_a_text_goes_in_and_a_text_comes_out(make):
    result = make(CAT, input="text").call({"text": "to be"})
    assert (result.text, result.value, result.error) == ("to be", "to be", "")
    assert result.check() is result


def test_the_input_is_json_by_default(make):
    schema = {"properties": {"a": {"type": "integer"}, "b": {"type": "string", "default": "x"}}}
    tool = make(CAT, input_schema=schema, output="json")
    assert tool.call({"a": 1}).value == {"a": 1, "b": "x"}


def test_arguments_are_made_of_the_input(host, guests):
    # (The guest hello prints its arguments.)
    schema = {"properties": {"who": {"type": "string"}, "n": {"type": "integer"}}}
    args = ["--name={who}", "{n}", "end"]
    hello = guests / "hello" / "hello.wasm"
    tool = Tool(host, hello, input="arguments", args=args, input_schema=schema)
    assert tool.name == "hello"
    assert tool._arguments({"who": "a b", "n": 3}) == ["--name=a b", "3", "end"]
    assert tool._arguments({"who": "{n}"}) == ["--name={n}", "end"]
    assert tool.call({"who": "x"}).text == "hello, wasi-nn"


@pytest.mark.parametrize(
    ("export", "options", "arguments", "expected"),
    [
        ("add", {"input": "arguments", "input_schema": ADD}, {"b": 0.5, "a": 2}, 2.5),
        ("same", {"input": "text"}, {"text": "wörter"}, "wörter"),
        ("packed", {"input": "text"}, {"text": "words"}, "words"),
        ("same", {"output": "json"}, {"a": [1]}, {"a": [1]}),
        ("hello", {}, {}, "hello"),
        ("hello", {"output": "numbers"}, {}, 8),
    ],
)
def test_an_export_is_called(make, export, options, arguments, expected):
    result = make(EXPORTS, export=export, **options).call(arguments).check()
    assert result.value == expected


@pytest.mark.parametrize(
    ("guest", "options", "says", "rule"),
    [
        (LOOP, {"policy": QUICK}, "ran past its deadline of 0.2 s", "timeout"),
        (TRAP, {}, "unreachable", ""),
        (printing("{]what!?"), {"output": "json"}, "is not JSON", ""),
        (printing("\\ff\\fe\\00abcde"), {}, "not text in UTF-8: byte 0xff at 0", ""),
        (printing("\\22\\5cud800\\22"), {"output": "json"}, "is not JSON", ""),
        (printing("   1e999"), {"output": "json"}, "is not JSON", ""),
        (printing("     NaN"), {"output": "json"}, "is not JSON", ""),
        (printing("endless "), {}, "", ""),
        (
            printing("endless ", f"(loop $l {ONCE} (br $l))"),
            {"policy": SMALL},
            "quota output: the guest's output has more than 64 bytes",
            "output",
        ),
        (
            printing("too bad\\0a", "(call $say (i32.const 2)) (call $exit (i32.const 3))"),
            {},
            "ended with exit code 3; it says: too bad",
            "",
        ),
        ('(module (import "env" "no" (func)) (func (export "_start")))', {}, "env.no", ""),
        (EXPORTS, {"export": "outside"}, "memory", ""),
        (EXPORTS, {"export": "huge"}, "quota output", "output"),
        (EXPORTS, {"export": "loop", "policy": QUICK}, "ran past its deadline", "timeout"),
    ],
)
def test_what_goes_wrong_in_a_guest_is_an_error_with_the_reason(make, guest, options, says, rule):
    result = make(guest, **options).call({})
    assert (says in result.error, result.rule) == (True, rule), result
    if says:
        assert result.text == result.error
        assert result.error.startswith("tool it: ")
        assert "\n" not in result.error
        with pytest.raises(ToolError):
            result.check()


def test_json_that_is_nested_too_deep_is_an_error(make):
    deep = make(CAT, input="text", output="json")
    assert "deep" in deep.call({"text": "[" * 80 + "]" * 80}).error
    assert "not JSON" in deep.call({"text": "[" * 100_000}).error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "lacks 'city'"),
        ({"city": 3}, "'city' must be a string, not 3"),
        ({"city": "x", "dayz": 3}, "did you mean 'days'?"),
        ({"city": "x", "days": True}, "must be an integer, not True"),
        ({"city": "x", "days": 9}, "at most 7"),
        ({"city": "toolong"}, "at most 5 characters, not 7"),
        ({"city": "x", "unit": "K"}, "must be one of 'C', 'F', not 'K'"),
        ({"city": "x", "tags": ["a", 1]}, "item 1 of 'tags' must be a string"),
        ([], "must be an object"),
    ],
)
def test_a_wrong_input_is_an_error_that_names_it(make, arguments, says):
    schema = {
        "properties": {
            "city": {"type": "string", "maxLength": 5},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "unit": {"enum": ["C", "F"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert says in make(CAT, input_schema=schema).call(arguments).error


def test_what_no_encoding_can_write_does_not_leave_a_tool(make):
    assert make(CAT, input="text").call({"text": "half \ud800"}).text == "half \ufffd"
    assert "NUL" in make(CAT, input="arguments", args=["{a}"]).call({"a": "\0"}).error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "a tool"}, "not a name for a tool"),
        ({"input": "jsn"}, "did you mean 'json'?"),
        ({"output": "numbers"}, "of an export"),
        ({"args": "text"}, "must be a list"),
        ({"input_schema": {"type": "array"}}, "must have the type 'object'"),
        ({"input_schema": {"propertys": {}}}, "did you mean 'properties'?"),
        ({"input_schema": {"properties": {"a": {"type": "text"}}}}, "property 'a' has the type"),
        ({"input_schema": {"oneOf": []}}, "which is not checked here"),
        ({"input_schema": ADD, "args": ["{c}"]}, "{c}, which is not a property"),
        ({"input_schema": ADD, "input": "text"}, "not 2 (a, b)"),
        ({"export": "ad"}, "exports no function 'ad'; did you mean 'add'?"),
        ({"export": "add"}, "does not return a text"),
        ({"export": "add", "input": "arguments"}, "needs input_schema"),
        ({"export": "same", "allocator": "alloc"}, "did you mean 'malloc'?"),
        ({}, "not a command"),
    ],
)
def test_what_can_never_work_is_said_when_the_tool_is_made(make, options, says):
    guest = EXPORTS if "export" in options or not options else CAT
    with pytest.raises(UsageError) as error:
        make(guest, **options)
    assert says in str(error.value)


def test_a_tool_has_limits_that_its_policy_can_change(make):
    assert make(CAT).limits[:1] == (30.0,)
    assert make(CAT, policy=Policy(limits=Limits(timeout=90))).limits.timeout == 90
    assert make(CAT, policy=SMALL).limits.output == 64


def test_a_tool_may_use_the_models_of_its_policy_alone(host, guests, identity_model, tmp_path):
    for name in ("mine", "other"):
        host.add_model(name, identity_model(name))
    (tmp_path / "x").write_bytes(bytes(4))
    args = ["name:{model}", "/data/x", "1"]
    guest = guests / "classify" / "classify.wasm"
    policy = Policy(models={"mine"})
    dirs = {"/data": tmp_path}
    tool = Tool(host, guest, input="arguments", args=args, policy=policy, dirs=dirs)
    error = tool.call({"model": "other"}).error
    assert "policy models: a guest may use mine, not 'other'" in error


def test_a_component_that_is_a_command_is_a_tool(host, guests, identity_model, tmp_path):
    host.add_model("mine", identity_model("mine"))
    (tmp_path / "x").write_bytes(bytes(4))
    guest = guests / "classify-wit" / "classify-wit.wasm"
    args = ["name:{model}", "/data/x", "1"]
    tool = Tool(host, guest, input="arguments", args=args, dirs={"/data": tmp_path})
    assert tool.call({"model": "mine"}).error == ""
    assert "other" in tool.call({"model": "other"}).error
    with pytest.raises(UsageError, match="run as a command"):
        Tool(host, guest, export="run")


def test_a_call_in_asyncio_can_be_cancelled(make, host):
    tool = make(LOOP)
    tool.prepare()
    begun = threading.Event()
    aimed = host.under_way.begin
    host.under_way.begin = lambda interrupt: (aimed(interrupt), begun.set())

    async def main():
        task = asyncio.ensure_future(tool.call_async())
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await make(CAT, input="text").call_async({"text": "next"})

    assert asyncio.run(main()).text == "next"


def test_a_closed_host_gives_an_error(plugins, wat):
    host = Host(plugins=plugins)
    tool = Tool(host, wat(CAT), name="it", input="text")
    host.close()
    assert "closed" in tool.call({"text": "x"}).error


def test_a_toolbox_has_tools_by_name(make):
    tools = Toolbox([make(CAT, input="text"), make(TRAP, name="trap")])
    assert [tool.name for tool in tools] == ["it", "trap"]
    assert tools.call("it", {"text": "a"}).text == "a"
    assert "no tool 'trp'; did you mean 'trap'?" in tools.call("trp").error
    assert asyncio.run(tools.call_async("trap")).error
    with pytest.raises(UsageError, match="two tools"):
        Toolbox([make(CAT), make(CAT)])


FILE = """
[policy.limits]
timeout = 20
[models.net]
files = ["net.identity"]
[tools.echo]
guest = "cat.wasm"
description = "Says it again."
input = "text"
[tools.echo.parameters.text]
type = "string"
[tools.echo.policy]
models = ["net"]
limits = {timeout = "5s", output = "1K", tokens = 20}
"""


@pytest.fixture
def folder(tmp_path, wat, identity_model):
    (tmp_path / "cat.wasm").write_bytes(wat(CAT))
    identity_model("net")
    return tmp_path


def test_tools_are_read_from_a_file(folder):
    (folder / "tools.toml").write_text(FILE)
    with Toolbox.read(folder / "tools.toml") as tools:
        tools.prepare()
        assert tools["echo"].limits[0] == 5
        assert (tools["echo"].limits.output, tools["echo"].limits.tokens) == (1024, 20)
        assert tools.call("echo", {"text": "again"}).text == "again"
        assert (
            "'txt', which the tool does not take"
            in tools.call("echo", {"text": "", "txt": ""}).error
        )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[tools.echo]\n", "[tool.x]\n[tools.echo]\n", "no key 'tool'; did you mean 'tools'?"),
        ("description", "descripton", "'tools.echo.descripton'; did you mean 'description'?"),
        ('type = "string"', 'typ = "string"', "did you mean 'type'?"),
        ("tokens", "token", "did you mean 'tokens'?"),
        ('["net"]', '["nte"]', "'nte', which is not a model here; did you mean 'net'?"),
        ("cat.wasm", "dog.wasm", "dog.wasm"),
        ('guest = "cat.wasm"', "", "must be the path of a guest"),
        ("[models.net]", "[models.net", "not TOML"),
        ("files =", "file =", "did you mean 'files'?"),
        ('input = "text"', 'dirs = {"/x" = "nowhere:readonly"}', "nowhere is not a directory"),
        ('input = "text"', "dirs = {'/x' = 3}", "must map guest paths to paths"),
    ],
)
def test_a_mistake_in_the_file_is_explained(folder, old, new, says):
    (folder / "tools.toml").write_text(FILE.replace(old, new))
    with pytest.raises(UsageError) as error:
        Toolbox.read(folder / "tools.toml")
    assert says in str(error.value)
    assert "tools.toml" in str(error.value)
