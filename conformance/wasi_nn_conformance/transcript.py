"""Compare a transcript with the expected one."""

from __future__ import annotations

from typing import NamedTuple

from wasi_nn_conformance.script import Call, Script

PASS, FAIL, CRASH, TIMEOUT = "pass", "fail", "crash", "timeout"


class Ending(NamedTuple):
    """How a run of the interpreter ended: its standard output, its exit code, and notes (the text
    of a trap, the reasons that the host logged)."""

    stdout: bytes
    exit_code: int
    notes: str = ""


class Verdict(NamedTuple):
    """``status`` is pass, fail, crash or timeout; ``reason`` says what differs, at which step."""

    status: str
    reason: str = ""


def judge(script: Script, ending: Ending) -> Verdict:
    """Compare line by line; the first difference decides."""
    lines = ending.stdout.decode("utf-8", "replace").split("\n")
    for index, check in enumerate(script.checks):
        line = lines[index] if index < len(lines) else ""
        words = line.split(" ")
        if isinstance(check, Call):
            if words[:2] != ["call", check.function] or len(words) != 3:
                return _cut(check.step, f"call {check.function}", line, ending)
            try:
                number = int(words[2])
            except ValueError:
                return _cut(check.step, f"call {check.function} NUMBER", line, ending)
            if number not in check.wanted:
                pairs = zip(check.wanted, check.names, strict=True)
                wanted = " or ".join(f"{n} {name}" for n, name in pairs)
                return Verdict(
                    FAIL,
                    f"step {check.step}: {check.function} gave {number}, expected {wanted}",
                )
            continue
        if words[:2] != ["show", check.buffer] or len(words) != 3:
            return _cut(check.step, f"show {check.buffer}", line, ending)
        try:
            wrong = check.check.wrong(bytes.fromhex(words[2]))
        except ValueError:
            return _cut(check.step, f"show {check.buffer} HEX", line, ending)
        if wrong is not None:
            return Verdict(FAIL, f"step {check.step}: {wrong}")
    if "end" not in lines[len(script.checks) :]:
        return _cut(0, "end", "", ending)
    return Verdict(PASS)


def _cut(step: int, wanted: str, found: str, ending: Ending) -> Verdict:
    note = ending.notes.strip().splitlines()
    detail = f": {note[-1][:200]}" if note else ""
    where = f"step {step}: " if step else ""
    what = (
        f"the transcript says {found!r}" if found and not wanted.startswith(found) else "it ended"
    )
    return Verdict(
        FAIL, f"{where}{what} where {wanted!r} was expected (exit code {ending.exit_code}{detail})"
    )
