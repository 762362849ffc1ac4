"""The base of native hosts: a command that runs once for each guest."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.hosts import HostUnderTest, Job, Subject
from wasi_nn_conformance.transcript import Ending


class Command(HostUnderTest):
    """A host that is a program."""

    #: The program, and the environment variable that can give its path.
    program: str
    variable: str
    install: str

    def path(self) -> str | None:
        """Where the program is, or None."""
        named = os.environ.get(self.variable)
        return shutil.which(named or self.program)

    def unavailable(self) -> str | None:
        if self.path() is None:
            return f"{self.program} is not installed; {self.install} (or {self.variable}=PATH)"
        return None

    def version(self) -> str:
        ended = subprocess.run(
            [str(self.path()), "--version"], capture_output=True, text=True, timeout=60
        )
        return (ended.stdout or ended.stderr).strip().splitlines()[0]

    @abstractmethod
    def line(self, job: Job, graphs: GraphSet, scratch: Path) -> Sequence[str]:
        """The command line that runs a guest. ``scratch`` is a folder that exists as long as the
        subject."""

    def environment(self, scratch: Path) -> Mapping[str, str]:
        """Additions to the environment of the program."""
        return {}

    def subject(self, graphs: GraphSet, dialect: str) -> Subject:
        return _Runs(self, graphs)


class _Runs(Subject):
    def __init__(self, host: Command, graphs: GraphSet) -> None:
        self._host = host
        self._graphs = graphs
        self._scratch = tempfile.TemporaryDirectory()

    def run(self, job: Job) -> Ending:
        folder = Path(self._scratch.name)
        try:
            ended = subprocess.run(
                list(self._host.line(job, self._graphs, folder)),
                input=job.stdin,
                capture_output=True,
                timeout=job.seconds,
                env={**os.environ, **self._host.environment(folder)},
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return Ending(ended.stdout, ended.returncode, ended.stderr.decode("utf-8", "replace"))

    def close(self) -> None:
        self._scratch.cleanup()
