"""Hosts under test: this project's own with each runtime, and other hosts' commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.transcript import Ending

#: Whether this project's own host is installed. The suite runs without it.
HAS_OWN = find_spec("wasi_nn") is not None


class Job(NamedTuple):
    """One guest to run: a module, its arguments and standard input. ``models`` maps the names of
    models to graphs (empty: the graphs under their own names). With ``network``, it may use the
    loopback addresses."""

    module: Path
    stdin: bytes
    args: Sequence[str] = ()
    models: Mapping[str, str] = {}
    configs: Mapping[str, Mapping[str, Any]] = {}
    seconds: float = 30.0
    network: bool = False


class Subject(ABC):
    """A host with the graphs of one encoding, in one dialect."""

    @abstractmethod
    def run(self, job: Job) -> Ending:
        """Run a guest to its end. Raises ``TimeoutError``, and ``script.Unsupported`` if the host
        lacks what the guest needs."""

    def close(self) -> None:
        """Free everything."""


class HostUnderTest(ABC):
    """A host that runs cases. Each has one file, in the manner of wasi-testsuite's adapters. It
    says the host's name and version, what it serves, and how it runs a guest."""

    name: str

    @property
    def by_default(self) -> bool:
        """Whether it runs if no host is named."""
        return True

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why it cannot run here, and what to do about it; or None."""

    @abstractmethod
    def version(self) -> str:
        """Its version, in its own words."""

    @abstractmethod
    def encodings(self) -> frozenset[str]:
        """The encodings that it serves here."""

    def speaks(self) -> frozenset[str]:
        """The encodings that it can serve in principle. Those that it lacks here are
        unavailable."""
        return self.encodings()

    @abstractmethod
    def dialects(self) -> frozenset[str]:
        """The dialects that its guests can be compiled for."""

    @abstractmethod
    def subject(self, graphs: GraphSet, dialect: str) -> Subject:
        """The host, ready to run guests."""


def known() -> dict[str, HostUnderTest]:
    """Every host by name, our own first."""
    from wasi_nn_conformance.hosts.iwasm import Iwasm
    from wasi_nn_conformance.hosts.wasmedge import WasmEdge
    from wasi_nn_conformance.hosts.wasmtime import Wasmtime

    hosts: list[HostUnderTest] = [Wasmtime(), WasmEdge(), Iwasm()]
    if HAS_OWN:
        from wasi_nn_conformance.hosts.own import own_hosts

        hosts = [*own_hosts(), *hosts]
    return {host.name: host for host in hosts}


def find(name: str) -> HostUnderTest | None:
    """A host by its name; RUNTIME@PYTHON is a runtime in a process of another Python."""
    found = known().get(name)
    if found is None and HAS_OWN:
        from wasi_nn_conformance.hosts.own import elsewhere

        found = elsewhere(name)
    return found
