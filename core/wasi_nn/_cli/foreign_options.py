"""Accept the command-line options of other hosts.

wasmtime has groups of settings (``-S``, ``-W``, …). WasmEdge, iwasm and wasmer have plain options.
An option that cannot be supported is a ``UsageError`` that says what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from wasi_nn._units import duration
from wasi_nn.errors import UsageError
from wasi_nn.runtime import Preopen

_YES = ("", "y", "yes", "true", "1", "on")
_NO = ("n", "no", "false", "0", "off")
# Settings that every guest has here, and settings that change no answer.
_ALWAYS_ON = {
    *("nn", "cli", "common", "preview0", "preview2", "p3", "cli-exit-with-code"),
    *("inherit-stdin", "inherit-stdout", "inherit-stderr"),
}
# Limits of features that guests do not have here. (Few commands have such an option: both patterns
# are compiled when they are needed.)
_UNUSED_LIMITS = r"max-(resources|component-handles|random-size|http-.*)|hostcall-fuel|http-.*-.*"
# Proposals, and settings that tune an engine.
_FEATURES = (
    r"all-proposals|bulk-memory|exceptions|extended-const|function-references|gc|gc-support|"
    r"memory64|multi-memory|multi-value|reference-types|relaxed-simd.*|simd|tail-call|threads|"
    r"component-model.*|shared-.*|stack-switching|custom-page-sizes|wide-arithmetic|"
    r"branch-hinting|concurrency-support|epoch-interruption|nan-canonicalization|max-wasm-stack|"
    r"async-stack-.*|unknown-exports-allow"
)
_READ_ONLY = ":readonly"


class Settings(NamedTuple):
    """The values set in wasmtime's groups. None means not set."""

    inherit_env: bool = False
    #: What a guest may do on the network, and whether it may import what nobody provides.
    inherit_network: bool | None = None
    listen: tuple[str, ...] = ()
    unknown_imports: bool = False
    timeout: float | None = None
    fuel: int | None = None
    memory: int | None = None


def wasmtime_settings(
    wasi: Sequence[str], wasm: Sequence[str], debug: Sequence[str]
) -> tuple[Settings, list[str]]:
    """Parse ``-S``, ``-W`` and ``-D``. Returns the settings and the texts ``nn-graph=…``. Raises
    ``UsageError``."""
    graphs: list[str] = []
    found = Settings()
    for text in _split(wasi):
        key, _, value = text.partition("=")
        if key == "nn-graph":
            graphs.append(text)
        elif key == "inherit-env":
            found = found._replace(inherit_env=_flag("-S", text))
        elif key == "inherit-network":
            found = found._replace(inherit_network=_flag("-S", text) or None)
        elif key == "tcplisten":
            found = found._replace(listen=(*found.listen, value))
        elif key in _ALWAYS_ON:
            if not _flag("-S", text) and key.startswith("inherit-std"):
                raise UsageError(f"-S {text}: redirect the stream in the shell, as in < /dev/null")
        elif re.fullmatch(_UNUSED_LIMITS, key):
            continue
        elif value not in _NO:
            raise UsageError(
                f"-S takes nn, nn-graph=FORMAT::DIR, cli, common, inherit-env, inherit-network and "
                f"tcplisten=ADDRESS:PORT, not {text!r}: a guest has files (--dir), variables "
                f"(--env), sockets (--listen, --connect) and wasi-nn here"
            )
    for text in _split(wasm):
        key, _, value = text.partition("=")
        if key == "timeout":
            found = found._replace(timeout=duration("-W timeout", value))
        elif key in ("fuel", "max-memory-size"):
            if not value.isdecimal():
                raise UsageError(f"-W {key} takes a number, not {value!r}")
            if key == "fuel":
                found = found._replace(fuel=int(value))
            else:
                found = found._replace(memory=int(value))
        elif key == "unknown-imports-trap":
            found = found._replace(unknown_imports=_flag("-W", text))
        elif not re.fullmatch(_FEATURES, key) and value not in _NO:
            raise UsageError(
                f"-W takes timeout, fuel, max-memory-size and the names of proposals, not "
                f"{text!r}: limits are --timeout, --fuel and --max-memory here"
            )
    for text in _split(debug):
        key, _, value = text.partition("=")
        tunes = key in ("debug-info", "address-map", "symbols", "max-backtrace")
        if not tunes and value not in _NO:
            raise UsageError(f"-D {text} has no meaning here: use -v to see every wasi-nn call")
    return found, graphs


def _split(texts: Sequence[str]) -> list[str]:
    """Split settings at commas, except within the name of an existing folder."""
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
        raise UsageError(f"{option} {key} takes y or n, not {value!r}")
    return value in _YES


def preopen(text: str) -> Preopen:
    """Parse ``HOST``, ``HOST::GUEST`` or WasmEdge's ``GUEST:HOST``, with ``:readonly`` at the end
    for a read-only directory. Raises ``UsageError`` if HOST is not a directory."""
    writable = Path(text).is_dir() or not text.endswith(_READ_ONLY)
    given = text if writable else text[: -len(_READ_ONLY)]
    host, colons, guest = given.partition("::")
    if not colons:
        guest = host
        before, colon, after = given.partition(":")
        if colon and not Path(given).exists():
            guest, host = before, after
    return _directory("--dir", text, host, guest or host, writable)


def mapped(text: str) -> Preopen:
    """Parse ``GUEST::HOST`` (old wasmtime and iwasm) or ``GUEST:HOST`` (wasmer)."""
    guest, colons, host = text.partition("::")
    if not colons:
        guest, colons, host = text.partition(":")
    if not colons or not guest:
        raise UsageError(
            f"--map-dir (--mapdir) takes GUEST::HOST, not {text!r}; --dir takes HOST::GUEST"
        )
    return _directory("--map-dir", text, host, guest, True)


def _directory(option: str, text: str, host: str, guest: str, writable: bool) -> Preopen:
    # An empty path would mean the current directory, which the user has not named.
    if not host or not Path(host).is_dir():
        raise UsageError(f"{option} {text}: there is no directory {host!r}")
    return Preopen(Path(host), guest, writable)


def volume(text: str) -> Preopen:
    """Parse wasmer's ``HOST:GUEST``."""
    host, _, guest = text.partition(":")
    return _directory("--volume", text, host, guest or host, True)


def variables(texts: Sequence[str], inherit: bool) -> dict[str, str]:
    """The guest's environment variables. Raises ``UsageError``."""
    found = dict(os.environ) if inherit else {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--env takes NAME=VALUE or NAME, not {text!r}")
        found[name] = value if equals else os.environ.get(name, "")
    return found


_NETWORK = "write --listen ADDRESS:PORT and --connect HOST:PORT, or --inherit-network"
_MODULES = "a guest is one module here; join modules beforehand (wasm-merge)"
_PACKAGES = "packages are not known here; give the path of a .wasm file"
_DEBUGGING = "guests are not debugged or recorded here; use -v to see every wasi-nn call"
_IMPORTS = "use --allow-unknown-imports: a call of one ends the guest"
# Options and flags that cannot be supported, and what to write instead.
_REFUSED = {
    "--preload": _MODULES,
    "--module-path": _MODULES,
    "--nn-rpc-uri": "models run in this host; name them with --nn-preload or --graph",
    "--cwd": "a guest starts in the directory that you give it: --dir HOST::.",
    "--addr-pool": _NETWORK,
    "--allow-resolve": _NETWORK,
    "--tcplisten": _NETWORK,
    "--command-name": _PACKAGES,
    "-c": _PACKAGES,
    "--registry": _PACKAGES,
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
    "--gdb-server": _DEBUGGING,
    "--coredump-on-trap": _DEBUGGING,
    "--journal": _DEBUGGING,
    "--profile": "use --stats for times and counts",
    "--gen-prof-file": "use --stats for times and counts",
    "--wasi-nn-graph": "write -S nn-graph=FORMAT::DIR or --graph NAME=PATH",
}
_REFUSED_FLAGS = {
    "--net": _NETWORK,
    "--http-client": _NETWORK,
    "--listenfd": _NETWORK,
    "--allow-af-unix": _NETWORK,
    "--allow-command-all": "guests start no commands here",
    "--repl": "use --invoke NAME, once for each call",
    "--trap-unknown-imports": _IMPORTS,
    "--default-values-unknown-imports": _IMPORTS,
}
_WITHOUT_EFFECT = (
    *("-O", "-C", "--optimize", "--codegen", "--opt-level", "--cranelift-set", "--wasm-features"),
    *("--stack-size", "--heap-size", "--gc-heap-size", "--shared-heap-size", "--native-lib"),
    *("--max-threads", "--jit-codecache-size", "--llvm-jit-size-level", "--llvm-jit-opt-level"),
    *("--run-mode", "--cache-config", "--cache-dir", "--static-memory-maximum-size"),
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
    *("--epoch-interruption", "--enable-pass-params", "--enable-verifier", "--enable-segue"),
    *("--enable-linux-perf", "--enable-async-threads", "--quiet", "-q", "--no-tty"),
    *("--disable-logging",),
    *(f"--{way}-{proposal}" for way in ("enable", "disable") for proposal in _PROPOSALS),
)

# Flags that may have a value, which has no effect here.
_VALUE_TO_DROP = ("--enable-segue", "--net", "--http-client")
_RENAMED = {"--wasm-timeout": "--timeout", "--max-memory-size": "--max-memory", "-e": "--invoke"}
# The levels of iwasm's -v=LEVEL (0 to 5) and WasmEdge's --log-level that log every call.
_IWASM_DEBUG = 3
_WASMEDGE_DEBUG = ("trace", "debug")


class ForeignOptionsCommand(click.Command):
    """A command that also takes the options of other hosts: a flag with a value (iwasm's
    ``-v=5``), an option with another name. Arguments after the guest stay unchanged."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name: isinstance(option, click.Option) and not option.is_flag
            for option in self.params
            for name in option.opts
        }
        rest = list(args)
        ours: list[str] = []
        while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
            given = rest.pop(0)
            name, equals, value = given.partition("=")
            name = _RENAMED.get(name, name)
            if name == "--log-level":
                value = value if equals else "".join(rest[:1])
                rest = rest if equals else rest[1:]
                ours += ["-v"] * (value in _WASMEDGE_DEBUG)
            elif name == "-v" and equals:
                if not value.isdecimal():
                    raise UsageError(f"{given}: write -v, or a level as in -v=5")
                ours += ["-v"] * (int(value) >= _IWASM_DEBUG)
            elif name == "--each" and not equals:
                from wasi_nn._cli.each import files_before_guest

                files, rest = files_before_guest(rest)
                ours += [part for file in files for part in ("--each", file)]
            elif name in _VALUE_TO_DROP:
                ours.append(name)
            else:
                ours.append(f"{name}{equals}{value}")
                if takes_value.get(name) and not equals:
                    ours += rest[:1]
                    rest = rest[1:]
        return super().parse_args(ctx, [*ours, *rest])

    def has_option(self, text: str) -> bool:
        """Whether an argument is an option of this command or of another host."""
        name = text.partition("=")[0] if text.startswith("--") else text[:2]
        known = {name for option in self.params for name in option.opts if name.startswith("-")}
        return name in (*known, *_RENAMED, "--log-level")


def _refuse(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value:
        name = option.opts[0]
        raise UsageError(f"{name}: {_REFUSED.get(name) or _REFUSED_FLAGS[name]}")


def accept_others(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of other hosts to a command: those without effect, and those that are
    refused."""
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
