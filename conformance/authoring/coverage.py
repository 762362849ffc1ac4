"""Write docs/coverage.md: which functions and values of the specification the cases check."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi_nn_conformance import case, graphs, running
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.dialects import DIALECTS, TARGETS, WIT
from wasi_nn_conformance.script import Unsupported

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"
#: The specification's functions, in the order of its document, and then WasmEdge's.
FUNCTIONS = (
    *("load", "load_by_name", "init_execution_context", "set_input", "compute", "get_output"),
    *("load_by_name_with_config", "compute_single", "get_output_single", "fini_single"),
    *("unload", "finalize_execution_context"),
)
# What a case without a wrong call is about, if its source names no function.
_FILES = {
    "init": "init_execution_context",
    "names": "load_by_name",
    "types": "set_input",
    "outputs": "get_output",
    "handles": "init_execution_context",
    "flow": "compute",
    "ggml": "compute",
    "wasmedge": "load_by_name_with_config",
    "legacy": "get_output",
}
# Each way to call, with the dialects that decide whether a case applies to it.
_WAYS = {
    "core": tuple(name for name in DIALECTS if name != running.LEGACY),
    "legacy": (running.LEGACY,),
    "component": (WIT.name,),
}

_HEAD = """\
# What the conformance cases check

There are {count} [cases](conformance.md#cases). By the kind of guest: {ways}. A core guest has
the functions of the specification's witx, or WasmEdge's. A legacy one has WAMR's module `wasi_nn`.
For a component, `compute` of `wasi:nn` takes the inputs and gives the outputs.

`make cases` writes this page.

## Functions and results

The number of cases that expect a result of a function. Of several right results, each counts.
"""


def page(cases: Sequence[Case]) -> str:
    """The page."""
    ways = (
        f"{sum(_applies(one, dialects=names) for one in cases)} {way}"
        for way, names in _WAYS.items()
    )
    lines = _HEAD.format(count=len(cases), ways=", ".join(ways)).split("\n")
    results = _results(cases)
    found = [
        name
        for name in ("success", *DIALECTS["witx"].errnos)
        if any(results[f][name] for f in FUNCTIONS)
    ]
    lines += _row("function", *(name.replace("_", " ") for name in found))
    lines.append("|---|" + "---:|" * len(found))
    for function in FUNCTIONS:
        counts = (str(results[function][name] or "") for name in found)
        lines += _row(f"[{function}](#{function})", *counts)
    lines += ["", "No case expects: " + ", ".join(_unexpected(results)) + ".", "", "## Values", ""]
    lines += [
        "The number of cases that use a value.",
        "",
        "| kind | value | cases |",
        "|---|---|---:|",
    ]
    for kind, values in _values(cases).items():
        for value, count in values.items():
            lines += _row(kind, value, str(count or "none"))
    lines += _sections(cases)
    return "\n".join(lines) + "\n"


def calls(one: Case) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The calls of a case's steps: a function, and the names of its right results."""
    for step in one.steps:
        expected = step.get("is", "success")
        names = (expected,) if isinstance(expected, str) else tuple(expected)
        if "call" in step:
            yield step["call"], names
        elif "open" in step:
            yield "load_by_name", ("success",)
            yield "init_execution_context", ("success",)
        elif "load" in step:
            yield "load", names
            if names == ("success",):
                yield "init_execution_context", names
        elif "set" in step:
            yield "set_input", names
        elif "compute" in step:
            yield "compute", names
        elif "get" in step:
            yield "get_output_single" if step.get("single") else "get_output", names


def subjects(one: Case) -> list[str]:
    """The functions that a case is about: those that it calls wrongly, or else those that its
    source names."""
    wrong = {function for function, names in calls(one) if "success" not in names}
    words = one.source.replace(",", " ").split()
    named = {word for word in words if word in FUNCTIONS}
    found = wrong or named or {_FILES.get(one.id.partition("/")[0], one.id.partition("/")[0])}
    return [function for function in FUNCTIONS if function in found]


def _results(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    results = {f: dict.fromkeys(("success", *DIALECTS["witx"].errnos), 0) for f in FUNCTIONS}
    for one in cases:
        for function, name in {(f, name) for f, names in calls(one) for name in names}:
            results[function][name] += 1
    return results


def _unexpected(results: Mapping[str, Mapping[str, int]]) -> list[str]:
    names = dict.fromkeys(DIALECTS["witx"].errnos)
    return [f"`{name}`" for name in names if not any(counts[name] for counts in results.values())]


def _values(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    """How many cases use each tensor type, encoding and target."""
    kinds = dict.fromkeys((*DIALECTS["witx"].tensor_types, *WIT.tensor_types))
    encodings = dict.fromkeys(DIALECTS["witx"].encodings)
    used = [_used(one) for one in cases]
    return {
        "tensor type": {kind: sum(f"type {kind}" in words for words in used) for kind in kinds},
        "encoding": {
            name: sum(
                f"encoding {name}" in words or (bool(one.graphs) and _applies(one, [name]))
                for one, words in zip(cases, used, strict=True)
            )
            for name in encodings
        },
        "target": {name: sum(f"target {name}" in words for words in used) for name in TARGETS},
    }


def _used(one: Case) -> set[str]:
    """The tensor types, encodings and targets that the steps name."""
    used = set()
    for step in one.steps:
        if ("set" in step and "values" in step) or "tensor" in step:
            used.add(f"type {step.get('tensor', step).get('type', 'f32')}")
        if "load" in step:
            used.add(f"target {TARGETS[0]}")
        if step.get("call") == "load" and step["args"][-2] in range(len(TARGETS)):
            used.add(f"target {TARGETS[step['args'][-2]]}")
        for word in (step.get("encoding", ""), *step.get("args", ())):
            if str(word).startswith("$encoding."):
                used.add(f"encoding {word[10:]}")
            if str(word).startswith("$target."):
                used.add(f"target {word[8:]}")
    return used


def _sections(cases: Sequence[Case]) -> Iterator[str]:
    programs = [one for one in cases if one.program is not None]
    for function in FUNCTIONS:
        yield from ("", f"## {function}", "")
        yield from _table(one for one in cases if not one.program and function in subjects(one))
    yield from ("", "## Programs", "", "Guests that do a whole task.", "")
    yield from _table(one for one in programs if not one.id.startswith("sockets/"))
    yield from ("", "## Sockets", "", "WasmEdge's functions for sockets.", "")
    yield from _table(one for one in programs if one.id.startswith("sockets/"))


def _table(cases: Iterator[Case]) -> Iterator[str]:
    yield from _row("rule", "case", "version", "source", *_WAYS)
    yield "|---|---|---:|---|" + ":-:|" * len(_WAYS)
    for one in cases:
        ways = ("✓" if _applies(one, dialects=names) else "" for names in _WAYS.values())
        yield from _row(one.why, f"`{one.id}`", str(one.version), one.source, *ways)


def _applies(
    one: Case,
    encodings: Sequence[str] = tuple(graphs.SUFFIXES),
    dialects: Sequence[str] = (*DIALECTS, WIT.name),
) -> bool:
    for encoding in encodings:
        files = graphs.canonical(encoding)
        for dialect in dialects:
            try:
                running.prepare(one, files, dialect)
            except Unsupported:
                continue
            return True
    return False


def _row(*cells: Any) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"]


if __name__ == "__main__":
    PAGE.write_text(page(case.load()), encoding="utf-8")
