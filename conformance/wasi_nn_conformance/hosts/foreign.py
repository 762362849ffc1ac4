"""Anybody's host: a command line with placeholders, from the command line or a file."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn_conformance.dialects import DIALECTS, WIT
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.graphs import SUFFIXES, GraphSet, put_folder
from wasi_nn_conformance.hosts import Job
from wasi_nn_conformance.hosts.command import Command
from wasi_nn_conformance.script import Unsupported

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = {"name": str, "command": str, "version": str, "encodings": list, "dialects": list}


class ForeignHost(Command):
    """A host that a table describes. ``table`` has the keys of the file.

    In ``command``, ``{module}`` is the guest and ``{args}`` its arguments, and ``{graphs}`` the
    folder that the guest sees as ``/graphs``. What is between ``[`` and ``]`` repeats for each
    named graph, with ``{name}``, ``{encoding}``, ``{paths}`` (with commas), ``{path}`` (the first)
    and ``{folder}`` (a folder of that name with ``model.onnx``, as wasmtime takes it). Raises
    ``UsageError`` if the table is wrong."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        for key, value in table.items():
            if key not in _KEYS:
                raise UsageError(f"there is no key {key!r}; known: {', '.join(_KEYS)}")
            if not isinstance(value, _KEYS[key]):
                raise UsageError(f"{key} must be a {_KEYS[key].__name__}")
        self.table = table
        words = _words(table.get("command", ""))
        if not words or "{module}" not in words:
            raise UsageError("command must name a program and the argument {module}")
        self._before, self._each, self._after = _parts(words)
        self.program = words[0]
        self.name = "native-" + table.get("name", Path(self.program).name)
        self._encodings = _known("encoding", table.get("encodings", [*SUFFIXES]), [*SUFFIXES])
        self._dialects = _known("dialect", table.get("dialects", ["witx"]), [*DIALECTS, WIT.name])
        # A mistake in a placeholder is found here, and not in each case.
        self._expand(words, dict.fromkeys(_PLACEHOLDERS, ""), ())

    @classmethod
    def parse(cls, text: str) -> ForeignHost:
        """The description that ``str()`` of one gives."""
        return cls(json.loads(text))

    @classmethod
    def read(cls, path: Path) -> ForeignHost:
        """The description in a TOML file. Raises ``UsageError`` if it has none."""
        try:
            return cls(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, UsageError) as error:
            raise UsageError(f"{path} is not a description: {error}") from None

    def __str__(self) -> str:
        return json.dumps(dict(self.table))

    def path(self) -> str | None:
        found = shutil.which(self.program)
        return str(Path(found).absolute()) if found else None

    def unavailable(self) -> str | None:
        return None if self.path() else f"there is no program {self.program!r}"

    def version(self) -> str:
        line = _words(self.table.get("version", f"{shlex.quote(self.program)} --version"))
        try:
            ended = subprocess.run(line, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        said = (ended.stdout or ended.stderr).strip().splitlines()
        return said[0] if said and ended.returncode == 0 else ""

    def encodings(self) -> frozenset[str]:
        return self._encodings

    def dialects(self) -> frozenset[str]:
        return self._dialects

    def line(self, job: Job, graphs: GraphSet, scratch: Path) -> Sequence[str]:
        if job.configs or job.network:
            raise Unsupported("a description gives no configuration and no network to a guest")
        values = {"graphs": str(graphs.folder), "module": str(job.module)}
        line = self._expand(self._before, values, job.args)
        for name, graph in {**{n: n for n in graphs.files}, **job.models}.items():
            paths = [str(path) for path in graphs.files[graph]]
            folder = put_folder(graphs, graph, scratch / name)
            one = {"name": name, "paths": ",".join(paths), "path": paths[0], "folder": str(folder)}
            line += self._expand(self._each, {**values, **one, "encoding": graphs.encoding}, ())
        line += self._expand(self._after, values, job.args)
        return [str(self.path()), *line[1:]]

    @staticmethod
    def _expand(words: Sequence[str], values: Mapping[str, str], args: Sequence[str]) -> list[str]:
        line: list[str] = []
        for word in words:
            if word == "{args}":
                line += args
                continue
            try:
                line.append(word.format(**values))
            except (LookupError, ValueError, AttributeError, TypeError) as error:
                raise UsageError(f"command: {word!r} has no such placeholder: {error}") from None
        return line


_PLACEHOLDERS = ("graphs", "module", "name", "encoding", "paths", "path", "folder")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a command line: {error}") from None


def _parts(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """What is before, in and after the brackets."""
    if "[" not in words and "]" not in words:
        return list(words), [], []
    if words.count("[") != 1 or words.count("]") != 1 or words.index("[") > words.index("]"):
        raise UsageError("command must have one [ and one ] after it, each a word of its own")
    start, end = words.index("["), words.index("]")
    return list(words[:start]), list(words[start + 1 : end]), list(words[end + 1 :])


def _known(what: str, given: Sequence[Any], known: Sequence[str]) -> frozenset[str]:
    for name in given:
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}; known: {', '.join(known)}")
    return frozenset(given)
