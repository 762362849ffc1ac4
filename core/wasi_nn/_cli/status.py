"""`wasi-nn plugins` and `wasi-nn doctor`: what is installed, what is missing, and what to do."""

from __future__ import annotations

import platform

import click

from wasi_nn._cli.messages import tell
from wasi_nn._sandbox import Offered, offered
from wasi_nn.backend import Backend
from wasi_nn.plugins import PluginRecord, Plugins, availability, check_engine, is_broken
from wasi_nn.runtime import Runtime, RuntimeFeatures
from wasi_nn.types import Availability

# Titles of the engines' features.
_TITLES = {
    "components": "component ABI",
    "wasi": "WASI",
    "zero_copy_memory": "memory",
    "interrupt": "deadline",
}

# What holds for a worker, by the part of the sandbox.
_HOLDS = Offered(
    files="a worker opens only its model and its libraries, and writes nothing",
    network="a worker has no network",
    system_calls="a worker starts no programs and processes, and reaches no others",
    memory="a worker's private memory can be limited",
)


@click.command()
def plugins() -> int:
    """List the plugins and what the engines can do."""
    installed = Plugins.installed()
    for record in installed.records:
        brings = [f"backend {b.name} ({', '.join(b.encodings)})" for b in record.backends]
        brings += [f"runtime {r.name}" for r in record.runtimes]
        origin = f"{record.distribution} {record.version}".strip()
        title = f"{record.name} ({origin}): {', '.join(brings) or 'nothing'}"
        usable, trouble = _states(record)
        tell("; ".join([title, *usable]))
        for state in trouble:
            tell(f"  {state}")
    click.echo()
    for row in _engines(installed.runtimes):
        tell(row)
    return 0


def _states(record: PluginRecord) -> tuple[list[str], list[str]]:
    """The usable libraries of a plugin, and its problems."""
    if record.error:
        return [], [f"broken: {record.error}"]
    found = [availability(backend, deep=True) for backend in record.backends]
    found += [availability(runtime) for runtime in record.runtimes]
    return (
        [one.detail for one in found if one.usable],
        [f"unavailable: {one.detail}" for one in found if not one.usable],
    )


def _engines(runtimes: list[Runtime]) -> list[str]:
    """A table with a column for each engine. Names are never cut."""
    rows = [["engine", *(runtime.name for runtime in runtimes)]]
    known = [_features(runtime) for runtime in runtimes]
    for number, field in enumerate(RuntimeFeatures._fields):
        able = [_able(field, found[number]) if found else "?" for found in known]
        rows.append([_TITLES.get(field, field.replace("_", " ")), *able])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _features(runtime: Runtime) -> RuntimeFeatures | None:
    try:
        check_engine(runtime)
    except (Exception, SystemExit):
        return None  # (Its availability says why.)
    return runtime.features


def _able(field: str, value: bool) -> str:
    if field == "zero_copy_memory":
        return "view" if value else "copy"
    return "yes" if value else "no"


@click.command()
def doctor() -> int:
    """Check the installation. The exit code is 1 if a plugin is broken or no engine is usable."""
    tell(f"Python {platform.python_version()} on {platform.platform()}")
    installed = Plugins.installed()
    sound = True
    for record in installed.records:
        if record.error:
            sound = False
            origin = f"{record.distribution} {record.version}".strip()
            tell(f"[broken]  plugin {record.name} of {origin}: {record.error}")
        for backend in record.backends:
            found = availability(backend, deep=True)
            sound = sound and not is_broken(found)
            on = f"; runs on {', '.join(found.devices)}" if found.devices else ""
            tell(f"{_mark(found)} backend {backend.name}: {found.detail}{on}")
        for runtime in record.runtimes:
            found = availability(runtime)
            sound = sound and not is_broken(found)
            tell(f"{_mark(found)} runtime {runtime.name}: {found.detail}")
    for line in sandbox_lines(
        offered(), [b for record in installed.records for b in record.backends]
    ):
        tell(line)
    if not any(availability(runtime).usable for runtime in installed.runtimes):
        sound = False
        tell('[broken]  there is no Wasm engine: pip install "wasi-nn[wasmtime]"')
    return 0 if sound else 1


def sandbox_lines(have: Offered, backends: list[Backend]) -> list[str]:
    """What restricts the processes that guests' models run in, and what follows if parts miss."""
    parts = zip(have._fields, have, _HOLDS, strict=True)
    lines = [
        f"{'[missing]' if missing else '[ok]     '} sandbox {part.replace('_', ' ')}: "
        f"{missing or holds}"
        for part, missing, holds in parts
    ]
    programs = sorted({one for b in backends if b.models_are_programs for one in b.encodings})
    if not have.complete and programs:
        lines.append(
            f"          guests may not bring models of {', '.join(programs)}, which are programs, "
            "unless the policy has unsandboxed_programs = true"
        )
    return lines


def _mark(found: Availability) -> str:
    if is_broken(found):
        return "[broken] "
    return "[ok]     " if found.usable else "[missing]"
