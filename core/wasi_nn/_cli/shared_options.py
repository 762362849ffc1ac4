"""Options that several commands have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wasi_nn._plugin_choice import CHOICE
from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from wasi_nn._host.result import RunResult

_Complete = Callable[[click.Context, click.Parameter, str], Any]
F = TypeVar("F", bound=Callable[..., Any])


def leave_out(text: str) -> None:
    """Leave a plugin out of this process and of those that it starts: ``no:NAME``. Raises
    ``UsageError`` for another text."""
    if not text.startswith("no:") or "," in text:
        raise UsageError(f"-p takes no:NAME, the plugin to leave out, not {text!r}")
    os.environ[CHOICE] = f"{os.environ.get(CHOICE, '')},{text}"


def _each(context: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> None:
    for text in () if context.resilient_parsing else texts:
        leave_out(text)


def values(kind: str) -> _Complete:
    """A function of ``_cli.completion``, which is imported when the shell asks."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
        from wasi_nn._cli import completion

        return getattr(completion, kind)(context, parameter, incomplete)

    return complete


plugin_option = click.option(
    "-p",
    multiple=True,
    metavar="no:NAME",
    expose_value=False,
    callback=_each,
    shell_complete=values("plugins"),
    help="Leave this plugin out (see WASI_NN_PLUGINS).",
)


def check_writable(file: Path) -> None:
    """Raise ``UsageError`` for a report that could not be written after the work is done."""
    if is_stdout(file):
        return
    if file.is_dir():
        raise UsageError(f"cannot write {file}: it is a folder")
    if not file.parent.is_dir():
        raise UsageError(f"cannot write {file}: there is no folder {file.parent}")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UsageError(f"cannot write {file}: permission denied")


def _writable(context: click.Context, _: click.Parameter, file: Path | None) -> Path | None:
    if file is not None and not context.resilient_parsing:
        check_writable(file)
    return file


def json_option(what: str) -> Callable[[F], F]:
    """``--json FILE``, which becomes the argument ``json_file``."""
    return click.option(
        "--json",
        "json_file",
        type=click.Path(path_type=Path),
        callback=_writable,
        metavar="FILE",
        help=f"Write {what} as JSON; - is stdout.",
    )


def write_json(file: Path, content: object) -> None:
    """Write ``content`` to a file, or to stdout for ``-``."""
    import json

    # Escapes of JSON keep every character of foreign texts harmless in a terminal.
    text = json.dumps(content, indent=2)
    if str(file) == "-":
        click.echo(text)
    else:
        file.write_text(text + "\n", encoding="utf-8")


def stats_of(result: RunResult) -> dict[str, Any]:
    """A run, without what it printed."""
    return {
        "exit_code": result.exit_code,
        "error": None if result.error is None else str(result.error),
        "dialect": result.dialect,
        "seconds": plain(result.timings),
        "calls": {
            name: {
                "calls": calls.calls,
                "failures": calls.failures,
                "seconds": calls.seconds,
                "longest": calls.longest,
            }
            for name, calls in result.calls.items()
            if calls.calls
        },
        "failed": result.failed,
        "refused": dict(result.refused),
        "graphs": plain(result.graphs),
        "generation": plain(result.generation),
    }


def plain(value: Any) -> Any:
    """``value`` with objects for named tuples, as JSON has them."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # (JSON has no infinity: the last bound of a histogram.)
    return value if isinstance(value, (int, float, type(None))) else str(value)


def is_stdout(file: Path | None) -> bool:
    return file is not None and str(file) == "-"
