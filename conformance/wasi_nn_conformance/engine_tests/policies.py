"""The rules of a policy, and what a guest sees of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from wasi_nn import Guest, Host, Limits, Policy, hookimpl
from wasi_nn.backend import Backend, Builder, ExecutionContext, Graph, LoadOptions, Reserve
from wasi_nn.errors import DeadlineExceeded, RuntimeFailure
from wasi_nn.plugins import Plugins
from wasi_nn.types import Tensor, TensorType
from wasi_nn_conformance.engine_tests.common import Engine, Wat

# Errnos of the dialect witx.
_RUNTIME_ERROR, _NOT_ALLOWED = 5, 6
# The functions of wasi-nn, a model's name at 0, a tensor of 8 bytes at 16, and of 64 KB at 48.
_GUEST = """(module
  (import "wasi_ephemeral_nn" "load" (func $load (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "load_by_name" (func $name (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 0) "patient")
  (data (i32.const 16) "\\50\\00\\00\\00\\01\\00\\00\\00\\03\\00\\00\\00"
    "\\80\\00\\00\\00\\08\\00\\00\\00")
  (data (i32.const 48) "\\54\\00\\00\\00\\01\\00\\00\\00\\03\\00\\00\\00"
    "\\00\\00\\01\\00\\00\\00\\01\\00")
  (data (i32.const 80) "\\08\\00\\00\\00\\00\\00\\01\\00")
  (data (i32.const 96) "\\00\\00\\01\\00\\10\\00\\00\\00")
  (data (i32.const 65536) "wasi-nn:identity")
  (func (export "own") (result i32)
    (call $load (i32.const 96) (i32.const 1) (i32.const 5) (i32.const 0) (i32.const 4096)))
  (func (export "open") (result i32)
    (call $name (i32.const 0) (i32.const 7) (i32.const 4096)))
  (func (export "context") (result i32)
    (call $init (i32.load (i32.const 4096)) (i32.const 4100)))
  (func $give (export "set") (param i32) (result i32)
    (call $set (i32.load (i32.const 4100)) (i32.const 0) (local.get 0)))
  (func (export "compute") (result i32) (call $compute (i32.load (i32.const 4100))))
  (func (export "loop") (result i32) (loop $l (drop (call $compute (i32.load (i32.const 4100))))
    (br $l)) (i32.const 0))
  (func (export "_start")))"""
_SMALL, _LARGE = 16, 48

MakeGuest = Callable[..., AbstractContextManager[Guest]]


class _Patient(Backend):
    """Computes until it is cancelled, if the config says so."""

    name = "patient"
    encodings = ("patient",)
    config_keys = frozenset({"quick"})

    @hookimpl
    def wasi_nn_backends(self) -> list[Backend]:
        return [self]

    def load(self, builders: Sequence[Builder], options: LoadOptions) -> Graph:
        return _PatientGraph(options.config)


class _PatientGraph(Graph):
    def __init__(self, config: Mapping[str, object]) -> None:
        self.quick = bool(config.get("quick"))

    def init_execution_context(self, reserve: Reserve) -> ExecutionContext:
        return _PatientContext(self.quick)


class _PatientContext(ExecutionContext):
    def __init__(self, quick: bool) -> None:
        self._quick = quick
        self._cancelled = threading.Event()

    def set_input(self, key: int | str, tensor: Tensor) -> None:
        """Nothing is kept."""

    def compute(self) -> None:
        if not self._quick and self._cancelled.wait(60):
            raise RuntimeFailure("the computation was cancelled")

    def get_output(self, key: int | str) -> Tensor:
        return Tensor(TensorType.U8, (1,), memoryview(b"\0"))

    def cancel(self) -> None:
        self._cancelled.set()


class Policies(Engine):
    @pytest.fixture
    def patient(self, host: Host, plugins: Plugins, wat: Wat, tmp_path: Path) -> MakeGuest:
        """A function that makes guests under a policy, in a host with the model ``patient``."""
        if not any(backend.name == "patient" for backend in plugins.backends):
            plugins.register(_Patient(), "patient")
        path = tmp_path / "patient"
        path.touch()

        @contextmanager
        def make(policy: Policy, **config: object) -> Iterator[Guest]:
            with Host(plugins=plugins, runtime=self.runtime, policy=policy) as made:
                made.add_model("patient", path, encoding="patient", config=config)
                program = made.compile(wat(_GUEST))
                with program.instantiate(dialect="witx") as guest:
                    yield guest

        return make

    def test_a_rule_that_refuses_gives_an_errno_and_is_counted(self, patient: MakeGuest) -> None:
        limits = Limits(tensor_bytes=1000, graphs=2, contexts=1)
        with patient(Policy(limits=limits), quick=True) as made:
            assert made.call("own") == (_NOT_ALLOWED,)
            assert [made.call("open")[0] for _ in range(3)] == [0, 0, _RUNTIME_ERROR]
            assert [made.call("context")[0] for _ in range(2)] == [0, _RUNTIME_ERROR]
            assert made.call("set", _SMALL) == (0,)
            assert made.call("set", _LARGE) == (_RUNTIME_ERROR,)
            assert made.call("compute") == (0,)
            assert made.observer.refused == {
                "own-models": 1,
                "graphs": 1,
                "contexts": 1,
                "tensor-bytes": 1,
            }
            for failure in made.observer.failures:
                assert f"{failure.rule}: " in failure.reason

    def test_a_computation_that_takes_too_long_is_ended_and_the_guest_goes_on(
        self, patient: MakeGuest
    ) -> None:
        with patient(Policy(limits=Limits(compute_timeout=0.05))) as made:
            assert made.call("open") == made.call("context") == (0,)
            assert made.call("compute") == (_RUNTIME_ERROR,)
            assert "quota compute-timeout: " in made.observer.failures[-1].reason
            # The context has ended, and another one can be opened.
            assert made.call("set", _SMALL) == (1,)
            assert made.call("context") == made.call("set", _SMALL) == (0,)
            assert made.observer.refused == {"compute-timeout": 1}

    def test_a_guest_that_has_computed_for_all_of_its_seconds_ends(
        self, host: Host, patient: MakeGuest
    ) -> None:
        if not host.runtime.features.interrupt:
            self.needs_process()
        policy = Policy(limits=Limits(compute_seconds=0.1))
        for quick in (False, True):
            with patient(policy, quick=quick) as made:
                if not made.call("open") == made.call("context") == (0,):
                    pytest.fail(str(made.observer.failures))
                with pytest.raises(DeadlineExceeded, match="quota compute-seconds: ") as caught:
                    made.call("loop")
                assert caught.value.rule == "compute-seconds"
