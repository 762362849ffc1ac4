"""Options that the users of other hosts bring, in the words of this command.

wasmtime's are groups of settings (``-S``, ``-W``, …); those of WasmEdge, iwasm and wasmer are
options of their own. What cannot mean anything here is a ``UsageError`` that says what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from wasi_nn.errors import UsageError
from wasi_nn.runtime import Preopen

_YES = ("", "y", "yes", "true", "1", "on")
_NO = ("n", "no", "false", "0", "off")
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "m": 60.0}
# What every guest has here, and what changes no answer.
_HAVE = {
    *("nn", "cli", "common", "preview0", "preview2", "p3", "cli-exit-with-code"),
    *("inherit-stdin", "inherit-stdout", "inherit-stderr"),
}
# Bounds of what guests do not have here.
_BOUNDS = re.compile(
    r"max-(resources|component-handles|random-size|http-.*)|hostcall-fuel|http-.*-.*"
)
# Proposals, and what tunes an engine.
_FEATURES = re.compile(
    r"all-proposals|bulk-memory|exceptions|extended-const|function-references|gc|gc-support|"
    r"memory64|multi-memory|multi-value|reference-types|relaxed-simd.*|simd|tail-call|threads|"
    r"component-model.*|shared-.*|stack-switching|custom-page-sizes|wide-arithmetic|"
    r"branch-hinting|concurrency-support|epoch-interruption|nan-canonicalization|max-wasm-stack|"
    r"async-stack-.*|unknown-exports-allow"
)
_READ_ONLY = ":readonly"


class Settings(NamedTuple):
    """What wasmtime's groups ask for; None where they do not."""

    inherit_env: bool = False
    timeout: float | None = None
    fuel: int | None = None
    memory: int | None = None


def wasmtime_settings(
    wasi: Sequence[str], wasm: Sequence[str], debug: Sequence[str]
) -> tuple[Settings, list[str]]:
    """The settings of ``-S``, ``-W`` and ``-D``, and the ``nn-graph=…`` among them."""
    graphs: list[str] = []
    found = Settings()
    for text in _split(wasi):
        key, _, value = text.partition("=")
        if key == "nn-graph":
            graphs.append(text)
        elif key == "inherit-env":
            found = found._replace(inherit_env=_flag("-S", text))
        elif key in _HAVE:
            if not _flag("-S", text) and key.startswith("inherit-std"):
                raise UsageError(f"-S {text}: redirect the stream in the shell, as in < /dev/null")
        elif _BOUNDS.fullmatch(key):
            continue
        elif value not in _NO:
            raise UsageError(
                f"-S understands nn, nn-graph=FORMAT::DIR, cli, common and inherit-env, not "
                f"{text!r}: a guest has files (--dir), variables (--env) and wasi-nn here"
            )
    for text in _split(wasm):
        key, _, value = text.partition("=")
        if key == "timeout":
            found = found._replace(timeout=_duration(text, value))
        elif key in ("fuel", "max-memory-size"):
            if not value.isdecimal():
                raise UsageError(f"-W {key} wants a number, not {value!r}")
            if key == "fuel":
                found = found._replace(fuel=int(value))
            else:
                found = found._replace(memory=int(value))
        elif not _FEATURES.fullmatch(key) and value not in _NO:
            raise UsageError(
                f"-W understands timeout, fuel, max-memory-size and the names of proposals, not "
                f"{text!r}: limits are --timeout, --fuel and --max-memory here"
            )
    for text in _split(debug):
        key, _, value = text.partition("=")
        tunes = key in ("debug-info", "address-map", "symbols", "max-backtrace")
        if not tunes and value not in _NO:
            raise UsageError(f"-D {text} has no meaning here: say -v for every wasi-nn call")
    return found, graphs


def _split(texts: Sequence[str]) -> list[str]:
    """Settings between commas; a folder whose name has a comma, where there is one."""
    out: list[str] = []
    for text in texts:
        parts = text.split(",")
        while parts:
            part = parts.pop(0)
            if part.startswith("nn-graph="):
                for count in range(len(parts), 0, -1):
                    whole = ",".join([part, *parts[:count]])
                    if Path(whole.partition("::")[2]).is_dir():
                        part, parts = whole, parts[count:]
                        break
            out.append(part)
    return out


def _flag(option: str, text: str) -> bool:
    key, _, value = text.partition("=")
    if value not in (*_YES, *_NO):
        raise UsageError(f"{option} {key} wants y or n, not {value!r}")
    return value in _YES


def _duration(text: str, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|ms|us|µs|ns|m|)", value)
    if found is None or not float(found[1]):
        raise UsageError(f"-W {text}: a timeout is a number of seconds, or as in 500ms")
    return float(found[1]) * _SECONDS[found[2]]


def preopen(text: str) -> Preopen:
    """``HOST``, ``HOST::GUEST`` or WasmEdge's ``GUEST:HOST``; with ``:readonly`` behind it for
    reading only. Raises ``UsageError`` for what is not a directory."""
    writable = Path(text).is_dir() or not text.endswith(_READ_ONLY)
    given = text if writable else text[: -len(_READ_ONLY)]
    host, colons, guest = given.partition("::")
    if not colons:
        guest = host
        before, colon, after = given.partition(":")
        if colon and not Path(given).exists():
            guest, host = before, after
    return _directory("--dir", text, host, guest or host, writable)


def mapped(option: str, text: str) -> Preopen:
    """``GUEST::HOST`` (wasmtime's and iwasm's of old) or ``GUEST:HOST`` (wasmer's)."""
    guest, colons, host = text.partition("::")
    if not colons:
        guest, colons, host = text.partition(":")
    if not colons or not guest:
        raise UsageError(f"{option} wants GUEST::HOST, not {text!r}; --dir takes HOST::GUEST")
    return _directory(option, text, host, guest, True)


def _directory(option: str, text: str, host: str, guest: str, writable: bool) -> Preopen:
    if not Path(host).is_dir():
        raise UsageError(f"{option} {text}: there is no directory {host!r}")
    return Preopen(Path(host), guest, writable)


def volume(text: str) -> Preopen:
    """wasmer's ``HOST:GUEST``."""
    host, _, guest = text.partition(":")
    return _directory("--volume", text, host, guest or host, True)


def variables(texts: Sequence[str], inherit: bool) -> dict[str, str]:
    """The guest's variables. Raises ``UsageError``."""
    found = dict(os.environ) if inherit else {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--env wants NAME=VALUE or NAME, not {text!r}")
        found[name] = value if equals else os.environ.get(name, "")
    return found


_NETWORK = "guests have no network here"
_MODULES = "a guest is one module here; join modules beforehand (wasm-merge)"
_PACKAGES = "packages are not known here; give the path of a .wasm file"
_DEBUGGING = "guests are not debugged or recorded here; say -v for every wasi-nn call"
_IMPORTS = "a guest needs all its imports here; wasi-nn inspect GUEST lists them"
# Options with a value, and flags, that cannot be met, and what to write instead.
_REFUSED = {
    "--preload": _MODULES,
    "--module-path": _MODULES,
    "--nn-rpc-uri": "models run in this host; name them with --nn-preload or --graph",
    "--cwd": "a guest starts in the directory that you give it: --dir HOST::.",
    "--addr-pool": _NETWORK,
    "--allow-resolve": _NETWORK,
    "--tcplisten": _NETWORK,
    "--command-name": _PACKAGES,
    "--use": _PACKAGES,
    "--include-webc": _PACKAGES,
    "--map-command": _PACKAGES,
    "--allow-command": "guests start no commands here",
    "--forbidden-plugin": "uninstall the plugin; wasi-nn plugins lists what is installed",
    "--target": "a guest runs on this machine; leave --target out",
    "--record": _DEBUGGING,
    "-R": _DEBUGGING,
    "--gdbstub": _DEBUGGING,
    "-g": _DEBUGGING,
    "--profile": "say --stats for times and counts",
}
_REFUSED_FLAGS = {
    "--net": _NETWORK,
    "--listenfd": _NETWORK,
    "--allow-af-unix": _NETWORK,
    "--allow-command-all": "guests start no commands here",
    "--repl": "say --invoke NAME, once for each call",
    "--trap-unknown-imports": _IMPORTS,
    "--default-values-unknown-imports": _IMPORTS,
}
_WITHOUT_EFFECT = (
    *("-O", "-C", "--optimize", "--codegen", "--opt-level", "--cranelift-set", "--wasm-features"),
    *("--stack-size", "--heap-size", "--gc-heap-size", "--shared-heap-size", "--native-lib"),
    *("--max-threads", "--jit-codecache-size", "--llvm-jit-size-level", "--llvm-jit-opt-level"),
    *("--run-mode", "--cache-config"),
)
_PROPOSALS = (
    *("all", "simd", "relaxed-simd", "threads", "bulk-memory", "reference-types", "multi-value"),
    *("multi-memory", "memory64", "tail-call", "extended-const", "function-reference", "gc"),
    *("exception-handling", "exceptions", "component", "import-export-mut-globals"),
    *("non-trap-float-to-int", "sign-extension-operators", "wide-arithmetic", "module-linking"),
)
_FLAGS_WITHOUT_EFFECT = (
    *("--force-interpreter", "--enable-jit", "--interp", "--fast-jit", "--llvm-jit"),
    *("--multi-tier-jit", "--allow-precompiled", "--singlepass", "--cranelift", "--llvm", "--v8"),
    *("--wasm-1", "--wasm-2", "--wasm-3", "--enable-coredump", "--coredump-for-wasmgdb"),
    *("--disable-cache", "--disable-parallel-compilation", "--disable-bounds-checks"),
    *("--epoch-interruption", "--enable-pass-params", "--enable-verifier"),
    *(f"--{way}-{proposal}" for way in ("enable", "disable") for proposal in _PROPOSALS),
)


def _refuse(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value:
        name = option.opts[0]
        raise UsageError(f"{name}: {_REFUSED.get(name) or _REFUSED_FLAGS[name]}")


def accept_others(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add, to a command, the options of other hosts that change nothing or cannot be met."""
    for names, is_flag, callback in (
        (_WITHOUT_EFFECT, False, None),
        (_FLAGS_WITHOUT_EFFECT, True, None),
        (_REFUSED, False, _refuse),
        (_REFUSED_FLAGS, True, _refuse),
    ):
        for name in names:
            command = click.option(
                name,
                is_flag=is_flag,
                multiple=not is_flag,
                hidden=True,
                expose_value=False,
                callback=callback,
            )(command)
    return command
