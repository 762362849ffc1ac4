"""One of wasi-testsuite's adapters, for hosts that take named models as wasmtime does.

WASI_NN_HOST is the command that runs a guest, by default `wasi-nn run --dialect {dialect}`. In it,
{dialect} is the dialect of the suite. For wasmtime it is `wasmtime run -S nn`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

_HOST = shlex.split(os.environ.get("WASI_NN_HOST", "wasi-nn run --dialect {dialect}"))


def get_name() -> str:
    return Path(_HOST[0]).name


def get_version() -> str:
    ended = subprocess.run(
        [_HOST[0], "--version"], encoding="UTF-8", capture_output=True, check=True
    )
    return ended.stdout.split()[1]


def get_wasi_versions() -> list[str]:
    return ["wasm32-wasip1"]


def get_wasi_worlds() -> list[str]:
    return ["wasi:cli/command"]


def get_timeout_seconds() -> float:
    return 60.0


def compute_argv(
    test_path: str,
    args_env_root: tuple[list[str], dict[str, str], str | None],
    proposals: list[str],
    wasi_world: str,
    wasi_version: str,
) -> list[str]:
    args, env, root = args_env_root
    suite = Path(test_path).parent
    encoding, _, dialect = suite.name.partition("-")
    line = [word.replace("{dialect}", dialect) for word in _HOST]
    for model in sorted((suite / "named").iterdir()):
        line += ["-S", f"nn-graph={encoding}::{model}"]
    for key, value in env.items():
        line += ["--env", f"{key}={value}"]
    if root:
        line += ["--dir", f"{root}::/"]
    return [*line, test_path, *args]
