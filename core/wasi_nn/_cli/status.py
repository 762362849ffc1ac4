"""`wasi-nn plugins` and `wasi-nn doctor`: what is installed, what is missing, and what to do."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import click

from wasi_nn import __version__
from wasi_nn._cli.messages import tell
from wasi_nn._cli.shared_options import is_stdout, json_option, plugin_option, write_json
from wasi_nn._plugin_choice import LEFT_OUT
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
@plugin_option
@json_option("the list")
def plugins(json_file: Path | None) -> int:
    """List the plugins and what the engines can do.

    WASI_NN_PLUGINS=NAME,… in the environment leaves out all other plugins, and no:NAME leaves one
    out."""
    installed = Plugins.installed()
    described = [_described(record) for record in installed.records]
    if json_file is not None:
        write_json(json_file, {"plugins": described, "left_out": installed.left_out})
    if is_stdout(json_file):
        return 0
    lacking = False
    for record in described:
        # A line for each backend and runtime. doctor has the details of what is not usable.
        lines = [
            (f"{_named('backend', each, record)} serves {', '.join(each['encodings'])}", each)
            for each in record["backends"]
        ]
        lines += [
            (_named("runtime", each, record) or "runtime", each) for each in record["runtimes"]
        ]
        for brings, each in lines:
            state = each["detail"] if each["usable"] else each["detail"].partition(";")[0]
            tell(f"{_title(record)}: {brings.lstrip()}; {state}")
            lacking = lacking or not each["usable"]
        if record["error"]:
            tell(f"{_title(record)}: broken: {record['error']}")
            lacking = True
    for name in installed.left_out:
        tell(f"{name}: {LEFT_OUT}")
    if lacking:
        click.echo()
        tell("wasi-nn doctor says what is missing or broken, and what to do.")
    click.echo()
    for row in _engines(installed.runtimes):
        tell(row)
    return 0


def _named(kind: str, item: dict[str, Any], record: dict[str, Any]) -> str:
    """The name of a backend or a runtime, if it is not the plugin's."""
    return "" if item["name"] == record["name"] else f"{kind} {item['name']}"


def _title(record: dict[str, Any]) -> str:
    origin = f"{record['distribution']} {record['version']}".strip()
    return f"{record['name']} ({origin})"


def _described(record: PluginRecord) -> dict[str, Any]:
    """A plugin, its backends and its runtimes, with what is usable."""
    backends, runtimes = [], []
    for backend in record.backends:
        found = availability(backend, deep=True)
        backends.append(
            {
                "name": backend.name,
                "encodings": list(backend.encodings),
                **_state(found),
                "devices": list(found.devices),
            }
        )
    for runtime in record.runtimes:
        features = _features(runtime)
        able = None if features is None else features._asdict()
        state = _state(availability(runtime))
        runtimes.append({"name": runtime.name, **state, "features": able})
    return {
        "name": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "error": record.error,
        "backends": backends,
        "runtimes": runtimes,
    }


def _state(found: Availability) -> dict[str, Any]:
    return {"usable": found.usable, "broken": is_broken(found), "detail": found.detail}


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
@plugin_option
@json_option("the findings")
def doctor(json_file: Path | None) -> int:
    """Check the installation. The exit code is 1 if a plugin is broken or no engine is usable."""
    installed = Plugins.installed()
    described = [_described(record) for record in installed.records]
    items = [one for record in described for one in (*record["backends"], *record["runtimes"])]
    engine = any(one["usable"] for record in described for one in record["runtimes"])
    broken = any(r["error"] for r in described) or any(one["broken"] for one in items)
    code = 0 if engine and not broken else 1
    have = offered()
    if json_file is not None:
        findings = {
            "sound": code == 0,
            "version": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "plugins": described,
            "left_out": installed.left_out,
            # The reason for each part that is missing, or null.
            "sandbox": {part: lacks or None for part, lacks in have._asdict().items()},
        }
        write_json(json_file, findings)
    if is_stdout(json_file):
        return code
    tell(f"Python {platform.python_version()} on {platform.platform()}")
    for record in described:
        if record["error"]:
            origin = f"{record['distribution']} {record['version']}".strip()
            tell(f"[broken]  plugin {record['name']} of {origin}: {record['error']}")
        for one in record["backends"]:
            on = f"; runs on {', '.join(one['devices'])}" if one["devices"] else ""
            tell(f"{_mark(one)} backend {one['name']}: {one['detail']}{on}")
        for one in record["runtimes"]:
            tell(f"{_mark(one)} runtime {one['name']}: {one['detail']}")
    for name in installed.left_out:
        tell(f"[left out] plugin {name}: {LEFT_OUT}")
    for line in sandbox_lines(have, installed.backends):
        tell(line)
    if not engine:
        tell('[broken]  there is no Wasm engine: pip install "wasi-nn[wasmtime]"')
    return code


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


def _mark(item: dict[str, Any]) -> str:
    if item["broken"]:
        return "[broken] "
    return "[ok]     " if item["usable"] else "[missing]"
