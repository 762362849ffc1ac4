"""The models file: the named models of the operator, for every host that is told to read it.

A TOML file with a table for each model::

    cache-size = "20G"

    [models.net]
    files = ["https://example.org/net.onnx"]
    digest = "sha256:…"
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn import _units, encodings
from wasi_nn._models.batching import settings as batching
from wasi_nn._models.registry import NamedModel
from wasi_nn._models.sources.cache import DEFAULT_SIZE, Cache, key_of
from wasi_nn._models.sources.fetching import Fetched, Teller, fetch
from wasi_nn._models.sources.url import is_remote, scheme_of
from wasi_nn._policy import values
from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import InvalidArgument, InvalidEncoding, UsageError
from wasi_nn.types import ExecutionTarget

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Names another models file. Empty: there is none.
VARIABLE = "WASI_NN_MODELS_FILE"
_KEYS = ("files", "beside", "digest", "encoding", "target", "config", "isolation", "licence")
_HEADER = re.compile(r"\s*\[\s*models\s*\.\s*(?:\"([^\"]+)\"|'([^']+)'|([\w-]+))\s*\]")
_NAME = re.compile(r"[^\s=:,/\\\"']+")


class Entry(NamedTuple):
    """A model of the file. ``files`` are the sources of its graph builders, and ``beside`` those of
    further files that its library looks for in their folder. ``digest`` is a pin (see
    ``Policy``)."""

    name: str
    files: tuple[str, ...]
    beside: tuple[str, ...] = ()
    digest: str | None = None
    encoding: str = encodings.AUTODETECT
    target: str = "cpu"
    config: Mapping[str, Any] = {}
    isolation: str | None = None
    licence: str | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Of all files, in the order in which they are downloaded."""
        return (*self.files, *self.beside)

    @property
    def key(self) -> str | None:
        """Of its entry in the cache. None if all files are local."""
        urls = [source for source in self.sources if is_remote(source)]
        return key_of(urls) if urls else None

    def checked(self) -> Entry:
        """This entry. Raises ``UsageError`` for a value that a model cannot have."""
        check_name(self.name)
        try:
            if not self.files:
                raise UsageError("it has no files")
            if self.beside and not all(map(is_remote, self.sources)):
                raise UsageError("files beside others are downloaded with them: give URLs alone")
            encodings.canonical(self.encoding)
            ExecutionTarget.named(self.target)
            batching.settings_of(self.config)
            if self.digest is not None:
                values.digest(self.digest)
            if self.isolation is not None:
                values.isolation(self.isolation)
        except (UsageError, InvalidArgument, InvalidEncoding) as error:
            raise UsageError(f"the model {self.name!r}: {error}") from error
        return self

    def named(self, paths: Sequence[Path]) -> NamedModel:
        """The model to register, of the paths of its sources."""
        return NamedModel(
            self.name,
            tuple(paths[: len(self.files)]),
            encodings.canonical(self.encoding),
            ExecutionTarget.named(self.target),
            self.config,
            self.isolation,
            self.digest,
        )


class Catalogue(NamedTuple):
    """What a models file says. ``cache_size`` is in bytes."""

    path: Path | None
    models: Mapping[str, Entry] = {}
    cache_size: int = DEFAULT_SIZE

    @property
    def cache(self) -> Cache:
        """The downloads of the user, in which these models are kept."""
        keys = {entry.key for entry in self.models.values()}
        return Cache(None, self.cache_size, {key for key in keys if key})

    def entry(self, name: str) -> Entry:
        """The model of a name. Raises ``UsageError``."""
        found = self.models.get(name)
        if found is None:
            where = f" in {self.path}" if self.path else ""
            hint = did_you_mean(name, self.models) or "; wasi-nn models list has all"
            raise UsageError(f"there is no model {name!r}{where}{hint}")
        return found

    def fetch(self, entry: Entry, teller: Teller = Teller(), again: bool = False) -> Fetched:
        """The files of a model, downloaded where they are not here. Raises ``UsageError``."""
        try:
            return fetch(entry.sources, self.cache, entry.digest, teller, again)
        except UsageError as error:
            raise type(error)(f"model {entry.name!r}: {error}") from error

    def present(self, entry: Entry) -> Fetched | None:
        """The files of a model if they are here. Raises ``UsageError`` for a package that is not
        there."""
        key = entry.key
        if key is not None and self.cache.find(key) is None:
            return None
        return fetch(entry.sources, self.cache)


def place(given: Path | None = None) -> Path | None:
    """The models file: ``given``, or what ``WASI_NN_MODELS_FILE`` names, or the user's. None if
    there must be none."""
    if given is not None:
        return given
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named).expanduser() if named else None
    import platformdirs

    return Path(platformdirs.user_config_dir("wasi-nn", appauthor=False)) / "models.toml"


def read(given: str | os.PathLike[str] | None = None) -> Catalogue:
    """Read the models file. Without ``given``, a file that does not exist has no models. Raises
    ``UsageError``, with what to do."""
    path = place(None if given is None else Path(given))
    if path is None:
        return Catalogue(None)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if given is None:
            return Catalogue(path)
        raise UsageError(f"there is no models file {path}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the models file {path}: {reason}") from error
    try:
        return _parsed(path, text)
    except UsageError as error:
        raise UsageError(f"the models file {path}: {error}") from error


def existing(given: Path | None) -> Catalogue:
    """The same, and no models for a file that does not exist."""
    path = place(given)
    return read(path) if path is not None and path.exists() else Catalogue(path)


def check_name(name: str) -> str:
    """Raise ``UsageError`` for a name that could not be written in ``--graph``."""
    if not name or not _NAME.fullmatch(name) or not name.isprintable():
        raise UsageError(f"{name!r} is not a name for a model: use letters, digits, - and _")
    return name


def _parsed(path: Path, text: str) -> Catalogue:
    try:
        found = tomllib.loads(text)
    except ValueError as error:
        raise UsageError(_twice(text) or f"it is not TOML: {error}") from error
    _known(found, ("models", "cache-size"), "")
    size: object = found.get("cache-size", DEFAULT_SIZE)
    if isinstance(size, str):
        size = _units.size("cache-size", size)
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise UsageError(f"cache-size is {size!r}, and must be a size such as '20G'")
    return Catalogue(path, entries(found.get("models", {}), path), size)


def entries(tables: object, path: Path) -> dict[str, Entry]:
    """The models of the table ``models`` in the file at ``path``. Raises ``UsageError``."""
    named = _table("models", tables)
    return {name: _entry(name, _table(f"models.{name}", it), path) for name, it in named.items()}


def _entry(name: str, table: Mapping[str, Any], path: Path) -> Entry:
    _known(table, _KEYS, f"models.{name}.")
    for key, value in table.items():
        what = f"models.{name}.{key} is {value!r}"
        if key in ("files", "beside"):
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise UsageError(f"{what}, and must be a list of texts")
        elif key == "config":
            _table(f"models.{name}.config", value)
        elif not isinstance(value, str):
            raise UsageError(f"{what}, and must be a text")
    fields = dict(table)
    for key in ("files", "beside"):
        # A path is meant as seen from the file.
        fields[key] = tuple(_absolute(source, path.parent) for source in table.get(key, ()))
    return Entry(name, **fields).checked()


def _absolute(source: str, folder: Path) -> str:
    if scheme_of(source) is not None or source.startswith("package:"):
        return source
    return str(folder / Path(source).expanduser())


def _table(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{what} is {value!r}, and must be a table")
    return value


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            hint = did_you_mean(key, keys) or f"; known: {', '.join(keys)}"
            raise UsageError(f"there is no key {where + key!r}{hint}")


def _twice(text: str) -> str | None:
    """What to do if a name is there twice, which TOML forbids."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            name = next(group for group in header.groups() if group)
            if name in lines:
                return (
                    f"it has two models {name!r}, in lines {lines[name]} and {number}: remove one "
                    "of them, or give it another name"
                )
            lines[name] = number
    return None


@contextmanager
def editing(given: Path | None) -> Iterator[tuple[Catalogue, Callable[[str, Entry | None], None]]]:
    """Change the models file, alone: the catalogue, and a function that sets or removes (None) a
    model. What the user wrote, comments too, stays as it is. Written at the end of the block."""
    import tomlkit
    from filelock import FileLock

    path = place(given)
    if path is None:
        raise UsageError(f"{VARIABLE} is empty, so there is no models file: name one")
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), mode=0o600)
        lock.acquire()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        catalogue = existing(path)
        document = tomlkit.parse(path.read_text("utf-8") if path.exists() else "")
        changes: dict[str, Entry | None] = {}
        yield catalogue, changes.__setitem__
        if not changes:
            return
        if "models" not in document:
            document["models"] = tomlkit.table(is_super_table=True)
        models: Any = document["models"]
        for name, entry in changes.items():
            if entry is None:
                del models[name]
            else:
                models[name] = _written(entry)
        _replace(path, tomlkit.dumps(document))
    finally:
        lock.release()


def _written(entry: Entry) -> dict[str, Any]:
    """An entry's table, without what is as by default."""
    defaults = Entry("", ())._asdict()
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in entry._asdict().items()
        if key != "name" and value != defaults[key]
    }


def _replace(path: Path, text: str) -> None:
    """Write a file that nobody sees half, and that only the user can read."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
