"""AOTInductor packages: native code, whose arguments torch does not describe."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

torch = needs("torch")

from wasi_nn.errors import InvalidArgument, NnError, RuntimeFailure  # noqa: E402

# (torch compiles the models' code.)
pytestmark = pytest.mark.slow


class WritesToAnArgument(torch.nn.Module):
    def forward(self, x, pair, *, scale):
        x.add_(1)
        return {"a": x * scale, "b": (pair[0] - pair[1], x, pair[0])}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("g++, with which torch makes a package, is not installed")
    x, left, right, scale = (torch.ones(2) for _ in range(4))
    path = tmp_path_factory.mktemp("package") / "package.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(WritesToAnArgument(), (x, (left, right)), {"scale": scale})
        # It is the compiler that takes the time.
        fast = {"aot_inductor.compile_wrapper_opt_level": "O0"}
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=fast
        )
    return path


def f32(*values):
    return np.float32(values)


FEED = {"arg_0": f32(1, 2), "arg_1.0": f32(5, 6), "arg_1.1": f32(1, 1), "scale": f32(10, 10)}
RIGHT = [[20, 30], [4, 5], [2, 3], [5, 6]]


def test_inputs_and_outputs_have_names_and_indices(host, package):
    model = host.load(package)
    assert [info.name for info in model.inputs] == list(FEED)
    for feed in (FEED, dict(enumerate(FEED.values()))):
        assert {k: v.tolist() for k, v in model.run(feed).items()} == dict(
            zip("0123", RIGHT, strict=True)
        )
    with model.init_execution_context() as context:
        for key, value in FEED.items():
            context.set_input(key, value)
        context.compute()
        assert [context.get_output(key).tolist() for key in ("a", "b.0", "b.1", "b.2")] == RIGHT


def test_inputs_stay_as_they_were_set(host, package):
    with host.load(package).init_execution_context() as context:
        for key, value in FEED.items():
            context.set_input(key, value)
        for _ in range(3):
            context.compute()
            assert [context.get_output(index).tolist() for index in range(4)] == RIGHT
        for key, value in FEED.items():
            context.set_input(key, np.zeros_like(value))
        assert [context.get_output(index).tolist() for index in range(4)] == RIGHT


def test_wrong_inputs_are_explained(host, package):
    with host.load(package).init_execution_context() as context:
        with pytest.raises(NnError):
            context.compute()
        with pytest.raises(InvalidArgument, match="no input named 'x'"):
            context.set_input("x", f32(1, 2))
        for key, value in {**FEED, "arg_0": f32(1, 2, 3)}.items():
            context.set_input(key, value)
        with pytest.raises(RuntimeFailure):
            context.compute()


def test_a_guests_own_package_is_refused(host, package):
    with pytest.raises(RuntimeFailure, match="a guest cannot bring one"):
        host.load(package.read_bytes())
