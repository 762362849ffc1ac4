"""What modules take and give beside single tensors, against what torch itself gives."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union  # noqa: UP035

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

torch = needs("torch")

from torch import Tensor  # noqa: E402

from wasi_nn.errors import InvalidArgument, UnsupportedOperation  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning"
)
Module = torch.nn.Module


def f32(*values: float) -> Any:
    return np.float32(values)


def t32(*values: float) -> Any:
    return torch.tensor(values, dtype=torch.float32)


def script(module: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def export(tmp_path: Path, module: Any, *args: Any, dynamic: Any = None, **kwargs: Any) -> Path:
    path = tmp_path / "program.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), args, kwargs, dynamic_shapes=dynamic)
        torch.export.save(program, path)
    return path


def run(host: Any, source: Any, feed: Any) -> Any:
    return {name: array.tolist() for name, array in host.load(source).run(feed).items()}


class Defaults(Module):
    def forward(
        self,
        x: Tensor,
        mask: Optional[Tensor] = None,  # noqa: UP045
        scale: float = 2.0,
        length: int = 3,
        flip: bool = False,
    ) -> Tensor:
        y = (x if mask is None else x * mask) * scale + length
        return -y if flip else y


class Lists(Module):
    def forward(self, xs: List[Tensor], k: Optional[Dict[str, Tensor]] = None):  # noqa: UP006, UP045
        y = xs[0] - xs[-1]
        return (y if k is None else y * k["by.ten"]), len(xs)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Tuples(Module):
    def forward(self, p: Tuple[Tensor, int], pair: Pair):  # noqa: UP006
        return Pair(p[0] * p[1], pair.left - pair.right)


class Dicts(Module):
    def forward(self, d: Dict[str, List[Tensor]], m: Dict[int, float]):  # noqa: UP006
        return d["a"][0] * 2 + d["b"][1] * m[-3]


class MaybeInside(Module):
    def forward(self, xs: List[Optional[Tensor]], p: Tuple[Tensor, Optional[Tensor]]):  # noqa: UP006, UP045
        first, last = xs[0], p[1]
        y = p[0] if first is None else p[0] + first
        return y if last is None else y * last


class KeywordOnly(Module):
    def forward(self, x: Tensor, *, mask: Tensor):
        return x * mask


class Readable(Module):
    def forward(self, word: str, sizes: List[int], weights: List[float], x: Union[Tensor, int]):  # noqa: UP006
        return len(word), sizes[0] * sizes[1], weights[0] + weights[1], x


class NoInputs(Module):
    def forward(self):
        return torch.ones(2) * 3


class Devices(Module):
    def forward(self, device: torch.device, x: Tensor):
        return x


class DefaultDevice(Module):
    def forward(self, x: Tensor, device: Optional[torch.device] = None):  # noqa: UP045
        return x


SCRIPTS = [
    (Defaults, {0: f32(1, 2)}, {"0": [5, 7]}),
    (Defaults, {0: f32(1, 2), 1: f32(10, 20)}, {"0": [23, 83]}),
    (Defaults, {"x": f32(1), "flip": np.uint8(1)}, {"0": [-5]}),
    (Defaults, {"x": f32(1), 4: np.bool_(True), "length": np.int64(-1)}, {"0": [-1]}),
    (Defaults, {0: f32(1), 2: np.float32(0.5), 3: np.int32([4])}, {"0": [4.5]}),
    (Lists, {0: f32(9), 1: f32(5), 2: f32(2)}, {"0": [7], "1": 3}),
    (Lists, {"xs.1": f32(5), "xs.0": f32(9)}, {"0": [4], "1": 2}),
    (Lists, {"xs.0": f32(9), "xs.1": f32(5), "k.by.ten": f32(10)}, {"0": [40], "1": 2}),
    (
        Tuples,
        {"p.0": f32(2), "p.1": np.int64(3), "pair.left": f32(5), "pair.1": f32(1)},
        {"0": [6], "1": [4]},
    ),
    (Tuples, {0: f32(2), 1: np.int64(3), 2: f32(5), 3: f32(1)}, {"0": [6], "1": [4]}),
    (
        Dicts,
        {"d.a.0": f32(1), "d.b.0": f32(0), "d.b.1": f32(4), "m.-3": np.float64(0.5)},
        {"0": [4]},
    ),
    (MaybeInside, {"xs.1": f32(0), "p.0": f32(3)}, {"0": [3]}),
    (MaybeInside, {"xs.0": f32(2), "p.0": f32(3), "p.1": f32(4)}, {"0": [20]}),
    (KeywordOnly, {0: f32(3), 1: f32(4)}, {"0": [12]}),
    (KeywordOnly, {"mask": f32(4), "x": f32(3)}, {"0": [12]}),
    (
        Readable,
        {
            0: np.frombuffer("ü😀x".encode(), np.uint8),
            1: np.int64([3, 5]),
            2: f32(0.5, 1),
            3: f32(7),
        },
        # TorchScript counts bytes.
        {"0": 7, "1": 15, "2": 1.5, "3": [7]},
    ),
    (NoInputs, {}, {"0": [3, 3]}),
    (DefaultDevice, {0: f32(1)}, {"0": [1]}),
]


@pytest.mark.parametrize(("module", "feed", "right"), SCRIPTS)
def test_arguments_of_scripts_are_set(host, module, feed, right):
    assert run(host, script(module()), feed) == right


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (
            Defaults,
            [
                "x: Tensor",
                "mask: Optional[Tensor] = None",
                "scale: f64[]",
                "length: i64[]",
                "flip: u8[]",
            ],
        ),
        # A default of the last argument leaves the indices from 1 to the list.
        (Lists, ["xs: List[Tensor]"]),
        (Tuples, ["p.0: Tensor", "p.1: i64[]", "pair.left: Tensor", "pair.right: Tensor"]),
        (NoInputs, []),
    ],
)
def test_scripts_describe_what_can_be_set_by_index(host, module, inputs):
    assert [info.describe() for info in host.load(script(module())).inputs] == inputs


@pytest.mark.parametrize(
    ("module", "key", "tensor", "says"),
    [
        (Defaults, "scales", f32(1), "no input named 'scales'; the module has: x, mask, scale"),
        (Defaults, 5, f32(1), "out of range"),
        (Defaults, -1, f32(1), "out of range"),
        (Defaults, "scale", f32(1, 2), "scale is a number: it takes a tensor of one element"),
        (Defaults, "x.0", f32(1), "x is a Tensor, which has no part '0'"),
        (Lists, "xs", f32(1), "set its elements one by one, as xs.0, xs.1"),
        (Lists, "xs.-1", f32(1), "set its elements one by one"),
        (Lists, "xs.1024", f32(1), "at most 1024"),
        (Lists, "xs." + "9" * 5000, f32(1), "at most 1024"),
        (Lists, 1024, f32(1), "out of range"),
        (Lists, "k", f32(1), "set its values by their keys, as k.KEY"),
        (Dicts, "m.one", f32(1), "the keys of input m are whole numbers, not one"),
        (Tuples, "p", f32(1), "set its parts one by one, as p.0, p.1"),
        (Tuples, "pair.middle", f32(1), "as pair.left, pair.right"),
        (Readable, "sizes", np.int64([[1]]), "sizes is a list of whole numbers.*one dimension"),
    ],
)
def test_inputs_that_a_script_lacks_are_explained(host, module, key, tensor, says):
    context = host.load(script(module())).init_execution_context()
    with context, pytest.raises(InvalidArgument, match=says):
        context.set_input(key, tensor)


@pytest.mark.parametrize(
    ("module", "feed", "says"),
    [
        (Defaults, {}, "not been set: x$"),
        (Lists, {}, r"not been set: xs\.0$"),
        (Lists, {"xs.0": f32(1), "xs.2": f32(1)}, r"not been set: xs\.1$"),
        (Lists, {"xs.1023": f32(1)}, r"xs\.0, xs\.1, .* and 1007 more$"),
        (Dicts, {"m.-3": f32(1)}, r"not been set: d\.KEY$"),
        (Tuples, {"p.0": f32(1)}, r"not been set: p\.1, pair\.left, pair\.right$"),
        (Readable, {0: np.uint8([255]), 1: np.int64([1, 1]), 2: f32(1, 1), 3: f32(1)}, "UTF-8"),
        (Defaults, {"x": f32(1), "length": np.array(0.5)}, "length must be a whole number"),
    ],
)
def test_missing_and_unreadable_inputs_are_explained(host, module, feed, says):
    with host.load(script(module())).init_execution_context() as context:
        for key, value in feed.items():
            context.set_input(key, value)
        with pytest.raises(InvalidArgument, match=says):
            context.compute()


def test_arguments_that_a_tensor_cannot_represent_are_explained(host):
    with host.load(script(Devices())).init_execution_context() as context:
        context.set_input("x", f32(1))
        for call in (lambda: context.set_input(0, f32(1)), context.compute):
            with pytest.raises(UnsupportedOperation, match="device is a Device, which no tensor"):
                call()


class AddsInside(Module):
    def forward(self, xs: List[Tensor], k: Dict[str, Tensor]):  # noqa: UP006
        return xs[0].add_(1), k["a"].mul_(2)


def test_inputs_inside_containers_stay_as_they_were_set(host):
    with host.load(script(AddsInside())).init_execution_context() as context:
        context.set_input("xs.0", f32(1))
        context.set_input("k.a", f32(5))
        for _ in range(2):
            context.compute()
            assert [context.get_output(index).tolist() for index in (0, 1)] == [[2], [10]]


class GivesBack(Module):
    def forward(self, xs: List[Tensor], k: Dict[str, Tensor]):  # noqa: UP006
        return xs, k


def test_results_inside_containers_are_kept_when_inputs_are_set_again(host):
    with host.load(script(GivesBack())).init_execution_context() as context:
        for key in ("xs.0", "xs.1", "k.a"):
            context.set_input(key, f32(1))
        context.compute()
        for key in ("xs.0", "xs.1", "k.a"):
            context.set_input(key, f32(2))
        assert [context.get_output(key).tolist() for key in ("0.0", "0.1", "1.a")] == [[1]] * 3


class Mixed(Module):
    def forward(self, x: Tensor):
        nothing: Optional[Tensor] = None  # noqa: UP045
        empty: Dict[str, Tensor] = {}  # noqa: UP006
        return 2, x, nothing, 0.5, True, empty, [x + 1, x + 2], {"k": x + 3}, "text"


MIXED = {0: 2, 1: [1], 3: 0.5, 4: 1, 6: [2], 7: [3], 8: [4]}


def test_every_result_keeps_its_index(host):
    model = host.load(script(Mixed()))
    assert run(host, script(Mixed()), f32(1)) == {str(key): it for key, it in MIXED.items()}
    with model.init_execution_context() as context:
        context.set_input(0, f32(1))
        context.compute()
        assert {key: context.get_output(key).tolist() for key in MIXED} == MIXED
        assert [context.get_output(key).dtype for key in (0, 3, 4)] == ["int64", "float64", "uint8"]
        assert [context.get_output(key).tolist() for key in ("0", "6.1", "7.k")] == [2, [3], [4]]
        for key, says in ((2, "2 is None"), (5, "type empty dict"), (9, "8 is .* type str")):
            with pytest.raises(UnsupportedOperation, match=says):
                context.get_output(key)
        with pytest.raises(InvalidArgument, match="out of range: the graph has 10"):
            context.get_output(10)


class Alone(Module):
    def forward(self, x: Tensor) -> float:
        return float(x.sum())


class Nothing(Module):
    def forward(self, x: Tensor) -> None:
        return None


def test_a_result_may_be_one_number_or_none(host):
    assert run(host, script(Alone()), f32(1.5, 2)) == {"0": 3.5}
    with pytest.raises(UnsupportedOperation, match="output 0 is None"):
        host.load(script(Nothing())).run(f32(1))


class Sparse(Module):
    def forward(self, x: Tensor):
        return x.to_sparse(), x


def test_a_sparse_result_is_refused_with_what_to_do(host):
    with host.load(script(Sparse())).init_execution_context() as context:
        context.set_input(0, f32(0, 1))
        context.compute()
        with pytest.raises(UnsupportedOperation, match=r"layout sparse_coo: .*y\.to_dense\(\)"):
            context.get_output(0)
        assert context.get_output(1).tolist() == [0, 1]


def test_fields_of_named_tuples_name_results(host):
    with host.load(script(Tuples())).init_execution_context() as context:
        for key, value in enumerate((f32(2), np.int64(3), f32(5), f32(1))):
            context.set_input(key, value)
        context.compute()
        for key in ("left", "0", 0):
            assert context.get_output(key).tolist() == [6]


class Masked(Module):
    def forward(self, x, mask=None, k=2):
        return x * k if mask is None else x * mask * k


class Nested(Module):
    def forward(self, d, xs, p):
        return {"b": d["b"] - d["a"], "a": [xs[0] * xs[1], (p[0], p[1][0])]}


class Constants(Module):
    def forward(self, x, word, n, flag, nothing, inside):
        y = x * n * inside["s"] * inside["t"][1]
        return (y if flag and word == "a" and nothing is None else x), 2, None, 0.5, x.shape[0]


class Rest(Module):
    def forward(self, *xs, **others):
        return xs[0] - xs[1] * others["z"]


class Same(Module):
    def forward(self, x, y):
        return y, x, x.view(1, 1)


class Conditions(Module):
    def forward(self, condition, small):
        return torch.where(condition, small, -small), condition


class Symbols(Module):
    def forward(self, x, count):
        return x[:count] * count, x.shape[0]


class Parts(Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", t32(5))

    def forward(self, x):
        return self.kept, [], x + 1


I8 = torch.int8
AB = ({"a": t32(1), "b": t32(5)}, [t32(2), t32(3)], (t32(7), [t32(9)]))
AB_KEYS = ("d.a", "d.b", "xs.0", "xs.1", "p.0", "p.1.0")
AB_FEED = (f32(1), f32(5), f32(2), f32(3), f32(7), f32(9))
INSIDE = {"s": 3, "t": [1, t32(4)]}
COUNTED = {"x": {0: torch.export.Dim("rows")}, "count": torch.export.Dim.DYNAMIC}
PROGRAMS = [
    (Masked, (t32(1, 2),), {"mask": t32(3, 4)}, {0: f32(1, 2), 1: f32(3, 4)}, {"0": [6, 16]}),
    (Masked, (), {"mask": t32(3), "x": t32(1)}, {"x": f32(1), "mask": f32(3)}, {"0": [6]}),
    (Masked, (t32(1), None), {"k": 5}, {"x": f32(2)}, {"0": [10]}),
    (Masked, (t32(1), t32(1), 5), {}, {0: f32(2), 1: f32(3)}, {"0": [30]}),
    (
        Nested,
        AB,
        {},
        dict(zip(AB_KEYS, AB_FEED, strict=True)),
        {"b": [4], "a.0": [6], "a.1.0": [7], "a.1.1": [9]},
    ),
    (
        Nested,
        AB,
        {},
        dict(enumerate(AB_FEED)),
        {"b": [4], "a.0": [6], "a.1.0": [7], "a.1.1": [9]},
    ),
    (
        Constants,
        (t32(1), "a", 2, True, None, INSIDE),
        {},
        {0: f32(5), 1: f32(10)},
        {"0": [300], "1": 2, "3": 0.5, "4": 1},
    ),
    (
        Rest,
        (t32(1), t32(1)),
        {"z": t32(1)},
        {0: f32(9), 1: f32(2), "z": f32(3)},
        {"0": [3]},
    ),
    (NoInputs, (), {}, {}, {"0": [3, 3]}),
    (Same, (t32(1), t32(1)), {}, {0: f32(3), 1: f32(4)}, {"0": [4], "1": [3], "2": [[3]]}),
    (
        Conditions,
        (torch.tensor([True, False]), torch.tensor([1, 2], dtype=I8)),
        {},
        {0: np.uint8([255, 0]), 1: np.int8([1, 2]).view(np.uint8)},
        {"0": [1, 254], "1": [1, 0]},
    ),
    (Parts, (t32(1),), {}, {0: f32(1)}, {"0": [5], "2": [2]}),
]


@pytest.mark.parametrize(("module", "args", "kwargs", "feed", "right"), PROGRAMS)
def test_arguments_of_programs_are_set(host, tmp_path, module, args, kwargs, feed, right):
    path = export(tmp_path, module(), *args, **kwargs)
    assert run(host, path, feed) == right


def test_an_export_may_leave_numbers_and_dimensions_open(host, tmp_path):
    path = export(tmp_path, Symbols(), torch.ones(8), 3, dynamic=COUNTED)
    model = host.load(path)
    assert [info.describe() for info in model.inputs] == ["x: f32[?]", "count: i64[]"]
    assert [info.describe() for info in model.outputs] == ["0: f32[?]", "1: i64[]"]
    assert run(host, path, {0: f32(1, 2, 3, 4, 5), 1: np.int64(2)}) == {"0": [2, 4], "1": 5}


def test_programs_describe_what_can_be_set_and_read(host, tmp_path):
    path = export(tmp_path, Constants(), t32(1), "a", 2, True, None, INSIDE)
    model = host.load(path)
    assert [info.describe() for info in model.inputs] == ["x: f32[1]", "inside.t.1: f32[1]"]
    described = ["0: f32[1]", "1: i64[]", "2: None", "3: f64[]", "4: i64[]"]
    assert [info.describe() for info in model.outputs] == described
    with model.init_execution_context() as context:
        for key in ("n", "word", "inside.s"):
            with pytest.raises(InvalidArgument, match=f"{key} was fixed at .* leave it out"):
                context.set_input(key, np.int64(3))
        with pytest.raises(InvalidArgument, match=r"does not take f64 tensors"):
            context.set_input("x", np.float64([1]))
        context.set_input("x", f32(1))
        with pytest.raises(InvalidArgument, match=r"not been set: inside\.t\.1$"):
            context.compute()
        with pytest.raises(InvalidArgument, match=r"no input named 'y'; the graph has: x, inside"):
            context.set_input("y", f32(1))


class Shifted(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_a_module_reads_an_argument_where_it_lies(tmp_path):
    import wasi_nn
    from wasi_nn.backend import LoadOptions, unlimited
    from wasi_nn_pytorch.backend import PytorchBackend

    path = tmp_path / "shifted.pt"
    path.write_bytes(script(Shifted()))
    context = (
        PytorchBackend().load([path], LoadOptions("pytorch")).init_execution_context(unlimited)
    )
    memory = np.zeros(3, np.float32)
    assert context.read_from(0, wasi_nn.Tensor.of(memory))
    for value in (1, 5):
        memory[:] = value
        context.compute()
        assert np.frombuffer(context.get_output(0).data, np.float32).tolist() == [value + 1] * 3
    context.set_input(0, wasi_nn.Tensor.of(f32(7, 8, 9)))
    assert memory.tolist() == [7, 8, 9]
    context.close()
