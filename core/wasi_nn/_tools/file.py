"""Tools in a TOML file, with the host that they run in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn._host.host import Host
from wasi_nn._models import catalogue
from wasi_nn._models.spec import resolve_path
from wasi_nn._policy.file import policy_of
from wasi_nn._suggestion import did_you_mean
from wasi_nn._tools.tool import Tool
from wasi_nn.errors import UsageError, WasiNnError
from wasi_nn.policy import Policy
from wasi_nn.runtime import Preopen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = ("runtime", "policy", "models", "tools")
_TEXTS = ("description", "input", "export", "allocator", "output")
_TABLES = ("env", "dirs", "parameters", "policy")
# As in --dir.
_READONLY = ":readonly"
_TOOL = ("guest", *_TEXTS, "args", "required", *_TABLES)


def read(path: str | os.PathLike[str]) -> tuple[Host, list[Tool]]:
    """The tools of a file, and their host. Raises ``UsageError``."""
    file = Path(path)
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the tools {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"the tools {file} are not TOML: {error}") from error
    try:
        return _made(found, file)
    except WasiNnError as error:
        raise UsageError(f"the tools {file}: {error}") from error


def _made(found: Mapping[str, Any], file: Path) -> tuple[Host, list[Tool]]:
    _known(found, _KEYS, "")
    runtime = found.get("runtime")
    host = Host(runtime=runtime, policy=policy_of(_table(found, "policy", "")))
    try:
        models = catalogue.entries(found.get("models", {}), file)
        kept = catalogue.Catalogue(file, models)
        for entry in models.values():
            host.registry.add(entry.named(kept.fetch(entry).paths))
        tables = _table(found, "tools", "")
        if not tables:
            raise UsageError("there are no tools: write [tools.NAME] with a guest")
        return host, [_tool(host, name, table, file) for name, table in tables.items()]
    except BaseException:
        host.close()
        raise


def _tool(host: Host, name: str, table: object, file: Path) -> Tool:
    where = f"tools.{name}"
    if not isinstance(table, dict):
        raise UsageError(f"{where} is {table!r}, and must be a table")
    _known(table, _TOOL, f"{where}.")
    guest = table.get("guest")
    if not isinstance(guest, str):
        raise UsageError(f"{where}.guest is {guest!r}, and must be the path of a guest (.wasm)")
    for key in _TEXTS:
        if key in table and not isinstance(table[key], str):
            raise UsageError(f"{where}.{key} is {table[key]!r}, and must be a text")
    options = {key: table[key] for key in _TEXTS if key in table}
    for key in ("args", "required"):
        given = table.get(key, [])
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise UsageError(f"{where}.{key} is {given!r}, and must be a list of texts")
    dirs = [
        _preopen(inside, outside, file, where)
        for inside, outside in _table(table, "dirs", f"{where}.").items()
    ]
    try:
        policy = policy_of(_table(table, "policy", f"{where}."))
        _check_models(policy, host.models)
        return Tool(
            host,
            _absolute(guest, file),
            name=name,
            args=table.get("args", []),
            input_schema=_schema(table, where),
            policy=policy,
            env=_table(table, "env", f"{where}.") or None,
            dirs=dirs,
            **options,
        )
    except WasiNnError as error:
        raise UsageError(f"{where}: {error}") from error


def _preopen(inside: str, outside: object, file: Path, where: str) -> Preopen:
    if not isinstance(outside, str):
        raise UsageError(f"{where}.dirs has {outside!r}, and must map guest paths to paths")
    path = outside.removesuffix(_READONLY)
    host = resolve_path(_absolute(path, file))
    return Preopen(host, inside, path == outside)


def _schema(table: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    if "parameters" not in table:
        if "required" in table:
            raise UsageError(f"{where}.required needs parameters")
        return None
    properties = _table(table, "parameters", f"{where}.")
    for name, inner in properties.items():
        if not isinstance(inner, dict):
            raise UsageError(f"{where}.parameters.{name} is {inner!r}, and must be a table")
    required = [name for name, inner in properties.items() if "default" not in inner]
    return {
        "type": "object",
        "properties": properties,
        "required": table.get("required", required),
        "additionalProperties": False,
    }


def _check_models(policy: Policy, known: Sequence[str]) -> None:
    for name in policy.models or ():
        if name not in known:
            hint = did_you_mean(name, known) or f"; write [models.{name}]"
            raise UsageError(f"policy.models has {name!r}, which is not a model here{hint}")


def _absolute(path: str, file: Path) -> str:
    """A path is meant as seen from the file."""
    return path if path.startswith("package:") else str(file.parent / Path(path).expanduser())


def _table(table: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{where}{key} is {value!r}, and must be a table")
    return value


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            hint = did_you_mean(key, keys) or f"; known: {', '.join(keys)}"
            raise UsageError(f"there is no key {where + key!r}{hint}")
