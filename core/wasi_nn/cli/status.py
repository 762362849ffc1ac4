"""`wasi-nn plugins` and `wasi-nn doctor`: what is here, what is not, and what to do about it."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import click

from wasi_nn.backend import Availability
from wasi_nn.escaping import visible
from wasi_nn.plugins import PluginRecord, Plugins, availability
from wasi_nn.runtime import Runtime, RuntimeFeatures

if TYPE_CHECKING:
    from rich.table import Table


# What people call the engines' features.
_TITLES = {
    "core": "core ABI",
    "components": "component ABI",
    "wasi": "WASI",
    "zero_copy_memory": "memory",
    "interrupt": "deadline",
}


@click.command()
def plugins() -> int:
    """List the plugins and what the engines can do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    installed = Plugins.installed()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, pad_edge=False)
    for title in ("plugin", "from", "brings", "state"):
        table.add_column(title)
    for record in installed.records:
        brings = [f"backend {b.name} ({', '.join(b.encodings)})" for b in record.backends]
        brings += [f"runtime {r.name}" for r in record.runtimes]
        table.add_row(
            # As Text: in a plain string rich takes [openvino] for markup.
            Text(visible(record.name)),
            Text(visible(f"{record.distribution} {record.version}".strip())),
            Text(visible(", ".join(brings)) or "-"),
            Text(visible("; ".join(_states(record)))),
        )
    console.print(table)
    console.print()
    console.print(_engines(installed.runtimes))
    return 0


def _states(record: PluginRecord) -> list[str]:
    if record.error:
        return [f"broken: {record.error}"]
    found = [availability(backend) for backend in record.backends]
    found += [availability(runtime) for runtime in record.runtimes]
    return [a.detail if a.usable else f"unavailable: {a.detail}" for a in found]


def _engines(runtimes: list[Runtime]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("engine")
    for field in RuntimeFeatures._fields:
        table.add_column(_TITLES.get(field, field.replace("_", " ")))
    for runtime in runtimes:
        table.add_row(runtime.name, *map(_able, RuntimeFeatures._fields, runtime.features))
    return table


def _able(field: str, value: bool) -> str:
    if field == "zero_copy_memory":
        return "view" if value else "copy"
    return "yes" if value else "no"


@click.command()
def doctor() -> int:
    """Check the installation; exit code 1 when a plugin is broken or no engine is there."""
    click.echo(f"Python {platform.python_version()} on {platform.platform()}")
    installed = Plugins.installed()
    sound = True
    for record in installed.records:
        if record.error:
            sound = False
            click.echo(
                f"[broken]  plugin {record.name} of {record.distribution} {record.version}: "
                f"{record.error}"
            )
        for backend in record.backends:
            found = availability(backend)
            on = f"; runs on {', '.join(found.devices)}" if found.devices else ""
            click.echo(f"{_mark(found)} backend {backend.name}: {found.detail}{on}")
            if found.risk:
                click.echo(f"          {found.risk}")
        for runtime in record.runtimes:
            found = availability(runtime)
            click.echo(f"{_mark(found)} runtime {runtime.name}: {found.detail}")
    if not any(availability(runtime).usable for runtime in installed.runtimes):
        sound = False
        click.echo('[broken]  there is no Wasm engine: pip install "wasi-nn[wasmtime]"')
    return 0 if sound else 1


def _mark(found: Availability) -> str:
    return "[ok]     " if found.usable else "[missing]"
