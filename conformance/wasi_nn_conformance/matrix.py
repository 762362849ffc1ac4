"""The matrix: runs the requested cells, each in its own process, several at a time."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from wasi_nn_conformance import expectations, graphs, hosts, running
from wasi_nn_conformance.case import Case
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.expectations import Expectation
from wasi_nn_conformance.hosts import HostUnderTest
from wasi_nn_conformance.hosts.foreign import ForeignHost
from wasi_nn_conformance.printing import program, visible
from wasi_nn_conformance.running import UNSUPPORTED
from wasi_nn_conformance.transcript import CRASH, PASS, TIMEOUT

FAILURES = frozenset({"fail", CRASH, TIMEOUT})
# A cell that prints nothing for this long hangs.
_SILENCE_SECONDS = 90.0
# How often a run looks whether it must stop.
_LOOK_SECONDS = 0.2
_MAX_NAME, _MAX_LINE = 100, 20_000


class Outcome(NamedTuple):
    """The result of a case in a cell. ``known`` is the reason, if the case is a known deviation."""

    case: str
    status: str
    reason: str
    known: str | None
    seconds: float
    transcript: str = ""
    notes: str = ""
    #: The version of the case.
    version: int = 1

    @property
    def unexpected(self) -> bool:
        """A failure that is not a known deviation, or a pass of a known deviation."""
        if self.status in FAILURES:
            return self.known is None
        return self.status == PASS and self.known is not None


class Cell(NamedTuple):
    """A host, an encoding and a dialect, with the outcomes. ``unavailable`` says why it could not
    run. ``description`` is the description of a host that this package does not know."""

    host: str
    version: str
    encoding: str
    dialect: str
    outcomes: tuple[Outcome, ...] = ()
    unavailable: str = ""
    description: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.host, self.encoding, self.dialect

    def reproduce(self, case: str) -> str:
        """The command that runs a case again."""
        words = [*program().split(), "--encoding", self.encoding, "--dialect", self.dialect]
        if self.description:
            table = json.loads(self.description)
            words += ["--host-command", table["command"]]
        else:
            words += ["--host", self.host]
        return shlex.join([*words, "--case", case])

    @property
    def counts(self) -> dict[str, int]:
        """The number of cases that pass, fail and are unsupported, 1 if the cell is unavailable,
        and the number of unexpected outcomes."""
        return {
            "pass": sum(o.status == PASS for o in self.outcomes),
            "fail": sum(o.status in FAILURES for o in self.outcomes),
            "unsupported": sum(o.status == UNSUPPORTED for o in self.outcomes),
            "unavailable": 1 if self.unavailable else 0,
            "unexpected": sum(o.unexpected for o in self.outcomes),
        }


def shown(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, with everything that hosts, engines and plugins said escaped, so that it is safe
    on a terminal and in a file that is printed there."""
    return [
        cell._replace(
            host=visible(cell.host, _MAX_NAME),
            version=visible(cell.version),
            encoding=visible(cell.encoding, _MAX_NAME),
            dialect=visible(cell.dialect, _MAX_NAME),
            unavailable=visible(cell.unavailable),
            outcomes=tuple(
                outcome._replace(
                    case=visible(outcome.case),
                    status=visible(outcome.status, _MAX_NAME),
                    reason=visible(outcome.reason),
                    known=None if outcome.known is None else visible(outcome.known),
                    transcript=_lines_shown(outcome.transcript),
                    notes=_lines_shown(outcome.notes),
                )
                for outcome in cell.outcomes
            ),
        )
        for cell in cells
    ]


def _lines_shown(text: str) -> str:
    return "\n".join(visible(line, _MAX_LINE) for line in text.split("\n"))


def plan(
    host_names: Sequence[str],
    encodings: Sequence[str],
    dialects: Sequence[str],
    foreign: Sequence[ForeignHost] = (),
) -> list[Cell]:
    """The cells of some hosts, encodings and dialects, without outcomes. If a host is not
    installed, or has no backend for an encoding, its cells are unavailable."""
    plans = []
    under_test: list[HostUnderTest] = [*foreign]
    for name in host_names:
        host = hosts.find(name)
        if host is None:
            here = ", ".join(hosts.known())
            raise UsageError(f"there is no host {name!r}; known: {here}")
        under_test.append(host)
    for host in under_test:
        description = str(host) if isinstance(host, ForeignHost) else ""
        missing = host.unavailable()
        version = "" if missing else host.version()
        served = frozenset() if missing else host.encodings()
        for encoding in encodings:
            for dialect in dialects:
                if dialect not in host.dialects() or encoding not in host.speaks():
                    continue
                why = missing or ""
                if not why and encoding not in served:
                    why = f"{host.name} has no backend for {encoding} here"
                cell = Cell(host.name, version, encoding, dialect, unavailable=why)
                plans.append(cell._replace(description=description))
    return plans


class Run:
    """A run of cells. ``deviations`` are known beside the hosts' own. ``progress`` is called after
    each case."""

    def __init__(
        self,
        cases: Sequence[Case],
        deviations: Sequence[Expectation] = (),
        progress: Callable[[Cell], None] = lambda _: None,
    ) -> None:
        self._cases = cases
        self._deviations = deviations
        self._progress = progress
        self._stopped = threading.Event()
        #: Whether Ctrl-C ended it. The cells then have the outcomes of the cases before.
        self.interrupted = False

    def cells(self, plans: Sequence[Cell], jobs: int) -> list[Cell]:
        """Run the cells, some at the same time."""
        with ThreadPoolExecutor(max(1, jobs)) as pool:
            futures = [pool.submit(self._cell, one) for one in plans]
            try:
                wait(futures)
            except KeyboardInterrupt:
                self.interrupted = True
                self._stopped.set()
            return [future.result() for future in futures]

    def _cell(self, one: Cell) -> Cell:
        if one.unavailable:
            for _ in self._cases:
                self._progress(one)
            return one
        deviations = [*self._deviations, *expectations.load(one.host)]
        graph_set = graphs.canonical(one.encoding)
        versions = {case.id: case.version for case in self._cases}
        outcomes: dict[str, Outcome] = {}

        def add(record: Mapping[str, Any]) -> None:
            known = expectations.reason(deviations, record["case"], one.encoding, one.dialect)
            version = versions[record["case"]]
            outcomes[record["case"]] = Outcome(**record, known=known, version=version)
            self._progress(one)

        left = []
        for case in self._cases:
            why = running.unsupported(case, graph_set, one.dialect)
            if why is None:
                left.append(case.id)
            else:
                add({"case": case.id, "status": UNSUPPORTED, "reason": why, "seconds": 0.0})
        while left and not self._stopped.is_set():
            for record in _process(one, left, self._stopped):
                add(record)
            left = [case for case in left if case not in outcomes]
        return one._replace(
            outcomes=tuple(outcomes[case.id] for case in self._cases if case.id in outcomes)
        )


def merge(cells: Sequence[Cell], others: Sequence[Cell]) -> list[Cell]:
    """The cells; those that could not run here are replaced by those of another run."""

    theirs = {cell.key: cell for cell in others if not cell.unavailable}
    versions = {cell.host: cell.version for cell in theirs.values()}
    merged = []
    for cell in cells:
        if cell.unavailable:
            cell = cell._replace(version=cell.version or versions.get(cell.host, ""))
            cell = theirs.pop(cell.key, cell)
        else:
            theirs.pop(cell.key, None)
        merged.append(cell)
    return [*merged, *theirs.values()]


def _process(one: Cell, left: Sequence[str], stopped: threading.Event) -> Iterator[dict[str, Any]]:
    """The results of one process, until it is ``stopped``. If it dies, the last result is the case
    that was running."""
    command = [
        sys.executable,
        "-m",
        "wasi_nn_conformance.cell",
        one.host,
        one.encoding,
        one.dialect,
        *([one.description] if one.description else []),
    ]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for this process, which ends the other
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=_lines, args=(child.stdout, lines.put), daemon=True).start()
        child.stdin.write("\n".join(left).encode())
        child.stdin.close()
        running_case = None
        status = CRASH
        heard = time.monotonic()
        while True:
            try:
                line = lines.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if stopped.is_set():
                    _end(child)
                    return
                if time.monotonic() - heard < _SILENCE_SECONDS:
                    continue
                status = TIMEOUT
                _end(child)
                break
            if line is None:
                break
            heard = time.monotonic()
            record = json.loads(line)
            running_case = record.get("begin")
            if running_case is None:
                yield record
        child.wait()
        if running_case is None and child.returncode == 0:
            return
        said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
        tail = said.read().decode("utf-8", "replace").strip()
        how = "it hangs" if status == TIMEOUT else f"its process ended with {child.returncode}"
        reason = f"{how}: {tail.splitlines()[-1] if tail else 'it printed nothing'}"
        yield {
            "case": running_case or left[0],
            "status": status,
            "reason": reason,
            "seconds": 0.0,
            "notes": tail,
        }


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the process, and the programs that it runs."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()


def _lines(stream: Any, put: Callable[[bytes | None], None]) -> None:
    for line in stream:
        put(line)
    put(None)
