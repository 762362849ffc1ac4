"""`wasi-nn inspect`: what a guest or a model is, and whether this installation can run it."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from wasi_nn._abi.component.versions import PACKAGE
from wasi_nn._abi.core.detection import detect_dialect
from wasi_nn._abi.core.dialects import EPHEMERAL, LEGACY
from wasi_nn._cli.messages import complain, set_up_logging, tell
from wasi_nn._cli.progress import patience
from wasi_nn._cli.shared_options import is_stdout, json_option, plugin_option, write_json
from wasi_nn._host.host import Host
from wasi_nn._models import recognition
from wasi_nn._models.registry import detect, missing
from wasi_nn._models.spec import resolve_path
from wasi_nn.backend.config import Config, parse
from wasi_nn.encodings import AUTODETECT
from wasi_nn.errors import LinkError, NnError, UsageError, WasiNnError
from wasi_nn.runtime.engine import WASI_MODULES
from wasi_nn.types import TensorInfo
from wasi_nn.wasm import component as wasm_component
from wasi_nn.wasm import module as wasm_module
from wasi_nn.wasm.component import RUN

EXAMPLES = """Examples:

\b
  wasi-nn inspect guest.wasm
  wasi-nn inspect guest.wasm model.onnx
  wasi-nn inspect model.xml model.bin
  wasi-nn inspect --config '{"signature": "encode"}' model.tflite
"""


class Report:
    """What is said of one file: lines for the reader, and facts for ``--json``."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.facts: dict[str, Any] = {}

    def line(self, title: str, text: str, **facts: Any) -> None:
        """Print a line, and keep its facts: by default, the text under the title."""
        self.facts |= facts or {title.replace(" ", "_"): text}
        if not self.quiet:
            tell(f"{title + ':':<14} {text}")


# The file name of a part of a split GGUF model.
_PART = re.compile(r"(.*)-\d{5}(-of-\d{5}\.gguf)")


@click.command(epilog=EXAMPLES, no_args_is_help=True)
@click.argument("files", nargs=-1, required=True)
@json_option("what is found, a list with an object for each block,")
@plugin_option
@click.option("--config", default="", metavar="JSON", help="The config to load models with.")
def inspect(files: tuple[str, ...], config: str, json_file: Path | None) -> int:
    """Show what guests (.wasm) and models are, and whether this installation can run them.

    Prints a block for each file. The weights after an OpenVINO model belong to its block, and so do
    the later parts of a split GGUF model. The exit code is 0 if all can run, 1 if one cannot, and
    2 if one cannot be read."""
    set_up_logging(brief=True)
    settings = parse(config)
    code = 0
    found: list[dict[str, Any]] = []
    with Host() as host:
        blocks = _blocks(host, files)
        for number, names in enumerate(blocks):
            report = Report(quiet=is_stdout(json_file))
            if len(blocks) > 1:
                if not report.quiet:
                    click.echo("\n" * bool(number), nl=False)
                report.line("file", ", ".join(names))
            report.facts = {"files": names}
            found.append(report.facts)
            try:
                paths = [resolve_path(name) for name in names]
                runnable = _inspect(report, host, paths, settings)
            except BrokenPipeError:
                raise  # It is our output's, not the file's.
            except (WasiNnError, OSError) as error:
                sys.stdout.flush()
                which = "" if names[0] in str(error) else f"{names[0]}: "
                complain(f"{which}{error}")
                report.facts |= {"runs_here": None, "error": str(error)}
                code = 2
            else:
                report.facts["runs_here"] = runnable
                code = max(code, 0 if runnable else 1)
    if json_file is not None:
        write_json(json_file, found)
    return code


def _blocks(host: Host, files: Sequence[str]) -> list[list[str]]:
    """The files of each guest and of each model."""
    blocks: list[list[str]] = []
    before: str | None = None
    for file in _weights_last(files):
        try:
            path = resolve_path(file)
            encoding = detect(host.plugins, [path])
            is_guest = _is_guest(path)
        except (WasiNnError, OSError):
            # The block says why.
            before = None
            blocks.append([file])
            continue
        weights = encoding is None and before == "openvino" and len(blocks[-1]) == 1
        if blocks and ((weights and not is_guest) or _same_model(blocks[-1][0], file)):
            blocks[-1].append(file)
        else:
            blocks.append([file])
            before = encoding
    return blocks


def _weights_last(files: Sequence[str]) -> list[str]:
    """The files with weights after their model. A shell sorts model.bin before model.xml."""

    def place(numbered: tuple[int, str]) -> tuple[int, bool]:
        number, file = numbered
        model = f"{file.removesuffix('.bin')}.xml"
        weights = file.endswith(".bin") and model in files
        return (files.index(model) if weights else number), weights

    return [file for _, file in sorted(enumerate(files), key=place)]


def _same_model(first: str, second: str) -> bool:
    parts = [_PART.fullmatch(file) for file in (first, second)]
    return first != second and all(parts) and len({part and part.groups() for part in parts}) == 1


def _is_guest(path: Path) -> bool:
    with path.open("rb") as file:
        return wasm_module.is_wasm(file.read(8))


def _inspect(report: Report, host: Host, paths: Sequence[Path], config: Config) -> bool:
    try:
        is_guest = not paths[0].is_dir() and _is_guest(paths[0])
        guest = paths[0].read_bytes() if is_guest else None
    except OSError as error:
        raise UsageError(f"cannot read {paths[0]}: {error.strerror}") from error
    if guest is None:
        return _inspect_model(report, host, paths, config)
    return _inspect_guest(report, host, guest, paths[0])


def _inspect_guest(report: Report, host: Host, data: bytes, path: Path) -> bool:
    if wasm_module.is_component(data):
        return _inspect_component(report, host, data, path)
    module = wasm_module.parse(data)
    inferred = detect_dialect(module)
    report.line("kind", f"core module, {_entry(module)}")
    imported: dict[str, list[str]] = {}
    for name in (EPHEMERAL, LEGACY):
        functions = sorted(module.imported(name))
        if functions:
            imported[name] = functions
            report.line("imports", f"{name}: {', '.join(functions)}", imports=imported)
    others = sorted({item.module for item in module.imports} - {EPHEMERAL, LEGACY})
    report.line("also imports", ", ".join(others) or "nothing", also_imports=others)
    sockets = sorted(
        item.name
        for item in module.imports
        if item.module in WASI_MODULES and item.name.startswith("sock_")
    )
    if sockets:
        report.line("sockets", ", ".join(sockets), sockets=sockets)
    needs = list(_options(module))
    for option in needs:
        report.line("may need", option, may_need=needs)
    if inferred.candidates:
        likely, *others = (dialect.name for dialect in inferred.candidates)
        maybe = f" (or {', '.join(others)}: its tensors will tell)" if others else ""
        report.line(
            "dialect",
            f"{likely}{maybe}, because {inferred.evidence}",
            dialects=[likely, *others],
            evidence=inferred.evidence,
        )
        named = [e for e in inferred.candidates[0].encodings.values() if e != AUTODETECT]
        report.line("encodings", f"can name {', '.join(named)}", encodings=named)
        _served(report, host, named)
    else:
        report.line(
            "dialect", f"none: {inferred.evidence}", dialects=[], evidence=inferred.evidence
        )
    if module.is_command:
        return _starts_here(report, host, data, path)
    callable_ = [name for name in module.functions if name != "_initialize"]
    for name in callable_:
        text = f"{name}{module.signatures[name] or ''}"
        report.line("export", text, exports=[*report.facts.get("exports", ()), text])
    if not callable_:
        report.line("starts here", f"no: {wasm_module.no_command(module)}")
        return False
    report.line("call one with", f"wasi-nn run --invoke NAME {path} [NUMBER...]")
    return _starts_here(report, host, data, path, " by --invoke")


def _options(module: wasm_module.WasmFile) -> Iterator[str]:
    """What the guest may need of the command that runs it."""
    names = {item.name for item in module.imports if item.module in WASI_MODULES}
    if names & {"sock_bind", "sock_bind_v2", "sock_listen", "sock_listen_v2"}:
        yield "--listen ADDRESS:PORT to bind a socket"
    elif "sock_accept" in names:
        yield "--listen ADDRESS:PORT for each socket that it accepts connections at"
    if names & {"sock_connect", "sock_connect_v2", "sock_send_to", "sock_send_to_v2"}:
        yield "--connect HOST:PORT to reach another host"
    elif "sock_getaddrinfo" in names:
        yield "--connect HOST:PORT to resolve a name"
    if "path_open" in names:
        yield "--dir HOST::GUEST to open files"


def _served(report: Report, host: Host, named: Sequence[str]) -> None:
    """Which encodings have a backend whose library is installed, and what the others lack."""
    why: dict[str, str | None] = {}
    for backend in host.plugins.backends:
        lacks = missing(backend)
        for encoding in backend.encodings:
            if lacks is None or encoding not in why:
                why[encoding] = lacks
    served = [encoding for encoding in named if why.get(encoding, "") is None]
    report.line("served here", ", ".join(served) or "none of them", served_here=served)
    others: dict[str, list[str]] = {}
    for encoding in named:
        if encoding not in served:
            reason = why.get(encoding) or "no plugin has a backend for it"
            others.setdefault(reason, []).append(encoding)
    for reason, encodings in others.items():
        report.line("not here", f"{', '.join(encodings)}: {reason}", not_here=others)


def _entry(module: wasm_module.WasmFile) -> str:
    if "_start" in module.functions:
        return "a command"
    return (
        "a command (its start section)"
        if module.has_start
        else "not a command: it exports no _start"
    )


def _inspect_component(report: Report, host: Host, data: bytes, path: Path) -> bool:
    component = wasm_component.parse(data)
    entry = "a command" if component.is_command else f"not a command: it does not export {RUN}"
    report.line("kind", f"component, {entry}")
    nn = [name for name in component.imports if name.startswith(PACKAGE)]
    report.line("imports", ", ".join(nn) or "no wasi:nn", imports=nn)
    others = [name for name in component.imports if name not in nn]
    report.line("also imports", ", ".join(others) or "nothing", also_imports=others)
    if not component.is_command:
        report.line("starts here", f"no: {wasm_component.no_command(component)}")
        return False
    return _starts_here(report, host, data, path)


def _starts_here(report: Report, host: Host, data: bytes, path: Path, how: str = "") -> bool:
    try:
        program = host.program(data)
        program.name = path.name
        with patience(program.name):
            # Link first: a missing import should be reported before minutes of compiling.
            program.link()
            program.compile()
    except (LinkError, UsageError) as error:
        report.line("starts here", f"no: {error}")
        return False
    report.line("starts here", f"yes,{how} on {host.runtime.name}")
    return True


def _inspect_model(report: Report, host: Host, files: Sequence[Path], config: Config) -> bool:
    encoding = detect(host.plugins, files)
    if encoding is None:
        return _inspect_unknown(report, files)
    report.line("kind", "model")
    report.line("encoding", encoding)
    log = logging.getLogger("wasi_nn")
    # Failures are in the report, so do not log them too.
    log.disabled = True
    try:
        lacks = missing(host.plugins.backend_for(encoding))
        if lacks is not None:
            report.line("loads here", f"no: {lacks}")
            return False
        model = host.load(*files, config=config)
        report.line(
            "loaded by",
            f"{model.backend} in {model.load_seconds * 1e3:.1f} ms",
            loaded_by=model.backend,
            load_seconds=model.load_seconds,
        )
        for title, infos in (("input", model.inputs), ("output", model.outputs)):
            report.facts[f"{title}s"] = [_tensor(info) for info in infos]
            for index, info in enumerate(infos):
                also = f" (also {', '.join(info.aliases)})" if info.aliases else ""
                tensors = report.facts[f"{title}s"]
                report.line(f"{title} {index}", info.describe() + also, **{f"{title}s": tensors})
        for key, values in model.choices.items():
            hint = f" (choose with {json.dumps({key: values[-1]})})" if len(values) > 1 else ""
            choices = {**report.facts.get("choices", {}), key: list(values)}
            report.line(key, ", ".join(values) + hint, choices=choices)
    except NnError as error:
        report.line("loads here", f"no: {error}")
        return False
    finally:
        log.disabled = False
    return True


def _inspect_unknown(report: Report, files: Sequence[Path]) -> bool:
    found = recognition.look(files[0])
    report.line("kind", found.what if found else "unknown")
    report.line("encoding", "not recognised")
    if found is None:
        report.line("runs here", f"no: {recognition.undetected(files)}")
    else:
        advice = found.advice or found.for_guest
        report.line("runs here", f"no: {advice}" if advice else "no")
    return False


def _tensor(info: TensorInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "type": None if info.type is None else str(info.type),
        "native_type": info.native_type,
        "dimensions": None if info.dims is None else list(info.dims),
        "aliases": list(info.aliases),
    }
