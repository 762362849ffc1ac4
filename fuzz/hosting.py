"""Hosts in processes of their own, which may die: a new one takes the place of a dead one."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from fuzz.trial import Trial, Verdict, send

ROOT = Path(__file__).resolve().parents[1]
#: Seconds after its deadline in which a trial must have ended.
GRACE_SECONDS = 10.0
#: What the first trial of a host may take more: it imports a library.
START_SECONDS = 60.0
_TAIL = 2000


def environment() -> dict[str, str]:
    """The environment of a process that finds the same packages as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class TrialHost:
    """A host's process. ``attempt`` starts it, and starts it again after a death. A context
    manager."""

    def __init__(self, seconds: float, isolation: str = "guest") -> None:
        """``seconds`` is the deadline of each trial, and ``isolation`` where models run."""
        self._isolation = isolation
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: IO[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._fresh = True
        self.started = 0

    def _start(self) -> None:
        ours, theirs = os.pipe()
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.trial", str(theirs), self._isolation],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(theirs,),
            # Ctrl-C is for the parent, which ends it.
            start_new_session=True,
        )
        os.close(theirs)
        self._answers = os.fdopen(ours, "rb")
        self._fresh = True
        self.started += 1

    def attempt(self, trial: Trial) -> Verdict:
        """Try a model, and say what came of it."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._answers is not None
        try:
            seconds = self._seconds + (START_SECONDS if self._fresh else 0)
            send(trial, seconds, self._process.stdin)
        except BrokenPipeError:
            return self._dead()
        patience = seconds + GRACE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            if not selector.select(patience):
                self.close()
                return Verdict("hung", self._last_call(), seconds=patience, reason=self._tail())
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            return self._dead()
        self._fresh = False
        found = json.loads(line)
        for name in ("unknown", "unforeseen"):
            found[name] = tuple(found[name])
        return Verdict(**found)

    def _dead(self) -> Verdict:
        assert self._process is not None
        code = self._process.wait()
        self.close()
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return Verdict("died", self._last_call(), code, f"{how}: {self._tail()}")

    def _text(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def _last_call(self) -> str:
        """The guest's last call, from the stack that Python prints when it dies."""
        for line in self._text().splitlines():
            if "/wasi_nn_" in line and " in " in line:
                return line.rsplit(" in ", 1)[1].strip()
        return "?"

    def _tail(self) -> str:
        """What the library said last, before Python's stack."""
        said = self._text().partition("Fatal Python error")[0][-_TAIL:]
        lines = [line for line in said.splitlines() if line.strip()]
        return " | ".join(line for line in lines[-3:] if "INFO" not in line)[:300]

    def close(self) -> None:
        """End the process and what it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if self._answers is not None:
            self._answers.close()

    def __enter__(self) -> TrialHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._errors.close()
