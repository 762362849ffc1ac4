"""Run a case on a host, and judge it."""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

from wasi_nn_conformance import places
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.dialects import WIT
from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.hosts import Job, Subject
from wasi_nn_conformance.script import Script, Unsupported, compile_case
from wasi_nn_conformance.transcript import FAIL, PASS, TIMEOUT, Ending, Verdict, judge

UNSUPPORTED = "unsupported"
LEGACY = "wamr-legacy"


class Result(NamedTuple):
    """The result of a case. ``transcript`` is what the guest printed, ``notes`` what the host
    printed."""

    case: str
    status: str
    reason: str
    seconds: float
    transcript: str = ""
    notes: str = ""


def unsupported(case: Case, graphs: GraphSet, dialect: str) -> str | None:
    """Why a case does not apply to a cell, or None."""
    if case.encodings and graphs.encoding not in case.encodings:
        return f"it applies only to {', '.join(case.encodings)}"
    missing = sorted(case.graphs - graphs.files.keys())
    if missing:
        return f"the encoding has no canonical graph {missing[0]}"
    if not case.fits(dialect, dialect == LEGACY):
        return "it applies only to other dialects"
    if case.program and not places.guest(_guest(case.program, dialect)).exists():
        return "its program is not a component"
    if case.extensions and not dialect.startswith("wasmedge"):
        return "it uses functions that only WasmEdge's dialects have"
    return None


def prepare(case: Case, graphs: GraphSet, dialect: str) -> tuple[Job, Script | None]:
    """The guest to run for a case, and the script that it interprets, if it is the interpreter.
    Raises ``Unsupported`` with the reason."""
    why = unsupported(case, graphs, dialect)
    if why is not None:
        raise Unsupported(why)
    if case.program is not None:
        return _program_job(case.program, dialect), None
    script = compile_case(case, dialect, graphs)
    return Job(places.guest(_interpreter(dialect)), script.text.encode()), script


def run(case: Case, subject: Subject, graphs: GraphSet, dialect: str) -> Result:
    """Run one case and judge it."""
    started = time.perf_counter()

    def result(verdict: Verdict, ending: Ending | None = None) -> Result:
        seconds = time.perf_counter() - started
        if ending is None:
            return Result(case.id, verdict.status, verdict.reason, seconds)
        text = ending.stdout[-20_000:].decode("utf-8", "replace")
        return Result(case.id, *verdict, seconds, text, ending.notes[-4000:])

    try:
        job, script = prepare(case, graphs, dialect)
        ending = subject.run(job)
    except Unsupported as reason:
        return result(Verdict(UNSUPPORTED, str(reason)))
    except TimeoutError:
        return result(Verdict(TIMEOUT, f"it did not end within {job.seconds:g} s"))
    if script is not None:
        return result(judge(script, ending), ending)
    assert case.program is not None
    return result(_judge_program(case.program, ending), ending)


def _interpreter(dialect: str) -> str:
    if dialect == WIT.name:
        return "interpreter-wit"
    if dialect == LEGACY:
        return "interpreter-wamr"
    return "interpreter-wasmedge" if dialect.startswith("wasmedge") else "interpreter"


def _program_job(program: dict[str, Any], dialect: str) -> Job:
    return Job(
        places.guest(_guest(program, dialect)),
        program.get("stdin", "").encode(),
        tuple(program.get("args", ())),
        program.get("models", {}),
        program.get("configs", {}),
        network=program.get("network", False),
    )


def _guest(program: dict[str, Any], dialect: str) -> str:
    return str(program["guest"]) + ("-wit" if dialect == WIT.name else "")


def _judge_program(program: dict[str, Any], ending: Ending) -> Verdict:
    wanted = program.get("exit", 0)
    text = ending.stdout.decode("utf-8", "replace")
    if ending.exit_code != wanted:
        note = ending.notes.strip().splitlines()[-1:] or [""]
        return Verdict(FAIL, f"it exited with {ending.exit_code}, expected {wanted}: {note[0]}")
    if "stdout" in program and text != program["stdout"]:
        return Verdict(FAIL, f"it printed {text!r}, expected {program['stdout']!r}")
    if "matches" in program and not re.fullmatch(program["matches"], text):
        return Verdict(FAIL, f"it printed {text!r}, which does not match {program['matches']!r}")
    return Verdict(PASS)
