"""`wasi-nn inspect`: what a guest or a model is, and whether this installation can run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from wasi_nn import wasmfile
from wasi_nn.abi.dialects import EPHEMERAL, LEGACY
from wasi_nn.abi.inference import infer
from wasi_nn.abi.wit_words import PACKAGE
from wasi_nn.encodings import AUTODETECT
from wasi_nn.errors import LinkError, UsageError
from wasi_nn.escaping import visible
from wasi_nn.host import Host
from wasi_nn.modelspec import resolve_path
from wasi_nn.program import no_command
from wasi_nn.registry import detect

EXAMPLES = """Examples:

\b
  wasi-nn inspect guest.wasm
  wasi-nn inspect model.onnx
  wasi-nn inspect model.xml model.bin
"""


@click.command(epilog=EXAMPLES, no_args_is_help=True)
@click.argument("files", nargs=-1, required=True)
def inspect(files: tuple[str, ...]) -> int:
    """Show what a guest (.wasm) or a model is, and whether this installation can run it.

    The exit code is 0 when it can and 1 when it cannot."""
    paths = [resolve_path(name) for name in files]
    try:
        with paths[0].open("rb") as file:
            head = file.read(8)
            guest = head + file.read() if wasmfile.is_wasm(head) else None
    except OSError as error:
        raise UsageError(f"cannot read {paths[0]}: {error.strerror}") from error
    runnable = _inspect_model(paths) if guest is None else _inspect_guest(guest)
    return 0 if runnable else 1


def _inspect_guest(data: bytes) -> bool:
    if wasmfile.is_component(data):
        return _inspect_component(data)
    module = wasmfile.parse(data)
    inferred = infer(module)
    _line("kind", f"core module, {_entry(module)}")
    for name in (EPHEMERAL, LEGACY):
        functions = sorted(module.imported(name))
        if functions:
            _line("imports", f"{name}: {', '.join(functions)}")
    others = sorted({item.module for item in module.imports} - {EPHEMERAL, LEGACY})
    _line("also imports", ", ".join(others) or "nothing")
    host = Host()
    if inferred.candidates:
        likely, *others = (dialect.name for dialect in inferred.candidates)
        maybe = f" (or {', '.join(others)}: its tensors will tell)" if others else ""
        _line("dialect", f"{likely}{maybe}, because {inferred.evidence}")
        named = [e for e in inferred.candidates[0].encodings.values() if e != AUTODETECT]
        served = {e for backend in host.plugins.backends for e in backend.encodings}
        _line("encodings", f"can name {', '.join(named)}")
        _line("served here", ", ".join(e for e in named if e in served) or "none of them")
    else:
        _line("dialect", f"none: {inferred.evidence}")
    if not module.is_command:
        _line("run", no_command(module))
    return _starts_here(host, data)


def _entry(module: wasmfile.WasmFile) -> str:
    if "_start" in module.functions:
        return "a command"
    return "a command (its start section)" if module.has_start else "not a command"


def _inspect_component(data: bytes) -> bool:
    imports = wasmfile.component_imports(data)
    _line("kind", "component")
    nn = [name for name in imports if name.startswith(PACKAGE)]
    _line("imports", ", ".join(nn) or "no wasi:nn")
    _line("also imports", ", ".join(name for name in imports if name not in nn) or "nothing")
    return _starts_here(Host(), data)


def _starts_here(host: Host, data: bytes) -> bool:
    try:
        host.compile(data).link()
    except (LinkError, UsageError) as error:
        _line("starts here", f"no: {error}")
        return False
    _line("starts here", f"yes, on {host.runtime.name}")
    return True


def _inspect_model(files: Sequence[Path]) -> bool:
    host = Host()
    encoding = detect(host.plugins, files)
    _line("kind", "model")
    _line("encoding", encoding or "not recognised")
    if encoding is None:
        return False
    model = host.load(*files)
    _line("loaded by", f"{model.backend} in {model.load_seconds * 1e3:.1f} ms")
    for index, info in enumerate(model.inputs):
        _line(f"input {index}", info.describe())
    for index, info in enumerate(model.outputs):
        _line(f"output {index}", info.describe())
    return True


def _line(title: str, text: str) -> None:
    click.echo(f"{title + ':':<14} {visible(text)}")
