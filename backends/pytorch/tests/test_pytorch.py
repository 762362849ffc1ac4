"""PyTorch behind the backend contract: TorchScript, torch.export, and what is refused."""

from __future__ import annotations

import io
import itertools
import sys
import threading
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

torch = needs("torch")
ml_dtypes = needs("ml_dtypes")

from authoring import mutants  # noqa: E402
from authoring.networks import exported, reference, sample, torchscript  # noqa: E402
from wasi_nn import ExecutionTarget, Host, Tensor, TensorType  # noqa: E402
from wasi_nn._models import loading  # noqa: E402
from wasi_nn.backend import LoadOptions, unlimited  # noqa: E402
from wasi_nn.errors import (  # noqa: E402
    InvalidArgument,
    NnError,
    RuntimeFailure,
    Unavailable,
    UnsupportedOperation,
)
from wasi_nn_conformance.engine_tests.common import together  # noqa: E402
from wasi_nn_pytorch import prints  # noqa: E402
from wasi_nn_pytorch.backend import PytorchBackend  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


numbers = itertools.count()


def archive(module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def scripted(source: str) -> bytes:
    """A TorchScript archive of a module with the given forward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # A class of its own for each: methods belong to the class.
        compiled = type(f"Scripted{next(numbers)}", (torch.jit.ScriptModule,), {})()
        compiled.define(source)
        return archive(compiled)


class Counting(torch.nn.Module):
    """Multiplies by the number of times that it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        return x * self.count


class CountingInPlace(Counting):
    """The same, by an operator that writes to its tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x * self.count


class CountingInAList(torch.nn.Module):
    """The same, by the length of a list."""

    __annotations__ = {"calls": list[torch.Tensor]}

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(x)
        return x * len(self.calls)


def jit_scripted(module: torch.nn.Module) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return archive(torch.jit.script(module.eval()))


def counting() -> bytes:
    return jit_scripted(Counting())


DOUBLE = "def forward(self, x):\n    return x + x\n"
PAIR = "def forward(self, a, b):\n    return a + b, [a - b, a * b]\n"
NAMED = "def forward(self, x):\n    return {'twice': x + x, 'minus': -x}\n"
SCALAR = """
def forward(self, x, rate: int, gain: float, flip: bool):
    y = x * rate * gain
    return -y if flip else y
"""


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (np.float16, TensorType.F16),
        (np.float32, TensorType.F32),
        (np.float64, TensorType.F64),
        (ml_dtypes.bfloat16, TensorType.BF16),
        (np.uint8, TensorType.U8),
        (np.int32, TensorType.I32),
        (np.int64, TensorType.I64),
    ],
)
@pytest.mark.parametrize("dims", [(2, 3), ()])
def test_every_tensor_type(host, dtype, kind, dims):
    array = np.asarray(np.arange(6).reshape(2, 3) if dims else 3).astype(dtype)
    with host.load(scripted(DOUBLE)).init_execution_context() as context:
        context.set_input(0, array)
        context.compute()
        result = context.get_output(0)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, array + array)


def test_results_have_an_index_and_a_name(host):
    with host.load(scripted(PAIR)).init_execution_context() as context:
        context.set_input("b", np.float32([1, 2]))
        context.set_input(0, np.float32([5, 7]))
        context.compute()
        for key, expected in ((0, [6, 9]), ("0", [6, 9]), ("1.0", [4, 5]), (2, [5, 14])):
            np.testing.assert_array_equal(context.get_output(key), expected)
        for key in (3, -1, "1", "other"):
            with pytest.raises(InvalidArgument):
                context.get_output(key)
        with pytest.raises(InvalidArgument):
            context.set_input(2, np.float32([1]))


def test_results_may_be_a_dictionary(host):
    with host.load(scripted(NAMED)).init_execution_context() as context:
        context.set_input("x", np.float32([1, 2]))
        context.compute()
        np.testing.assert_array_equal(context.get_output("minus"), [-1, -2])
        np.testing.assert_array_equal(context.get_output(0), [2, 4])


def test_numbers_may_be_arguments(host):
    with host.load(scripted(SCALAR)).init_execution_context() as context:
        context.set_input("x", np.float32([1, 2]))
        context.set_input("rate", np.int64(3))
        context.set_input("gain", np.float32([0.5]))
        context.set_input("flip", np.uint8(1))
        context.compute()
        np.testing.assert_array_equal(context.get_output(0), [-1.5, -3])
        with pytest.raises(
            InvalidArgument, match="input rate is a whole number: it takes a tensor of one element"
        ):
            context.set_input("rate", np.int64([1, 2]))
        for value in (np.nan, np.inf):
            context.set_input("rate", np.float32(value))
            with pytest.raises(InvalidArgument, match="input rate must be a whole number"):
                context.compute()


@pytest.mark.parametrize("kind", [Counting, CountingInPlace, CountingInAList])
@pytest.mark.parametrize("inside", [False, True])
def test_a_module_with_state_has_one_in_every_context(host, kind, inside):
    module = torch.nn.Sequential(kind()) if inside else kind()
    assert states(host.load(jit_scripted(module))) == [[1], [2], [1]]


def test_an_exported_program_with_state_has_one_in_every_context(host, tmp_path):
    path = tmp_path / "counting.pt2"
    torch.export.save(torch.export.export(CountingInPlace(), (torch.ones(1),)), path)
    assert states(host.load(path)) == [[1], [2], [1]]


def test_a_module_without_state_is_loaded_once():
    """Though it writes in place: to what it has just computed, or when it is trained."""
    layers = torch.nn.Sequential(
        torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1), torch.nn.ReLU(inplace=True)
    )
    model = memoryview(jit_scripted(layers))
    graph = PytorchBackend().load([model], LoadOptions("pytorch"))
    first, second = graph.init_execution_context(unlimited), graph.init_execution_context(unlimited)
    assert first._module is second._module


def states(model):
    """What two calls in one context and one in another give."""
    first, second = model.init_execution_context(), model.init_execution_context()
    seen = []
    for context in (first, first, second):
        context.set_input(0, np.float32([1]))
        context.compute()
        seen.append(context.get_output(0).tolist())
    return seen


def test_results_may_be_views(host):
    with host.load(
        scripted("def forward(self, x):\n    return x.t()\n")
    ).init_execution_context() as context:
        context.set_input(0, np.arange(6, dtype=np.float32).reshape(2, 3))
        context.compute()
        np.testing.assert_array_equal(context.get_output(0), [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize("result", ["x", "x.view(1, 1)", "(x, x.t())"])
def test_a_result_is_kept_when_the_input_is_set_again(host, result):
    source = f"def forward(self, x):\n    return {result}\n"
    with host.load(scripted(source)).init_execution_context() as context:
        context.set_input(0, np.float32([1]))
        context.compute()
        context.set_input(0, np.float32([2]))
        assert context.get_output(0).reshape(-1).tolist() == [1]


class AddingInPlace(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.view(1, 1)
        y.add_(1)
        return y * 1


def test_inputs_stay_as_they_were_set(host, tmp_path):
    path = tmp_path / "adding.pt2"
    torch.export.save(torch.export.export(AddingInPlace(), (torch.ones(1),)), path)
    added = scripted("def forward(self, x):\n    return x.add_(1)\n")
    for source in (added, jit_scripted(AddingInPlace()), path):
        with host.load(source).init_execution_context() as context:
            context.set_input(0, np.float32([1]))
            for _ in range(2):
                context.compute()
                assert context.get_output(0).reshape(-1).tolist() == [2]


@pytest.mark.parametrize("dims", [(0,), (0, 3), (2, 0), (0, 2**32 - 1)])
def test_empty_tensors(host, dims):
    with host.load(scripted(DOUBLE)).init_execution_context() as context:
        for _ in range(2):
            context.set_input(0, Tensor(TensorType.F32, dims, memoryview(b"")))
            context.compute()
            assert context.get_output(0).shape == dims


def test_dimensions_too_large_for_torch_are_refused(host):
    dims = (0, *[2**32 - 1] * 3)
    with host.load(scripted(DOUBLE)).init_execution_context() as context:
        with pytest.raises(InvalidArgument, match="no tensor of dimensions"):
            context.set_input(0, Tensor(TensorType.F32, dims, memoryview(b"")))
        with pytest.raises(InvalidArgument, match="not been set"):
            context.compute()


def test_types_that_wasi_nn_lacks_travel_as_bits(host):
    source = "def forward(self, x):\n    return torch.complex(x, x), x > 1\n"
    with host.load(scripted(source)).init_execution_context() as context:
        context.set_input(0, np.float32([1, 2]))
        context.compute()
        with pytest.raises(UnsupportedOperation, match="complex64"):
            context.get_output(0)
        assert context.get_output(1).tolist() == [0, 1]


def test_exported_archives_are_run(host, tmp_path):
    path = exported(tmp_path)[0]
    model = host.load(path)
    assert [info.describe() for info in model.inputs] == ["x: f32[1, 3, 8, 8]"]
    with model.init_execution_context() as context:
        context.set_input("x", sample())
        context.compute()
        np.testing.assert_allclose(context.get_output(0), reference(sample()), atol=1e-6)
        with pytest.raises(InvalidArgument, match="does not take"):
            context.set_input("x", np.zeros((1, 3, 4, 4), np.float32))


class TestWhatIsRefused:
    def test_pickled_modules_and_state_dicts_are_refused_with_advice(self, host, tmp_path):
        module = torch.nn.Linear(2, 2)
        for thing in (module, module.state_dict()):
            path = tmp_path / "pickled.pt"
            torch.save(thing, path)
            for source in (path, path.read_bytes()):
                with pytest.raises(RuntimeFailure, match=r"refused; export it with torch\.jit"):
                    host.load(source, encoding="pytorch")

    def test_a_pickle_outside_an_archive_is_refused(self, host, tmp_path):
        import pickle

        for data in (pickle.dumps({"a": 1}), b"", b"PK\x03\x04 and then nothing"):
            with pytest.raises(RuntimeFailure, match="not a PyTorch archive"):
                host.load(data, encoding="pytorch")

    def test_other_archives_are_refused(self, host):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a/b", "c")
        with pytest.raises(RuntimeFailure, match="neither TorchScript nor"):
            host.load(buffer.getvalue(), encoding="pytorch")

    def test_a_guests_own_exported_archive_is_refused(self, host, tmp_path):
        data = exported(tmp_path)[0].read_bytes()
        with pytest.raises(RuntimeFailure, match="run code when they are loaded"):
            host.load(data)


@pytest.mark.parametrize(
    ("array", "says"),
    [(np.zeros((1, 3, 8), np.float32), "failed to compute"), (None, "not been set")],
)
def test_calls_out_of_order_and_failures_of_torch_are_explained(host, tmp_path, array, says):
    with host.load(torchscript(tmp_path)[0]).init_execution_context() as context:
        if array is not None:
            context.set_input(0, array)
        with pytest.raises(NnError, match=says):
            context.compute()
        with pytest.raises(InvalidArgument, match="before compute"):
            context.get_output(0)


def test_wrong_builders_configs_and_targets_are_refused(plugins):
    backend, options = PytorchBackend(), LoadOptions("pytorch")
    model = memoryview(scripted(DOUBLE))
    for builders in ([], [model, model]):
        with pytest.raises(InvalidArgument, match="one builder"):
            backend.load(builders, options)
    with pytest.raises(InvalidArgument, match="must be"):
        backend.load([model], options._replace(config={"threads": "2"}))
    threads = torch.get_num_threads()
    backend.load([model], options._replace(config={"threads": 1}))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    with Host(plugins=plugins) as host:
        with pytest.raises(UnsupportedOperation, match="tpu is not available"):
            host.load(bytes(model), target="tpu")
        assert host.load(bytes(model), target="auto").inputs
    with Host(plugins=plugins, allow_fallback=True) as host:
        assert host.load(bytes(model), target="tpu").inputs


def test_damaged_models_are_errors_and_never_crashes(tmp_path):
    """Torch has been seen to crash on damaged archives; the host goes on."""
    (tmp_path / "mutants").mkdir()
    np.save(tmp_path / "x.npy", sample())
    damaged = mutants.damage(torchscript(tmp_path)[0].read_bytes(), cuts=40, flips=200)
    assert mutants.deaths("pytorch", damaged, tmp_path / "x.npy", tmp_path / "mutants") == []


def test_contexts_of_one_graph_run_side_by_side(host):
    model, wrong = host.load(scripted(DOUBLE)), []

    def work(seed: int) -> None:
        with model.init_execution_context() as context:
            for turn in range(100):
                context.set_input(0, np.full(seed + 1, turn, np.float32))
                context.compute()
                if not (context.get_output(0) == 2 * turn).all():
                    wrong.append(seed)

    together([partial(work, seed) for seed in range(4)])
    assert wrong == []


def test_a_context_may_change_threads(host):
    context = host.load(scripted(DOUBLE)).init_execution_context()
    results = []

    def work() -> None:
        context.set_input(0, np.float32([1]))
        context.compute()
        results.append(context.get_output(0).tolist())

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert results == [[2]] * 3


# An offset of 64 MB in a flatbuffer also reads as the start of an archive's entry.
@pytest.mark.parametrize("start", [None, b"PK\x03\x04"])
def test_a_guest_brings_no_model_that_torch_reads_in_another_format(host, tmp_path, start):
    """torch looks at the first bytes and ``zipfile`` at the last ones, so a flatbuffer with an
    archive behind it is two models."""
    good = scripted("def forward(self, x):\n    return x + x\n")
    path = tmp_path / "flatbuffer"
    torch.jit.save_jit_module_to_flatbuffer(torch.jit.script(torch.nn.ReLU()), str(path))
    flatbuffer = path.read_bytes()
    both = io.BytesIO((start or flatbuffer[:4]) + flatbuffer[4:])
    with zipfile.ZipFile(both, "a") as out, zipfile.ZipFile(io.BytesIO(good)) as entries:
        for name in entries.namelist():
            out.writestr(name, entries.read(name))
    with host.open_session() as session:
        with pytest.raises(RuntimeFailure, match="does not begin with its first entry"):
            session.load([memoryview(both.getvalue())], "pytorch", ExecutionTarget.CPU)
        assert session.load([memoryview(good)], "pytorch", ExecutionTarget.CPU) == 0


def test_an_archive_without_the_value_of_an_attribute_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(counting())) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            # torch raises an IndexError for it.
            if name.endswith("/data.pkl"):
                data = data.replace(b"training", b"drowning")
            new.writestr(name, data)
    with pytest.raises(RuntimeFailure, match="torch rejects the model"):
        PytorchBackend().load([memoryview(out.getvalue())], LoadOptions("pytorch"))


def test_the_guests_bytes_may_change_after_the_load():
    data = bytearray(counting())
    graph = PytorchBackend().load([memoryview(data)], LoadOptions("pytorch"))
    data[:] = bytes(len(data))
    context = graph.init_execution_context(unlimited)
    context.set_input(0, Tensor.of(np.float32([1])))
    context.compute()
    assert context.get_output(0).numpy().tolist() == [1]


def test_without_torch_the_backend_says_what_to_install(monkeypatch):
    monkeypatch.setattr("wasi_nn_pytorch.backend.missing_library", lambda *names: "not here")
    assert not PytorchBackend().availability().usable
    with pytest.raises(Unavailable, match="not here"):
        loading.load(PytorchBackend(), [memoryview(b"")], LoadOptions("pytorch"))


class Inner(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("inner\x1b[31m\nwasi-nn: all good", x)
        return x


class Talking(torch.nn.Module):
    """Prints from a module inside, as often as it was called before."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.inner(x) + self.count


class Stored(torch.nn.Module):
    """Prints when it is loaded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> int:
        return 3

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False
        print("stored\x1b[31m")


@pytest.mark.parametrize(
    ("make", "says"), [(Inner, "inner"), (Talking, "inner"), (Stored, "stored")]
)
def test_what_a_model_prints_is_logged(host, capsys, caplog, make, says):
    with caplog.at_level("INFO", "wasi_nn"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            data = archive(torch.jit.script(make()))
        capsys.readouterr()
        model = host.load(data)
        before = sys.stdout
        model.run(np.ones(2, np.float32))
        assert sys.stdout is before
        print("ours")
    assert capsys.readouterr() == ("ours\n", "")
    assert f"the model prints: {says}\\x1b[31m" in caplog.text
    assert "\x1b" not in caplog.text
    assert "\nwasi-nn:" not in caplog.text


def test_other_threads_print_as_before(capsys):
    with prints.logged():
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
        with prints.logged():
            pass
        print("from a model")
        assert sys.stdout.encoding
    assert capsys.readouterr().out == "from a thread\n"


def test_a_module_optimised_for_inference_is_refused_with_advice(host):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()).eval()
    optimised = torch.jit.optimize_for_inference(torch.jit.script(module))
    if "mkldnn" not in str(optimised.graph):
        pytest.skip("this torch optimises nothing that cannot be saved")
    with pytest.raises(RuntimeFailure, match="optimize_for_inference makes modules"):
        host.load(archive(optimised))


@pytest.mark.parametrize("made", ["script", "freeze"])
def test_a_module_saved_while_training_runs_in_inference_mode(host, made):
    """Dropout would make other numbers on each call."""
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled = torch.jit.script(module)
        saved = torch.jit.freeze(compiled.eval()) if made == "freeze" else compiled
    x = np.float32([[1, 2], [3, 4], [5, 6]])
    with host.load(archive(saved)).init_execution_context() as context:
        for rows in (3, 2, 3):
            context.set_input(0, x[:rows])
            context.compute()
            np.testing.assert_allclose(context.get_output(0), x[:rows], rtol=1e-4)
