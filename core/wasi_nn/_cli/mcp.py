"""`wasi-nn mcp`: guests as tools, over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import click

from wasi_nn._cli.graph_options import KeptModels, named_models
from wasi_nn._cli.messages import complain, set_up_logging
from wasi_nn._cli.policy_options import PolicyOptions, policy_options
from wasi_nn._cli.shared_options import plugin_option, values
from wasi_nn._tools.server import Wire, listening, serve_http, server
from wasi_nn._tools.tool import INPUTS, OUTPUTS, Tool
from wasi_nn._tools.toolbox import Toolbox
from wasi_nn.errors import UsageError

EXAMPLES = """Examples:

\b
  wasi-nn mcp tools.toml
  wasi-nn mcp tools.toml --http 127.0.0.1:8000
  wasi-nn mcp --describe 'Counts the words of a text.' --input text --timeout 5 count.wasm
  wasi-nn mcp --graph net=model.onnx --models net --arg name:net --arg '{file}' classify.wasm
"""
# What a file of tools says itself.
_OF_ONE_GUEST = (
    *("graphs", "configs", "runtime", "name", "description", "input_", "args", "export"),
    *("allocator", "output", "schema"),
)


@click.command(epilog=EXAMPLES, no_args_is_help=True)
@click.argument("tools", type=click.Path(path_type=Path), metavar="TOOLS.TOML|GUEST.WASM")
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve over streamable HTTP, at /mcp, in place of stdin and stdout. There is no "
    "authentication: whoever reaches the port can call the tools.",
)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    metavar="N",
    help="The most guests at one time. Default: four for each core.",
)
@click.option("--name", metavar="NAME", help="The tool's name. Default: the guest's file.")
@click.option("--describe", "description", metavar="TEXT", help="What the tool is for.")
@click.option(
    "--input",
    "input_",
    type=click.Choice(INPUTS),
    help="How the guest gets its input: as JSON, as one text, or in --arg alone. Default: json.",
)
@click.option(
    "--arg", "args", multiple=True, metavar="TEXT", help="An argument; {name} is of the input."
)
@click.option("--export", metavar="NAME", help="Call this export, in place of a command.")
@click.option("--allocator", metavar="NAME", help="The export that allocates. Default: malloc.")
@click.option("--output", type=click.Choice(OUTPUTS), help="What the guest's output is.")
@click.option("--schema", metavar="JSON", help="The JSON Schema of the tool's input.")
@click.option("--graph", "graphs", multiple=True, metavar="NAME=PATH", help="A named model.")
@click.option("--config", "configs", multiple=True, metavar="NAME=JSON", help="A model's config.")
@click.option(
    "--runtime",
    metavar="NAME",
    shell_complete=values("runtimes"),
    help="The engine; see wasi-nn plugins.",
)
@policy_options
@plugin_option
@click.option("-v", "--verbose", is_flag=True, help="Print each call to stderr.")
def mcp(
    tools: Path,
    http: str | None,
    jobs: int | None,
    policy: PolicyOptions,
    verbose: bool,
    **options: Any,
) -> int:
    """Serve guests as tools of an agent: those of a file, or one guest with the options here.

    The options of tools, models and policies are for one guest; TOOLS.TOML has its own. stdout
    belongs to the protocol, and everything else is printed to stderr."""
    set_up_logging(verbose)
    where = None if http is None else _address(http)
    # Before any process is started that would inherit stdout.
    wire = Wire() if where is None else None
    made = _toolbox(tools, policy, options)
    with made:
        served = server(made, tools.stem, jobs)
        made.prepare()
        with contextlib.suppress(KeyboardInterrupt):
            if wire is not None:
                asyncio.run(wire.serve(served))
            elif where is not None:
                _over_http(served, *where)
    return 0


def _over_http(served: Any, host: str, port: int) -> None:
    with listening(host, port) as bound:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{bound.getsockname()[1]}/mcp"
        asyncio.run(
            serve_http(
                served, host, bound, lambda: complain(f"the tools are at {url} until Ctrl-C")
            )
        )


def _toolbox(path: Path, policy: PolicyOptions, options: dict[str, Any]) -> Toolbox:
    if path.suffix == ".toml":
        given = [name for name in _OF_ONE_GUEST if options[name] not in (None, ())]
        given += policy.given
        if given:
            option = {"graphs": "graph", "configs": "config", "description": "describe"}
            name = option.get(given[0], given[0].strip("_").removesuffix("s"))
            raise UsageError(f"--{name} is for one guest: write it in {path}")
        return Toolbox.read(path)
    from wasi_nn._host.host import Host

    rules = policy.policy({})
    host = Host(runtime=options["runtime"], policy=rules)
    kept = KeptModels(None, rules.pins)
    for model in named_models(kept, options["graphs"], options["configs"], (), ()):
        host.registry.add(model)
    host.registry.find = kept.find
    policy.check_names(
        host.models, {e for backend in host.plugins.backends for e in backend.encodings}
    )
    tool = Tool(
        host,
        path,
        name=options["name"],
        description=options["description"] or "",
        input_schema=_schema(options["schema"]),
        input=options["input_"] or "json",
        args=options["args"],
        export=options["export"],
        allocator=options["allocator"] or "malloc",
        output=options["output"],
    )
    return Toolbox([tool], host)


def _schema(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--schema {text!r} is not JSON: {error}") from error


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--http takes HOST:PORT, as in 127.0.0.1:8000, not {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)
