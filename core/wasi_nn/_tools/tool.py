"""A guest as a tool: how its input reaches it, and how its output is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasi_nn._host.capture import Capture
from wasi_nn._host.deadline import Deadline
from wasi_nn._host.limit_policy import laid_over
from wasi_nn._host.wasi import wasi_config
from wasi_nn._process.interrupts import Interruption
from wasi_nn._suggestion import did_you_mean
from wasi_nn._tools.reply import ToolError, ToolResult, parsed, printable, why
from wasi_nn._tools.schema import check_schema, mistake, properties_of
from wasi_nn.errors import GuestError, LimitExceeded, UsageError, WasiNnError
from wasi_nn.escaping import logger, trace_of, visible
from wasi_nn.limits import Limits
from wasi_nn.policy import Policy

if TYPE_CHECKING:
    from wasi_nn._host.guest import Guest
    from wasi_nn._host.host import Host, Source
    from wasi_nn._host.options import RunOptions
    from wasi_nn._host.wasi import Dirs

log = logger("wasi_nn.tools")

INPUTS = ("json", "text", "arguments")
OUTPUTS = ("text", "json", "numbers")
#: What holds for a tool whose policy does not say it: an agent waits for its tools.
DEFAULTS = Limits(timeout=30.0, output=1 << 20)
# What the services of models take.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLACE = re.compile(r"\{([^{}]+)\}")
_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_LOW = 0xFFFFFFFF


class Tool:
    """A guest as a tool of an agent. Each call is a fresh guest: nothing of one call is left for
    the next. Thread-safe.

        tool = Tool(host, "count.wasm", description="Counts the words of a text.", input="text")
        tool.call({"text": "to be or not to be"}).text  # "6"

    - ``name``: letters, digits, ``-`` and ``_``; by default the file's. ``description`` tells the
      model what the tool is for.
    - ``input_schema``: the JSON Schema of the input, an object. The arguments of each call are
      checked against it.
    - ``input``: how the input reaches the guest. ``"json"``: as a JSON object in one line;
      ``"text"``: the one property that ``args`` does not have, as it is; ``"arguments"``: nothing
      but ``args``. A command reads it from its standard input.
    - ``args``: the command's arguments, in which ``{name}`` stands for a property. An argument of a
      property that a call leaves out is left out too, unless the schema has a default.
    - ``export``: an export to call in place of a command. With ``"arguments"`` its parameters are
      the schema's properties, in order. Otherwise it gets the pointer and the length of bytes in
      memory from ``allocator``, an export such as ``malloc``.
    - ``output``: ``"text"`` or ``"json"``, from the command's standard output, or from the memory
      to which the export's results point: a pointer and a length, both in one i64 (the pointer in
      its upper half), or a pointer to text that ends with NUL. ``"numbers"`` are the export's
      results themselves.
    - ``policy``: what the guest may do, laid over the host's policy. Without limits of its own, a
      tool has 30 seconds and 1 MiB of output.
    - ``env`` and ``dirs``: as for ``Host.run``.

    Raises ``UsageError`` for what can never work: a guest that is neither, an export that is not
    there, a schema with keywords that are not checked."""

    def __init__(
        self,
        host: Host,
        wasm: Source,
        *,
        name: str | None = None,
        description: str = "",
        input_schema: Mapping[str, Any] | None = None,
        input: str = "json",
        args: Sequence[str] = (),
        export: str | None = None,
        allocator: str = "malloc",
        output: str | None = None,
        policy: Policy | None = None,
        env: Mapping[str, str] | None = None,
        dirs: Dirs = (),
    ) -> None:
        self.name = _named(name, wasm)
        if not isinstance(description, str):
            raise UsageError(f"the description is {description!r}, and must be a text")
        self.description = description
        if output is None:
            output = "numbers" if export is not None and input == "arguments" else "text"
        _known("input", input, INPUTS)
        _known("output", output, OUTPUTS)
        if isinstance(args, str) or not all(isinstance(each, str) for each in args):
            raise UsageError(f"args is {args!r}, and must be a list of texts")
        if export is None and output == "numbers":
            raise UsageError("output 'numbers' is of an export; a command's is 'text' or 'json'")
        if export is not None and args:
            raise UsageError("args are of a command; an export gets the properties in order")
        self._input, self._output = input, output
        self._args, self._export, self._allocator = tuple(args), export, allocator
        #: The JSON Schema of the input, an object.
        self.input_schema: Mapping[str, Any] = self._schema(input_schema)
        policy = (Policy() if policy is None else policy).checked()
        own = policy.limits._replace(loosen=True).over(DEFAULTS)
        self._policy = policy._replace(limits=own._replace(loosen=policy.limits.loosen))
        #: What holds for each call.
        self.limits = laid_over(host.policy, self._policy, None, None).limits
        self._options: RunOptions = {"policy": self._policy, "request": self.name}
        if export is None:
            self._options |= {"env": env, "dirs": dirs}
            # A mistake in them is the operator's, not a call's.
            wasi_config((self.name, *args), self._options, Capture(False, self.limits))
        elif env or dirs:
            raise UsageError("env and dirs are of a command; an export has neither")
        self._text = self._left_over() if input == "text" else ""
        self._program = host.program(wasm)
        self._check_guest()

    def __repr__(self) -> str:
        return f"<Tool {self.name}>"

    def prepare(self) -> None:
        """Compile the guest, and check that its imports can be met, so that the first call does
        not wait for it. Raises ``LinkError`` and ``UsageError``."""
        self._program.link()

    def call(self, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Run the guest with the arguments, which the schema names. What goes wrong, with the
        arguments or in the guest, is the result's ``error``; nothing of it is raised."""
        return self._call(arguments, Interruption())

    async def call_async(self, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """``call`` in its own thread. A cancelled task interrupts the guest, and raises
        ``CancelledError`` when it has ended."""
        from wasi_nn._host.asynchronous import in_thread

        stop = Interruption()
        return await in_thread(partial(self._call, arguments, stop), stop)

    def pydantic_ai(self) -> Any:
        """This tool for an agent of pydantic-ai: a ``pydantic_ai.Tool``. The extra ``pydantic-ai``
        installs it; raises ``Unavailable`` without it."""
        from wasi_nn._tools.libraries import pydantic_ai

        return pydantic_ai(self)

    def langchain(self) -> Any:
        """This tool for LangChain: a ``langchain_core.tools.StructuredTool``. The extra
        ``langchain`` installs it; raises ``Unavailable`` without it."""
        from wasi_nn._tools.libraries import langchain

        return langchain(self)

    def _call(self, arguments: Mapping[str, Any] | None, stop: Interruption) -> ToolResult:
        rule = ""
        try:
            given = self._checked({} if arguments is None else arguments)
            if self._export is None:
                return self._run(given, stop)
            return self._invoke(self._export, given, stop)
        except GuestError as error:
            # A trap's text includes the guest's stack.
            text, rule = _first_lines(str(error)), error.rule
        except WasiNnError as error:
            text = str(error)
        except Exception as error:
            # A mistake of the host, or of a plugin. Other tools go on.
            log.error("the tool %s failed: %s", self.name, trace_of(error))
            text = f"the host failed ({type(error).__name__}); its log has the reason"
        text = visible(f"tool {self.name}: {text}")
        return ToolResult(text, None, text, rule)

    def _run(self, given: Mapping[str, Any], stop: Interruption) -> ToolResult:
        output = bytearray()
        limit = self.limits.output

        def collect(piece: bytes) -> None:
            output.extend(piece[: max(0, limit + 1 - len(output))])
            if len(output) > limit:
                # Nobody will read it.
                stop()

        options: RunOptions = {
            **self._options,
            "stdin": self._payload(given),
            "stdout": collect,
            "on_start": lambda guest: stop.aim(guest.interrupt),
        }
        result = self._program.run(self._arguments(given), **options)
        _check_size(len(output), limit)
        result.check()
        if result.exit_code:
            refused = next(iter(result.refused), "")
            text = visible(f"tool {self.name}: {why(result)}")
            return ToolResult(text, None, text, refused, result)
        text, value = parsed(self._output, bytes(output))
        return ToolResult(printable(text), value, run=result)

    def _invoke(self, export: str, given: Mapping[str, Any], stop: Interruption) -> ToolResult:
        # Each call of a guest has the whole time, and all of them together too.
        with Deadline(stop, self.limits.timeout), self._instance(stop) as guest:
            if self._input == "arguments":
                results = guest.call(export, *self._numbers(given))
            else:
                region = guest.put(self._payload(given), self._allocator)
                results = guest.call(export, *region)
            if self._output == "numbers":
                values = list(results)
                value = values[0] if len(values) == 1 else values
                return ToolResult(json.dumps(value), value)
            return ToolResult(*parsed(self._output, self._read(guest, results)))

    def _instance(self, stop: Interruption) -> Guest:
        guest = self._program.instantiate(policy=self._policy, request=self.name)
        stop.aim(guest.interrupt)
        return guest

    def _read(self, guest: Guest, results: Sequence[float]) -> bytes:
        numbers = [int(each) for each in results]
        limit = self.limits.output
        if len(numbers) == 2:
            pointer, length = numbers[0] & _LOW, numbers[1] & _LOW
        elif self._wide:
            pointer, length = (numbers[0] >> 32) & _LOW, numbers[0] & _LOW
        else:
            pointer = numbers[0] & _LOW
            most = max(0, min(limit + 1, guest.memory.size - pointer))
            found, nul, _ = guest.memory.read(pointer, most).partition(b"\0")
            _check_size(len(found), limit)
            if not nul:
                raise ToolError(f"the guest's text at 0x{pointer:x} does not end with NUL")
            return found
        _check_size(length, limit)
        return guest.memory.read(pointer, length)

    def _checked(self, arguments: object) -> Mapping[str, Any]:
        if not isinstance(arguments, Mapping):
            raise ToolError(f"the input is {str(arguments)[:100]!r}, and must be an object")
        wrong = mistake(self.input_schema, dict(arguments))
        if wrong:
            raise ToolError(wrong)
        defaults = {
            name: inner["default"]
            for name, inner in properties_of(self.input_schema).items()
            if "default" in inner
        }
        return {**defaults, **arguments}

    def _payload(self, given: Mapping[str, Any]) -> bytes:
        if self._input == "arguments":
            return b""
        if self._input == "json":
            return json.dumps(given).encode() + (b"\n" if self._export is None else b"")
        return printable(str(given.get(self._text, ""))).encode()

    def _arguments(self, given: Mapping[str, Any]) -> list[str]:
        made = []
        for template in self._args:
            names = _PLACE.findall(template)
            if all(name in given for name in names):
                made.append(_PLACE.sub(lambda found: _plain(given[found[1]]), template))
        return made

    def _numbers(self, given: Mapping[str, Any]) -> list[float]:
        kinds = self._program.exports[self._export or ""]
        names = properties_of(self.input_schema)
        missing = [name for name in names if name not in given]
        if missing:
            raise ToolError(f"the input lacks {missing[0]!r}, which the export needs")
        assert kinds is not None
        pairs = zip(names, kinds.parameters, strict=True)
        return [int(given[n]) if kind[0] == "i" else float(given[n]) for n, kind in pairs]

    def _schema(self, given: Mapping[str, Any] | None) -> Mapping[str, Any]:
        places = [name for template in self._args for name in _PLACE.findall(template)]
        if given is not None:
            check_schema(given)
            if given.get("type", "object") != "object":
                raise UsageError("the schema of a tool's input must have the type 'object'")
            schema = {"type": "object", **given}
        elif self._export is not None and self._input == "arguments":
            raise UsageError("an export needs input_schema: the names of its parameters, in order")
        elif self._input == "text" and not places:
            schema = _TEXT
        elif self._input == "json":
            schema = {"type": "object"}
        else:
            names = dict.fromkeys([*places, *(["text"] if self._input == "text" else [])])
            properties = {name: {"type": "string"} for name in names}
            schema = {"type": "object", "properties": properties, "required": [*names]}
        known = properties_of(schema)
        for name in places:
            if "properties" in schema and name not in known:
                hint = did_you_mean(name, known) or f"; known: {', '.join(known) or 'none'}"
                raise UsageError(f"args have {{{name}}}, which is not a property{hint}")
        return schema

    def _left_over(self) -> str:
        """The property that is the standard input."""
        used = {name for template in self._args for name in _PLACE.findall(template)}
        left = [name for name in properties_of(self.input_schema) if name not in used]
        if len(left) != 1:
            raise UsageError(
                f"input 'text' is one property that args do not have, not {len(left)} "
                f"({', '.join(left) or 'none'}): put the others in args, or use input 'json'"
            )
        return left[0]

    def _check_guest(self) -> None:
        export, binary = self._export, self._program._binary
        if export is None:
            binary.check_command()
            return
        binary.check_export(export)
        signature = self._program.exports[export]
        if signature is None:
            raise UsageError(f"the type of the export {export!r} cannot be read")
        count = len(properties_of(self.input_schema)) if self._input == "arguments" else 2
        if self._input != "arguments":
            binary.check_export(self._allocator)
        if len(signature.parameters) != count:
            what = "has" if self._input == "arguments" else "needs (a pointer and a length)"
            raise UsageError(
                f"{export}{signature} takes {len(signature.parameters)} parameters, and the "
                f"input {what} {count}"
            )
        self._wide = signature.results == ("i64",)
        if self._output != "numbers" and not (
            self._wide or signature.results in (("i32",), ("i32", "i32"))
        ):
            raise UsageError(
                f"{export}{signature} does not return a text: that is a pointer and a length, an "
                "i64 of both, or a pointer; for its numbers, use output 'numbers'"
            )


def _named(name: object, wasm: Source) -> str:
    if name is None:
        name = re.sub(r"[^\w-]", "_", Path(wasm).stem) if isinstance(wasm, (str, Path)) else "guest"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a tool: use 1 to 64 letters, digits, - and _")
    return name


def _known(what: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        hint = did_you_mean(str(value), known) or f"; known: {', '.join(known)}"
        raise UsageError(f"{what} is {value!r}{hint}")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        error = LimitExceeded(f"quota output: the guest's output has more than {limit} bytes")
        error.rule = "output"
        raise error


def _first_lines(text: str) -> str:
    """A guest's error without the stack: what a model can make use of."""
    return text.splitlines()[0] if text else "the guest failed"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
