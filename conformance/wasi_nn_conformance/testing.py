"""The cases as pytest classes for the authors of backends and runtimes.

    from wasi_nn_conformance.testing import BackendConformance
    from wasi_nn_conformance.graphs import GraphSet

    class TestMyBackend(BackendConformance):
        graphs = GraphSet("myencoding", FOLDER, {"add": (FOLDER / "add.my",), …})

Every case is one test. A case that does not apply to the encoding is skipped, with the reason.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from wasi_nn import Host, Policy
from wasi_nn.escaping import visible_lines
from wasi_nn.plugins import Plugins
from wasi_nn.types import ExecutionTarget, Tensor, TensorType, byte_size
from wasi_nn_conformance import case, running
from wasi_nn_conformance.dialects import WIT
from wasi_nn_conformance.graphs import DIMENSIONS, GraphSet, canonical
from wasi_nn_conformance.hosts import Subject
from wasi_nn_conformance.hosts.own import OwnHost
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
        host = OwnHost(cls.runtime, cls.plugins)
        missing = host.unavailable()
        if missing:
            pytest.skip(missing)
        served = host.dialects()
        cls._subjects = {
            name: host.subject(cls.graphs, name) for name in cls.dialects if name in served
        }

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
        if "graph" in metafunc.fixturenames:
            names = [n for n in self.graphs.files if n.partition("_")[0] in DIMENSIONS]
            metafunc.parametrize("graph", names)

    def test_case(self, name: str, dialect: str) -> None:
        """One case in one dialect."""
        if dialect not in self._subjects:
            pytest.skip(f"{self.runtime} does not serve the dialect {dialect}")
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
            pytest.fail(visible_lines("\n".join([result.reason, *detail])), pytrace=False)


class BackendConformance(_Conformance):
    """Inherit it and name your ``graphs``: every case runs on your backend, from guests of the
    engine ``runtime``, core modules and components. The descriptions of your graphs' outputs are
    compared with the outputs."""

    runtime: ClassVar[str] = "wasmtime"
    dialects: ClassVar[tuple[str, ...]] = ("witx", "wasmedge", WIT.name)

    def test_description(self, graph: str) -> None:
        """The outputs of a canonical graph are what it says of them, before and after compute."""
        plain, _, label = graph.partition("_")
        kind = next(t for t in TensorType if str(t) == (label or "f32"))
        taken, given = DIMENSIONS[plain]
        files = self.graphs.files[graph]
        policy = Policy(own_models=True)
        with Host(plugins=self.plugins, policy=policy) as host, host.open_session() as session:
            config = dict(self.graphs.config)
            # By `load`, so that it is a graph that nobody has computed with.
            handle = session.load(files, self.graphs.encoding, ExecutionTarget.CPU, config)
            loaded = session.graphs[handle]
            described = tuple(loaded.outputs)
            assert len(described) in (0, len(given)), f"{graph} has {len(given)} outputs"
            for info, dims in zip(described, given, strict=False):
                assert info.type in (None, kind), f"{info.describe()} must be of type {kind}"
                assert _fits(info.dims, dims), f"{info.describe()} must have dimensions {dims}"
            context = session.contexts[session.init_execution_context(handle)]
            for rows in (1, 2) if plain == "batch" else (1,):
                for index, dims in enumerate(taken):
                    sizes = _closed(dims, rows)
                    data = memoryview(bytes(byte_size(kind, sizes)))
                    context.set_input(index, Tensor(kind, sizes, data))
                context.compute()
                for index, dims in enumerate(given):
                    output = context.get_output(index)
                    found = (output.type, output.dims, len(output.data))
                    sizes = _closed(dims, rows)
                    assert found == (kind, sizes, byte_size(kind, sizes)), f"output {index}"
                assert tuple(loaded.outputs) == described, "compute changed the description"


def _fits(described: tuple[int, ...] | None, dims: tuple[int, ...]) -> bool:
    return described is None or (
        len(described) == len(dims)
        and all(
            -1 in (said, size) or said == size for said, size in zip(described, dims, strict=True)
        )
    )


def _closed(dims: tuple[int, ...], rows: int) -> tuple[int, ...]:
    return tuple(rows if size < 0 else size for size in dims)


class RuntimeConformance(_Conformance):
    """Inherit it and name your ``runtime``: every case runs on your runtime, with ONNX graphs
    by default."""

    graphs: ClassVar[GraphSet] = canonical("onnx")
