"""newname as every engine is tested, and what is its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import wasmtime

from wasi_nn import Host, errors
from wasi_nn_conformance.engine_tests import EngineTests
from wasi_nn_conformance.testing import RuntimeConformance


class TestEngine(EngineTests):
    """Streams, traps, memory, deadlines, limits, threads and hostile guests."""

    runtime = "newname"


class TestConformance(RuntimeConformance):
    """The rules of wasi-nn. With ``pip install onnxruntime``, the guests also compute models."""

    runtime = "newname"


GUEST = """(module (memory (export "memory") 1) (func (export "_start"))
  (func (export "double") (param i32) (result i32) (i32.add (local.get 0) (local.get 0))))"""


@pytest.fixture
def program():
    with Host(runtime="newname") as host:
        yield host.compile(bytes(wasmtime.wat2wasm(GUEST)))


def test_an_export_computes(program):
    with program.instantiate() as guest:
        assert guest.call("double", 21) == (42,)


def test_a_directory_is_refused(program, tmp_path):
    with pytest.raises(errors.UsageError, match="newname cannot give a directory"):
        program.run(dirs={"/": tmp_path})


def test_the_engine_is_not_imported_at_the_start():
    code = "import sys, wasi_nn_newname; assert 'wasmtime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
