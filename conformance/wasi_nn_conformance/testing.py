"""The cases as pytest classes for those who write backends and runtime adapters.

    from wasi_nn_conformance.testing import BackendConformance
    from wasi_nn_conformance.graphs import GraphSet

    class TestMyBackend(BackendConformance):
        graphs = GraphSet("myencoding", FOLDER, {"add": (FOLDER / "add.my",), …})

Every case is a test of its own; what does not concern the encoding is skipped with the reason.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from wasi_nn.plugins import Plugins
from wasi_nn_conformance import case, running
from wasi_nn_conformance.graphs import GraphSet, canonical
from wasi_nn_conformance.hosts import Subject
from wasi_nn_conformance.hosts.adapters import Adapter
from wasi_nn_conformance.transcript import PASS

_CASES = {one.id: one for one in case.load()}


class _Conformance:
    dialects: ClassVar[tuple[str, ...]] = ("witx", "wasmedge")
    #: Cases that are known to fail, by id, each with its reason.
    deviations: ClassVar[dict[str, str]] = {}
    #: The plugins to use; None for the installed ones.
    plugins: ClassVar[Plugins | None] = None
    graphs: ClassVar[GraphSet]
    runtime: ClassVar[str]
    _subjects: ClassVar[dict[str, Subject]] = {}

    @classmethod
    def setup_class(cls) -> None:
        adapter = Adapter(cls.runtime, cls.plugins)
        missing = adapter.unavailable()
        if missing:
            pytest.skip(missing)
        cls._subjects = {name: adapter.subject(cls.graphs, name) for name in cls.dialects}

    @classmethod
    def teardown_class(cls) -> None:
        for subject in cls._subjects.values():
            subject.close()
        cls._subjects = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Hand every case in every dialect to ``test_case``."""
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("dialect", self.dialects)
            metafunc.parametrize("name", list(_CASES))

    def test_case(self, name: str, dialect: str) -> None:
        """One case in one dialect."""
        result = running.run(_CASES[name], self._subjects[dialect], self.graphs, dialect)
        known = self.deviations.get(name)
        if result.status == running.UNSUPPORTED:
            pytest.skip(result.reason)
        if result.status == PASS:
            assert known is None, f"{name} passes, and was known to fail: {known}"
        elif known is not None:
            pytest.xfail(known)
        else:
            detail = [_CASES[name].why, result.transcript, result.notes]
            pytest.fail("\n".join([result.reason, *detail]), pytrace=False)


class BackendConformance(_Conformance):
    """Inherit it and name your ``graphs``: every case runs on your backend, from guests of the
    engine ``runtime``."""

    runtime: ClassVar[str] = "wasmtime"


class RuntimeConformance(_Conformance):
    """Inherit it and name your ``runtime``: every case runs on your adapter, with ONNX graphs
    unless ``graphs`` says otherwise."""

    graphs: ClassVar[GraphSet] = canonical("onnx")
