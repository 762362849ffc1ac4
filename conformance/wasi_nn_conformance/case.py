"""Cases: short scripts of wasi-nn calls and their expected results. docs/conformance.md explains
the format; cases/schema.json is its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.places import CASES

#: The version of each case and the digest of its test, by id: `make cases`.
VERSIONS = Path(__file__).with_name("versions.json")
#: What says nothing about the test itself.
WORDS = ("name", "why", "source")
CORE, LEGACY = "core", "legacy"
_EXTENSIONS = frozenset(
    "load_by_name_with_config compute_single get_output_single fini_single unload "
    "finalize_execution_context".split()
)
#: Calls whose parameters differ between the two core ABIs.
_OF_CORE = _EXTENSIONS | {"load", "get_output"}


class Case(NamedTuple):
    """``id`` is FILE/NAME, and ``version`` counts its tests. ``encodings`` are those that
    the case applies to (empty: every one that has its graphs). ``dialects`` are patterns of those
    that it applies to (empty: every one)."""

    id: str
    why: str
    source: str
    steps: tuple[dict[str, Any], ...]
    encodings: tuple[str, ...]
    dialects: tuple[str, ...]
    graphs: frozenset[str]
    from_bytes: bool
    extensions: bool
    core_only: bool
    legacy_only: bool
    program: dict[str, Any] | None
    version: int = 1

    def fits(self, dialect: str, legacy: bool) -> bool:
        """Whether the case applies to a dialect."""
        if self.dialects and not any(fnmatch(dialect, pattern) for pattern in self.dialects):
            return False
        return not (self.core_only if legacy else self.legacy_only)


def load(folder: Path = CASES) -> list[Case]:
    """Every case, in the order of the files. Raises ``UsageError`` if one cannot be read."""
    versions = json.loads(VERSIONS.read_text(encoding="utf-8"))
    cases = [_case(name, entry, versions.get(name, (1,))[0]) for name, entry in entries(folder)]
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise UsageError(f"the case {case.id} appears twice")
        seen.add(case.id)
    return cases


def chosen(cases: Sequence[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose ids match one of the patterns; all cases if there are no patterns. Raises
    ``UsageError`` if a pattern matches no case."""
    for pattern in patterns:
        if not any(fnmatch(case.id, pattern) for case in cases):
            raise UsageError(f"no case matches {pattern!r}; see them with --list")
    return [c for c in cases if not patterns or any(fnmatch(c.id, p) for p in patterns)]


def entries(folder: Path = CASES) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the files say of each case, by id. Raises ``UsageError`` if a file has no cases."""
    for path in sorted(folder.glob("*.json")):
        if path.name == "schema.json":
            continue
        try:
            for entry in json.loads(path.read_text(encoding="utf-8"))["cases"]:
                name, _, _ = (entry[word] for word in WORDS)
                yield f"{path.stem}/{name}", entry
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} has no valid cases: {type(error).__name__} {error}"
            ) from error


def _case(name: str, entry: dict[str, Any], version: int) -> Case:
    steps = tuple(entry.get("steps", ()))
    calls = {step["call"] for step in steps if "call" in step}
    calls |= {"get_output_single" for step in steps if step.get("single")}
    graphs = {step[key] for step in steps for key in ("open", "load", "builders") if key in step}
    graphs |= set(entry.get("graphs", ()))
    program = entry.get("program")
    layouts = any("tensor" in step or "builders" in step for step in steps)
    return Case(
        id=name,
        why=entry["why"],
        source=entry["source"],
        steps=steps,
        encodings=tuple(entry.get("encodings", ())),
        dialects=tuple(entry.get("dialects", ())),
        graphs=frozenset(graphs),
        from_bytes=any("load" in step or "builders" in step for step in steps),
        extensions=bool(calls & _EXTENSIONS) or bool(program and program.get("extensions")),
        core_only=entry.get("abi") == CORE
        or (entry.get("abi") != LEGACY and (bool(calls & _OF_CORE) or layouts or bool(program))),
        legacy_only=entry.get("abi") == LEGACY,
        program=program,
        version=version,
    )
