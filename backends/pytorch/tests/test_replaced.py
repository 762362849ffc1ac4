"""Models whose files are replaced while the process lives."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

torch = needs("torch")

from wasi_nn.errors import ModelNotFound, RuntimeFailure  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Adding(torch.nn.Module):
    """Adds a number to its input."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.register_buffer("number", torch.full((2,), float(number)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


class Counting(Adding):
    """And one more each time: every context has a module of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.number.add_(1)
        return x + self.number - 1


def scripted(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), path)


def export(module, path):
    torch.export.save(torch.export.export(module, (torch.zeros(2),)), path)


def answer(model):
    (result,) = model.run(np.zeros(2, np.float32)).values()
    return result.tolist()


@pytest.mark.parametrize("module", [Adding, Counting])
@pytest.mark.parametrize("save", [scripted, export])
def test_a_replaced_file_is_loaded_again(host, tmp_path, module, save):
    suffix = ".pt" if save is scripted else ".pt2"
    path, other = tmp_path / f"m{suffix}", tmp_path / f"other{suffix}"
    save(module(10), path)
    host.add_model("m", path)
    old = host.model("m")
    assert answer(old) == [10, 10]
    for number in (20, 30):
        save(module(number), other)
        status = path.stat()
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(path)
        assert answer(old) == [10, 10]
        assert answer(host.model("m")) == answer(host.load(path)) == [number] * 2
    path.unlink()
    assert answer(old) == [10, 10]
    for load in (lambda: host.model("m"), lambda: host.load(path, encoding="pytorch")):
        with pytest.raises(ModelNotFound, match="No such file"):
            load()


@pytest.mark.parametrize("save", [scripted, export])
def test_a_rewritten_file_is_noticed(host, tmp_path, save):
    path = tmp_path / "m.pt2"
    save(Counting(10), path)
    old = host.load(path)
    save(Counting(20), path)
    assert answer(host.load(path)) == [20, 20]
    with pytest.raises(RuntimeFailure, match=r"m\.pt2 was changed .* load the graph again"):
        answer(old)


def test_no_file_stays_open(host, tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the system does not say which files are open")
    path = tmp_path / "m.pt"
    scripted(Counting(1), path)

    def opened():
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        return sum(os.path.exists(link) and os.path.samefile(link, path) for link in links)

    model = host.load(path)
    assert opened() == 1
    del model
    assert opened() == 0
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RuntimeFailure):
        host.load(path)
    assert opened() == 0
