"""`wasi-nn models`: named models of one's own, and their downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from wasi_nn._cli.downloads import DownloadRow
from wasi_nn._cli.messages import complain, set_up_logging, tell
from wasi_nn._cli.shared_options import is_stdout, json_option, values, write_json
from wasi_nn._models import catalogue as models_file
from wasi_nn._models import digests
from wasi_nn._models.catalogue import Catalogue, Entry
from wasi_nn._models.registry import Registry
from wasi_nn._models.sources.url import is_remote
from wasi_nn._policy.values import digest as digest_of
from wasi_nn._units import shown_size
from wasi_nn.backend import files as model_files
from wasi_nn.backend.config import parse
from wasi_nn.errors import ModelNotFound, NnError, UsageError
from wasi_nn.plugins import Plugins

EXAMPLES = """Examples:

\b
  wasi-nn models add net model.onnx
  wasi-nn models add net https://example.org/net.xml https://example.org/net.bin
  wasi-nn models add chat hf://HuggingFaceTB/SmolLM2-135M-Instruct-GGUF/smollm2-135m-q4_k_m.gguf
  wasi-nn run guest.wasm net
"""

_file_option = click.option(
    "--models-file",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The models file. Default: what WASI_NN_MODELS_FILE names, or the user's.",
)
_names_argument = click.argument(
    "names", nargs=-1, metavar="[NAME]...", shell_complete=values("named_models")
)


@click.group(no_args_is_help=True, epilog=EXAMPLES)
def models() -> None:
    """Keep models under names, which guests load by their names.

    They stand in a models file. wasi-nn run finds them there, and downloads what --graph NAME
    names."""
    set_up_logging(brief=True)


@models.command(no_args_is_help=True, epilog=EXAMPLES)
@click.argument("name")
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--with",
    "beside",
    multiple=True,
    metavar="URL",
    help="A further file that the library looks for beside the model.",
)
@click.option("--encoding", default="autodetect", metavar="NAME", help="The model's encoding.")
@click.option("--target", default="cpu", show_default=True, help="The execution target.")
@click.option("--config", default="", metavar="JSON", help="The model's config.")
@click.option("--isolation", metavar="KIND", help="Where it runs: none, shared or guest.")
@click.option(
    "--digest", metavar="sha256:…", help="Refuse other files. Default: those that are found now."
)
@click.option("--replace", is_flag=True, help="Download it again, and take the name's place.")
@_file_option
def add(
    name: str,
    sources: tuple[str, ...],
    beside: tuple[str, ...],
    encoding: str,
    target: str,
    config: str,
    isolation: str | None,
    digest: str | None,
    replace: bool,
    file: Path | None,
) -> int:
    """Keep a model under NAME. A SOURCE is a path, package:PKG/FILE, or a URL (https, hf, s3,
    file); give several for a model of several files, in order."""
    place = tuple(map(_absolute, sources)), tuple(map(_absolute, beside))
    pin = digest_of(digest) if digest else None
    entry = Entry(name, *place, pin, encoding, target, parse(config), isolation).checked()
    here = models_file.existing(file)
    _check_free(here, name, replace)
    fetched = here.fetch(entry, DownloadRow(), again=replace)
    registry = Registry(Plugins.installed())
    registry.add(entry.named(fetched.paths))
    registry.check_digest(name)
    pin = pin or registry.digest(name)
    licence = None if fetched.cached is None else fetched.cached.licence
    # (Not around the download: others may add models meanwhile.)
    with models_file.editing(file) as (catalogue, change):
        _check_free(catalogue, name, replace)
        change(name, entry._replace(digest=pin, licence=licence))
    parts = [registry.kind(name)[0], shown_size(registry.size(name))]
    parts += [f"licence {licence}"] if licence else []
    tell(f"{name}: {', '.join(parts)}, {pin}")
    return 0


def _check_free(catalogue: Catalogue, name: str, replace: bool) -> None:
    if name in catalogue.models and not replace:
        raise UsageError(f"there is a model {name!r} already: --replace puts this one in its place")


def _absolute(source: str) -> str:
    # A path is meant as seen from here, and the file is somewhere else.
    local = "://" not in source and not source.startswith("package:")
    return str(Path(source).expanduser().absolute()) if local else source


@models.command("list")
@json_option("the list")
@_file_option
def list_models(json_file: Path | None, file: Path | None) -> int:
    """List the models, their sizes, and what the downloads take."""
    catalogue = models_file.existing(file)
    cache = catalogue.cache
    described = [_described(catalogue, entry) for entry in catalogue.models.values()]
    named = {entry.key for entry in catalogue.models.values()}
    entries = cache.entries()
    others = [one for one in entries if one.key not in named]
    taken = sum(one.size for one in entries)
    if json_file is not None:
        downloads = {
            "folder": str(cache.folder),
            "size": taken,
            "most": cache.most,
            "without_name": [{"sources": list(one.sources), "size": one.size} for one in others],
        }
        where = None if catalogue.path is None else str(catalogue.path)
        write_json(json_file, {"file": where, "models": described, "downloads": downloads})
    if is_stdout(json_file):
        return 0
    for model in described:
        size = "" if model["size"] is None else f"{shown_size(model['size'])}, "
        licence = f", licence {model['licence']}" if model["licence"] else ""
        tell(f"{model['name']}: {size}{model['state']}{licence}, {', '.join(model['files'])}")
    if not described:
        tell(f"{catalogue.path} has no models: wasi-nn models add NAME SOURCE adds one")
    for one in others:
        what = ", ".join(one.sources) or "a download that is not complete"
        tell(f"(without a name: {shown_size(one.size)}, {what})")
    tell(f"The downloads take {shown_size(taken)} of {shown_size(cache.most)} in {cache.folder}.")
    return 0


def _described(catalogue: Catalogue, entry: Entry) -> dict[str, Any]:
    size, state = None, "here"
    try:
        fetched = catalogue.present(entry)
        if fetched is None:
            state = f"not downloaded (wasi-nn models fetch {entry.name})"
        else:
            size = sum(one.size for path in fetched.paths for one in model_files.versions(path))
    except (UsageError, ModelNotFound) as error:
        state = f"missing: {error}"
    return {
        "name": entry.name,
        "files": list(entry.sources),
        "encoding": entry.encoding,
        "target": entry.target,
        "digest": entry.digest,
        "licence": entry.licence,
        "size": size,
        "state": state,
    }


@models.command(no_args_is_help=True)
@_names_argument
@_file_option
def remove(names: tuple[str, ...], file: Path | None) -> int:
    """Remove models, and their downloads. Of a URL, remove a download that has no name."""
    with models_file.editing(file) as (catalogue, change):
        urls = [name for name in names if is_remote(name)]
        gone = [catalogue.entry(name) for name in names if name not in urls]
        rest = {one.key for one in catalogue.models.values() if one not in gone}
        for entry in gone:
            change(entry.name, None)
    cache = catalogue.cache
    for one in cache.entries():
        of_url = any(url in one.sources for url in urls) and one.key not in rest
        if of_url or one.key in {entry.key for entry in gone} - rest:
            if not cache.remove(one.key):
                complain(f"{', '.join(one.sources)} is being downloaded now, and stays")
            urls = [url for url in urls if url not in one.sources]
    if urls:
        raise UsageError(f"there is no download of {', '.join(urls)} without a name")
    return 0


@models.command()
@_names_argument
@_file_option
def fetch(names: tuple[str, ...], file: Path | None) -> int:
    """Download the models that are not here: those of the NAMEs, or all."""
    catalogue = models_file.read(file)
    for entry in _chosen(catalogue, names):
        catalogue.fetch(entry, DownloadRow())
    return 0


@models.command()
@_names_argument
@json_option("the findings")
@_file_option
def verify(names: tuple[str, ...], json_file: Path | None, file: Path | None) -> int:
    """Compare the files of the models with their digests: those of the NAMEs, or all. The exit
    code is 1 if one is missing or has changed."""
    catalogue = models_file.read(file)
    registry = Registry(Plugins.installed())
    findings = []
    for entry in _chosen(catalogue, names):
        reason = _wrong(catalogue, registry, entry)
        findings.append({"name": entry.name, "sound": reason is None, "reason": reason})
        if not is_stdout(json_file):
            tell(f"{entry.name}: {reason or 'as it was added'}")
    if json_file is not None:
        write_json(json_file, findings)
    return 0 if all(one["sound"] for one in findings) else 1


def _wrong(catalogue: Catalogue, registry: Registry, entry: Entry) -> str | None:
    try:
        fetched = catalogue.present(entry)
        if fetched is None:
            return f"not downloaded: wasi-nn models fetch {entry.name}"
        digests.forget()
        registry.add(entry.named(fetched.paths))
        if entry.digest is None:
            return "the models file has no digest: wasi-nn models add --replace records one"
        registry.check_digest(entry.name)
    except (NnError, UsageError) as error:
        return f"{error}; wasi-nn models add --replace {entry.name} … takes the present files"
    return None


def _chosen(catalogue: Catalogue, names: Sequence[str]) -> Sequence[Entry]:
    if not names:
        return list(catalogue.models.values())
    return [catalogue.entry(name) for name in names]
