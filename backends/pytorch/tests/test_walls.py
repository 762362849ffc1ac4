"""Hostile TorchScript: what a guest's own model may not do to the host and to other guests."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

torch = needs("torch")

from wasi_nn import ExecutionTarget, Host, Policy, Tensor  # noqa: E402
from wasi_nn._sandbox import offered  # noqa: E402
from wasi_nn.errors import RuntimeFailure  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.skipif(not offered().complete, reason=f"no complete sandbox: {offered()}"),
]

SECRET = b"SECRET-OF-ANOTHER!"
N = 20_000


class Reads(torch.nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path: str = path

    def forward(self, x):
        return torch.from_file(self.path, False, 16, dtype=torch.uint8)


class Writes(torch.nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path: str = path

    def forward(self, x):
        return torch.from_file(self.path, True, 8, dtype=torch.uint8).fill_(33)


class Empty(torch.nn.Module):
    def forward(self, x):
        return torch.empty([20_000])


class Echo(torch.nn.Module):
    def forward(self, x):
        return x + 0


class Endless(torch.nn.Module):
    def forward(self, x):
        while bool(x.sum() < 1):
            x = x * 1
        return x


def model(module) -> memoryview:
    data = io.BytesIO()
    torch.jit.save(torch.jit.script(module), data)
    return memoryview(data.getvalue())


@pytest.fixture
def host():
    with Host(policy=Policy(own_models=True)) as host:
        yield host


def run(host, module, data: bytes) -> bytes:
    """What a guest gets that brings the model."""
    with host.open_session() as session:
        session.load([model(module)], "pytorch", ExecutionTarget.CPU)
        context = session.contexts[session.init_execution_context(0)]
        context.set_input(0, Tensor.of(np.frombuffer(data, np.float32)))
        context.compute()
        return bytes(context.get_output(0).data)


def test_a_guests_model_reads_no_file_of_the_host(host, tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    with pytest.raises(RuntimeFailure, match=r"torch failed to compute|has ended"):
        run(host, Reads(str(path)), bytes(4))


@pytest.mark.parametrize("exists", [True, False])
def test_a_guests_model_writes_no_file_of_the_host(host, tmp_path, exists):
    path = tmp_path / "victim"
    if exists:
        path.write_bytes(b"untouched")
    with pytest.raises(RuntimeFailure, match=r"torch failed to compute|has ended"):
        run(host, Writes(str(path)), bytes(4))
    assert path.exists() == exists
    assert not exists or path.read_bytes() == b"untouched"


def test_a_guests_model_sees_no_memory_of_another_guest(host):
    secret = (SECRET * (N * 4 // len(SECRET) + 1))[: N * 4]
    for _ in range(5):
        run(host, Echo(), secret)
        assert SECRET not in run(host, Empty(), bytes(8))


def test_a_models_endless_loop_ends_with_its_guest(host):
    from threading import Timer

    with host.open_session() as session:
        session.load([model(Endless())], "pytorch", ExecutionTarget.CPU)
        context = session.contexts[session.init_execution_context(0)]
        context.set_input(0, Tensor.of(np.zeros(4, np.float32)))
        Timer(0.5, session.cancel).start()
        with pytest.raises(RuntimeFailure):
            context.compute()
