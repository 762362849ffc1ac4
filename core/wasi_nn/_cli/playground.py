"""`wasi-nn playground`: guests and models on a page of the user's browser."""

from __future__ import annotations

import contextlib
import shlex
import threading
from pathlib import Path

import click

from wasi_nn._cli.messages import tell
from wasi_nn._models.spec import parse_graph
from wasi_nn.errors import UsageError

EXAMPLES = """Examples:

\b
  wasi-nn playground
  wasi-nn playground --graph net=model.onnx classify.wasm name:net input.raw 1,4
"""


@click.command(epilog=EXAMPLES, context_settings={"allow_interspersed_args": False})
@click.argument("guest", required=False, type=click.Path(path_type=Path))
@click.argument("args", nargs=-1)
@click.option(
    "--graph",
    "graphs",
    multiple=True,
    metavar="NAME=PATH",
    help="A named model for the page. PATH may be package:PKG/FILE.",
)
@click.option(
    "--fetch-engines",
    is_flag=True,
    help="First get the engines' larger builds from the npm registry (WebGPU, WebNN).",
)
@click.option("--no-open", is_flag=True, help="Only print the address.")
def playground(
    guest: Path | None,
    args: tuple[str, ...],
    graphs: tuple[str, ...],
    fetch_engines: bool,
    no_open: bool,
) -> int:
    """Open a page that runs guests and models in the browser, until Ctrl-C.

    The page gets GUEST, its ARGS and the models, and takes files that you drop. It works offline,
    and nothing leaves this machine."""
    models = []
    for model in map(parse_graph, graphs):
        if len(model.paths) > 1:
            raise UsageError(f"model {model.name!r}: the page takes models of one file")
        models.append((model.name, model.paths[0]))
    for path in [*([guest] if guest else []), *(path for _, path in models)]:
        if not path.is_file():
            raise UsageError(f"there is no file {path}")
    from wasi_nn_browser import engines
    from wasi_nn_browser.playground import Playground

    if fetch_engines:
        engines.fetch(tell)

    with (
        Playground(guest, models, shlex.join(args)) as served,
        contextlib.suppress(KeyboardInterrupt),
    ):
        tell(f"the playground is at {served.url} until Ctrl-C")
        if not no_open:
            import webbrowser

            webbrowser.open(served.url)
        threading.Event().wait()
    return 0
