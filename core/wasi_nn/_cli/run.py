"""`wasi-nn run`: one guest, from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from wasi_nn._cli.foreground import in_thread
from wasi_nn._cli.foreign_options import (
    ForeignOptionsCommand,
    accept_others,
    mapped,
    preopen,
    volume,
    wasmtime_settings,
)
from wasi_nn._cli.foreign_options import variables as environment
from wasi_nn._cli.graph_options import KeptModels, named_models
from wasi_nn._cli.invoke import call_of, shown
from wasi_nn._cli.messages import complain, set_up_logging
from wasi_nn._cli.policy_options import PolicyOptions, policy_options
from wasi_nn._cli.progress import patience
from wasi_nn._cli.shared_options import (
    json_option,
    plain,
    plugin_option,
    stats_of,
    values,
    write_json,
)
from wasi_nn._host.guest import Guest
from wasi_nn._host.host import Host
from wasi_nn._host.options import RunOptions
from wasi_nn._host.program import Program
from wasi_nn._host.result import RunResult
from wasi_nn._units import size
from wasi_nn.errors import UsageError
from wasi_nn.runtime.engine import PAGE
from wasi_nn.runtime.name import RuntimeName
from wasi_nn.wasm.module import is_wasm

EXAMPLES = """Examples:

\b
  wasi-nn run hello.wasm
  wasi-nn run --graph mobilenet=mobilenet.onnx --dir . classify.wasm mobilenet photo.jpg
  wasi-nn run --graph m=onnx:gpu:model.onnx --allow-fallback --stats guest.wasm
  wasi-nn run --nn-preload default:ONNX:CPU:model.onnx --dir .:. guest.wasm default
  wasi-nn run -S nn-graph=onnx::models/mobilenet --timeout 10 guest.wasm
  wasi-nn run --policy guests.toml --graph m=model.onnx guest.wasm
  wasi-nn run --listen 127.0.0.1:8080 --graph llm=model.gguf llama-api-server.wasm -p chatml
  wasi-nn run --runtime wasmer --python python3.10 guest.wasm
  wasi-nn run --graph net=m.onnx --each photos/*.raw classify.wasm name:net {} 1,3,224,224
  find photos -name '*.raw' | wasi-nn run --jobs 4 --each - filter.wasm > answers.txt
"""


@click.command(
    cls=ForeignOptionsCommand,
    context_settings={"allow_interspersed_args": False},
    epilog=EXAMPLES,
    no_args_is_help=True,
)
@click.argument("guest", type=click.Path(path_type=Path))
@click.argument("args", nargs=-1)
@click.option(
    "--graph",
    "graphs",
    multiple=True,
    metavar="NAME=PATH",
    help="A named model: NAME=PATH[,PATH…] or NAME=ENCODING[:TARGET]:PATH[,PATH…]. "
    "A path may be package:PKG/FILE or a URL (https, hf, s3). NAME alone is one of wasi-nn models.",
)
@click.option(
    "--models-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to find models that a guest names and --graph does not. Default: the file of "
    "wasi-nn models.",
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="NAME=JSON",
    shell_complete=values("model_options"),
    help='A named model\'s config, as in m={"threads":2}.',
)
@click.option(
    "--kv-memory",
    metavar="SIZE",
    help="What the guests of a language model may take together for their texts, such as 2G. "
    "Default: a quarter of what is free.",
)
@click.option(
    "--nn-preload",
    "preloads",
    multiple=True,
    metavar="SPEC",
    help="WasmEdge's spelling of a named model: NAME:ENCODING:TARGET:PATH[:PATH…].",
)
@click.option(
    "-S",
    "--wasi",
    "wasmtime_options",
    multiple=True,
    metavar="SPEC",
    help="wasmtime's spelling: nn, nn-graph=FORMAT::DIR, inherit-env.",
)
@click.option(
    "--dir",
    "dirs",
    multiple=True,
    metavar="HOST[::GUEST]",
    shell_complete=values("folders"),
    help="A directory that the guest can use (also WasmEdge's GUEST:HOST). Add :readonly to make "
    "it read-only.",
)
@click.option(
    "--invoke",
    "-f",
    "-i",
    "--function",
    "--entrypoint",
    "export",
    metavar="NAME",
    help="Call this export with ARGS (numbers) and print its results.",
)
@click.option(
    "--each",
    "files",
    multiple=True,
    metavar="FILE…",
    help="Run the guest once for each FILE (or quoted pattern; - reads names from stdin). {} in "
    "ARGS is the file's path; without it, the file is the guest's standard input.",
)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --each, the most runs at one time. Default: as many as there are cores.",
)
@click.option("--reactor", is_flag=True, hidden=True)
@click.option("-W", "--wasm", "wasm", multiple=True, hidden=True)
@click.option("-D", "--debug", "debug", multiple=True, hidden=True)
@click.option("--wasi-modules", hidden=True, expose_value=False)
@click.option("--mapdir", "--map-dir", "mapdirs", multiple=True, hidden=True)
@click.option("--volume", "volumes", multiple=True, hidden=True)
@click.option("--max-held", hidden=True)  # the former spelling of --max-host-memory
@click.option("--argv0", hidden=True)
@click.option("--forward-host-env", is_flag=True, hidden=True)
@click.option("--time-limit", type=click.FloatRange(min=0), hidden=True)
@click.option("--gas-limit", type=click.IntRange(min=0), hidden=True)
@click.option("--memory-page-limit", type=click.IntRange(min=0), hidden=True)
@accept_others
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="An environment variable for the guest. Without a value, it is copied from this shell.",
)
@click.option(
    "--runtime",
    metavar="NAME",
    shell_complete=values("runtimes"),
    help="The engine; see wasi-nn plugins.",
)
@click.option(
    "--python",
    metavar="PYTHON",
    help="Run the engine in a process of another Python that has the engine's library.",
)
@click.option(
    "--dialect",
    default="auto",
    show_default=True,
    metavar="NAME",
    shell_complete=values("dialects"),
    help="The guest's dialect. auto detects it (see wasi-nn inspect).",
)
@policy_options
@click.option(
    "--allow-fallback",
    is_flag=True,
    help="Let a model whose execution target is not available run on the CPU.",
)
@click.option(
    "--allow-unknown-imports",
    is_flag=True,
    help="Let a guest start that imports functions which nothing provides. Calling one ends it.",
)
@click.option(
    *("--enable-all-statistics", "--enable-time-measuring", "--enable-gas-measuring"),
    *("--enable-instruction-count", "statistics"),
    is_flag=True,
    hidden=True,
)
@click.option("--stats", is_flag=True, help="Print times and counts afterwards, to stderr.")
@json_option("times and counts (as with --stats)")
@plugin_option
@click.option("-v", "--verbose", is_flag=True, help="Print every wasi-nn call, to stderr.")
def run(
    guest: Path,
    args: tuple[str, ...],
    graphs: tuple[str, ...],
    models_file: Path | None,
    configs: tuple[str, ...],
    kv_memory: str | None,
    preloads: tuple[str, ...],
    wasmtime_options: tuple[str, ...],
    dirs: tuple[str, ...],
    variables: tuple[str, ...],
    runtime: str | None,
    python: str | None,
    dialect: str,
    policy: PolicyOptions,
    allow_fallback: bool,
    allow_unknown_imports: bool,
    stats: bool,
    verbose: bool,
    export: str | None,
    files: tuple[str, ...],
    jobs: int | None,
    reactor: bool,
    wasm: tuple[str, ...],
    debug: tuple[str, ...],
    mapdirs: tuple[str, ...],
    volumes: tuple[str, ...],
    max_held: str | None,
    argv0: str | None,
    forward_host_env: bool,
    time_limit: float | None,
    gas_limit: int | None,
    memory_page_limit: int | None,
    statistics: bool,
    json_file: Path | None,
) -> int:
    """Run a guest (.wasm), a core module or a component, with its own ARGS.

    The exit code is the guest's. It is 134 after a trap, 124 after the deadline, 130 after Ctrl-C,
    and 2 for a mistake on the command line. With --each it is 1 if a run has failed, else 0."""
    set_up_logging(verbose)
    asked, nn_graphs = wasmtime_settings(wasmtime_options, wasm, debug)
    # WasmEdge's --time-limit is in milliseconds, and 0 means no limit.
    timeout = _first(time_limit / 1000 if time_limit else None, asked.timeout)
    pages = None if memory_page_limit is None else memory_page_limit * PAGE
    rules = policy.policy(
        {
            "timeout": timeout,
            "memory": _first(pages, asked.memory),
            "fuel": _first(gas_limit, asked.fuel),
            "host_memory": None if max_held is None else size("--max-held", max_held),
            "inherit_network": asked.inherit_network,
            "listen": asked.listen,
        }
    )
    if reactor and export is None:
        if not args:
            raise UsageError("--reactor needs the name of an export after the guest")
        export, args = args[0], args[1:]
    engine = RuntimeName.parse(runtime) if runtime and runtime != "auto" else None
    if python is not None:
        if engine is None:
            raise click.UsageError("--python needs --runtime, the engine that runs there")
        engine = engine.isolated(python)
    host = Host(runtime=engine, policy=rules, allow_fallback=allow_fallback)
    shared = {} if kv_memory is None else {"kv-memory": size("--kv-memory", kv_memory)}
    kept = KeptModels(models_file, rules.pins)
    for model in named_models(kept, graphs, configs, preloads, nn_graphs):
        host.registry.add(model, defaults=shared)
    host.registry.find = kept.find
    served = {encoding for backend in host.plugins.backends for encoding in backend.encodings}
    policy.check_names(host.models, served)
    for reason in host.registry.missing_libraries():
        if not host.runtime.own_encodings:
            raise UsageError(reason)
    try:
        program = host.program(guest)
    except UsageError as error:
        raise UsageError(f"{error}{_swapped(guest, args, str(error))}") from error
    if argv0 is not None:
        program.name = argv0
    call = None if export in (None, "_start") else call_of(program.exports, export or "", args)
    inherits = asked.inherit_env or forward_host_env
    preopens = [preopen(text) for text in dirs]
    preopens += [mapped(text) for text in mapdirs]
    preopens += [volume(text) for text in volumes]
    options: RunOptions = {
        "env": environment(variables, inherits),
        "dirs": preopens,
        "dialect": dialect,
        "stats": stats or statistics or json_file is not None,
        "trace": verbose,
        "allow_unknown_imports": allow_unknown_imports or asked.unknown_imports,
    }
    if files:
        if call is not None:
            raise UsageError("--each runs programs, and --invoke calls an export: give one of them")
        from wasi_nn._cli.each import run_each

        code = run_each(program, files, args, options, jobs)
        if stats or statistics:
            from wasi_nn._cli.stats import print_totals

            print_totals(host.statistics())
        if json_file is not None:
            write_json(json_file, {"totals": plain(host.statistics())})
        return code
    if jobs is not None:
        raise UsageError("--jobs is for --each FILE…: without it, there is one run")
    options |= {"invoke": call, "stdin": "inherit", "stdout": "inherit", "stderr": "inherit"}
    result = _run(program, args, options, rules.limits.timeout)
    if result.error is not None:
        complain(str(result.error))
    if call is not None:
        signature = program.exports[call.export]
        kinds = signature.results if signature is not None else ()
        # A call that failed has no results.
        for value, kind in zip(result.values, kinds, strict=False):
            click.echo(shown(value, kind))
    if stats or statistics:
        from wasi_nn._cli.stats import print_stats

        print_stats(result, host.statistics())
    if json_file is not None:
        write_json(json_file, {"run": stats_of(result), "totals": plain(host.statistics())})
    host.close()
    return result.exit_code


def _run(
    program: Program, args: Sequence[str], options: RunOptions, timeout: float | None
) -> RunResult:
    guests: list[Guest] = []
    options["on_start"] = guests.append

    def work() -> RunResult:
        with patience(program.name):
            return program.run(args, **options)

    def interrupt() -> None:
        for guest in guests:
            guest.interrupt()

    return in_thread(work, interrupt, timeout)


def _swapped(guest: Path, args: Sequence[str], said: str) -> str:
    """The right command line if the model and the guest are swapped, or ``""``."""
    try:
        with open(args[0], "rb") as file:
            behind = is_wasm(file.read(4))
    except (IndexError, OSError, ValueError):
        return ""
    swapped = behind and "--graph" in said
    return f": wasi-nn run --graph NAME={guest} {args[0]}" if swapped else ""


def _first(*values: Any) -> Any:
    """The first value that was given."""
    return next((value for value in values if value is not None), None)
