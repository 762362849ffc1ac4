"""Each library in a confined process: it was imported before, and loads a guest's model there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn._sandbox import offered

GRAPHS = Path(__file__).parents[2] / "conformance" / "graphs"
# A bound against a hang, in seconds. Importing torch takes long on a busy machine.
_HANG = 180

pytestmark = pytest.mark.skipif(
    not offered().complete, reason="; ".join(filter(None, offered())) or "complete"
)

SCRIPT = """
import os, struct, sys, threading
from importlib import import_module
from wasi_nn._sandbox import Confinement, confine, library_paths, offered
from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.types import Tensor, TensorType
from pathlib import Path

name, encoding, *files = sys.argv[1:]
(backend,) = import_module(f"wasi_nn_{name}").wasi_nn_backends()
offered()
backend.prepare()
assert len(os.listdir("/proc/self/task")) == 1, "prepare has started threads"
if encoding == "ggml":
    memory = os.memfd_create("model")
    os.write(memory, Path(files[0]).read_bytes())
    builders = [Path(f"/proc/self/fd/{memory}")]
    tensor = Tensor(TensorType.U8, (5,), memoryview(b"hello"))
else:
    builders = [memoryview(Path(file).read_bytes()) for file in files]
    tensor = Tensor(TensorType.F32, (1, 4), memoryview(struct.pack("4f", 1, 2, 3, 4)))
paths = library_paths()
pid = os.fork()
if not pid:
    try:
        confine(Confinement(paths, 2 << 30, 60))
        config = {"n-predict": 2, "seed": 1} if encoding == "ggml" else {"threads": 2}
        graph = backend.load(builders, LoadOptions(encoding, config=config))
        results = []

        def compute():
            context = graph.init_execution_context(unlimited)
            context.set_input(0, tensor)
            context.compute()
            results.append(bytes(context.get_output(0).data))

        threads = [threading.Thread(target=compute) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if encoding != "ggml":
            results = [struct.unpack("3f", result) for result in results]
        print(len(results), set(results), flush=True)
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
    finally:
        os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize(
    ("name", "library", "encoding", "files"),
    [
        ("onnx", "onnxruntime", "onnx", ["onnx/matmul.onnx"]),
        ("openvino", "openvino", "openvino", ["openvino/matmul.xml", "openvino/matmul.bin"]),
        ("tflite", "ai_edge_litert", "tensorflowlite", ["tensorflowlite/matmul.tflite"]),
        ("pytorch", "torch", "pytorch", ["pytorch/matmul.pt"]),
        ("ggml", "xllamacpp", "ggml", ["ggml/tiny.gguf"]),
    ],
)
def test_a_library_loads_and_computes_in_a_confined_process(
    name: str, library: str, encoding: str, files: list[str]
) -> None:
    needs(library)
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, encoding, *(str(GRAPHS / file) for file in files)],
        capture_output=True,
        text=True,
        timeout=_HANG,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if encoding == "ggml":
        # One text, of two tokens.
        assert re.fullmatch(r"4 \{b'.+'\}\n", ended.stdout)
    else:
        # 1 to 4, times the matrix with 0 to 11 in its rows.
        assert ended.stdout == "4 {(60.0, 70.0, 80.0)}\n"


HOSTILE = """
import os, sys, warnings
import torch
from wasi_nn._sandbox import Confinement, confine, library_paths, offered

warnings.simplefilter("ignore")

class Hostile(torch.nn.Module):
    def forward(self, victim: str, shared: bool):
        return torch.from_file(victim, shared, 6, dtype=torch.uint8).fill_(33)

class Curious(torch.nn.Module):
    def forward(self, victim: str):
        return torch.from_file(victim, False, 6, dtype=torch.uint8)

programs = [
    (torch.jit.script(Curious()), ["victim"]),
    (torch.jit.script(Hostile()), ["victim", True]),
]
offered()
paths = library_paths()
for confined in (False, True):
    with open("victim", "wb") as file:
        file.write(b"secret")
    pid = os.fork()
    if not pid:
        try:
            if confined:
                confine(Confinement(paths))
            for program, arguments in programs:
                try:
                    print(bytes(program(*arguments).tolist()))
                except RuntimeError as error:
                    print("refused" if "ermi" in str(error) else error)
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    with open("victim", "rb") as file:
        print(file.read(), flush=True)
"""


def test_a_program_of_torch_neither_reads_nor_writes_a_file_when_confined(tmp_path: Path) -> None:
    needs("torch")
    # (torch reads the source of what it compiles.)
    (tmp_path / "hostile.py").write_text(HOSTILE)
    ended = subprocess.run(
        [sys.executable, "hostile.py"],
        capture_output=True,
        text=True,
        timeout=_HANG,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    free = ["b'secret'", "b'!!!!!!'", "b'!!!!!!'"]
    assert ended.stdout.splitlines() == [*free, "refused", "refused", "b'secret'"]
