"""A policy in a TOML file. Its keys are the names of the rules, as they are in the log."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wasi_nn import _units
from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import UsageError
from wasi_nn.limits import Limits
from wasi_nn.policy import Policy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What only a run's own policy can have.
_RUNS_ALONE = "loosen"
_LISTS = ("encodings", "models", "targets", "listen", "connect")
_SIZES = ("wasm_bytes", "memory", "host_memory", "output", "model_bytes", "tensor_bytes")
_SECONDS = ("timeout", "compute_timeout", "compute_seconds")


def read(path: str | os.PathLike[str]) -> Policy:
    """Read a policy. Raises ``UsageError``."""
    try:
        found = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the policy {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"the policy {path} is not TOML: {error}") from error
    try:
        return policy_of(found)
    except UsageError as error:
        raise UsageError(f"the policy {path}: {error}") from error


def policy_of(table: Mapping[str, Any]) -> Policy:
    """The policy of a table. Raises ``UsageError``."""
    given = _fields(table, Policy._fields, "")
    for name in _LISTS:
        if name in given and not isinstance(given[name], list):
            raise UsageError(f"{name} is {given[name]!r}, and must be a list of texts")
    if "limits" in given:
        given["limits"] = _limits(given["limits"])
    return Policy(**given).checked()


def _limits(table: object) -> Limits:
    if not isinstance(table, dict):
        raise UsageError(f"limits is {table!r}, and must be a table")
    given = _fields(table, Limits._fields, "limits.")
    for name, value in given.items():
        if isinstance(value, str) and name in (*_SIZES, *_SECONDS):
            unit = _units.size if name in _SIZES else _units.duration
            given[name] = unit(f"limits.{_key(name)}", value)
    return Limits(**given)


def _fields(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> dict[str, Any]:
    keys = {_key(name): name for name in known if name != _RUNS_ALONE}
    for key in table:
        if key not in keys:
            hint = did_you_mean(key, keys) or f"; known: {', '.join(keys)}"
            raise UsageError(f"there is no rule {where + key!r}{hint}")
    return {keys[key]: value for key, value in table.items()}


def _key(name: str) -> str:
    return name.replace("_", "-")
