"""The names that signatures give to a model's tensors, and signatures beside the main one."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from conftest import needs

needs("ai_edge_litert")

from click.testing import CliRunner  # noqa: E402

from authoring.flatbuffer import FlatModel  # noqa: E402
from wasi_nn._cli import app  # noqa: E402
from wasi_nn.errors import InvalidArgument, RuntimeFailure  # noqa: E402
from wasi_nn.types import ExecutionTarget  # noqa: E402
from wasi_nn_tflite.layout import layout  # noqa: E402

DIMS, OPEN = (1, 2), (-1, 2)


def f32(*values: float):
    return np.float32([values])


def crossed(**signatures):
    """difference = in_a - in_b, total = in_a + in_b, with in_b as input 0."""
    model = FlatModel()
    b, a, total, difference = (model.tensor(name, DIMS) for name in ("b:0", "a:0", "t:0", "d:0"))
    model.operator("ADD", [a, b], [total])
    model.operator("SUB", [a, b], [difference])
    tensors = {"b": b, "a": a, "total": total, "difference": difference}
    for name, (inputs, outputs) in signatures.items():
        model.sign(
            name,
            {key: tensors[tensor] for key, tensor in inputs.items()},
            {key: tensors[tensor] for key, tensor in outputs.items()},
        )
    return model.finish([b, a], [total, difference])


USUAL = {"serving_default": ({"x": "a", "y": "b"}, {"diff": "difference", "sum": "total"})}


def several():
    """serving_default (out = a - b), and another signature with open dimensions, whose tensors
    have the same indices."""
    model = FlatModel()
    b, a, out = (model.tensor(name, DIMS) for name in ("b:0", "a:0", "out:0"))
    model.operator("SUB", [a, b], [out])
    model.sign("serving_default", {"a": a, "b": b}, {"out": out})
    model.another([b, a], [out])
    q, p, total = (model.tensor(name, DIMS, signature=OPEN) for name in ("q:0", "p:0", "t:0"))
    two = model.constant("two", np.float32([[2, 2]]))
    twice = model.tensor("w:0", DIMS, signature=OPEN)
    model.operator("ADD", [p, q], [total])
    model.operator("ADD", [p, two], [twice])
    model.sign("other", {"p": p, "q": q}, {"sum": total, "more": twice, "alias": total})
    return model.finish([p, q], [twice, total, q])


def test_tensors_have_the_names_of_the_signature_and_their_own(host):
    model = host.load(crossed(**USUAL))
    # An index means what it means without names.
    assert [info.name for info in model.inputs] == ["y", "x"]
    assert [info.aliases for info in model.outputs] == [("t:0",), ("d:0",)]
    for feed in ({"x": f32(5, 7), "y": f32(1, 2)}, {"a:0": f32(5, 7), 0: f32(1, 2)}):
        result = model.run(feed)
        assert {name: array.tolist() for name, array in result.items()} == {
            "sum": [[6, 9]],
            "diff": [[4, 5]],
        }
        assert result["d:0"].tolist() == [[4, 5]]
    says = "no input named 'a'; the graph has: y, x"
    with model.init_execution_context() as context, pytest.raises(InvalidArgument, match=says):
        context.set_input("a", f32(1, 2))


@pytest.mark.parametrize(
    ("signatures", "inputs", "outputs"),
    [
        ({}, [("b:0", ()), ("a:0", ())], [("t:0", ()), ("d:0", ())]),
        # Names that are others' tensors' names.
        (
            {"s": ({"a:0": "b", "b:0": "a"}, {"d:0": "total", "t:0": "difference"})},
            [("a:0", ("b:0",)), ("b:0", ("a:0",))],
            [("d:0", ("t:0",)), ("t:0", ("d:0",))],
        ),
        # One that names a part, and one output twice.
        (
            {"s": ({"x": "a"}, {"sum": "total", "again": "total"})},
            [("b:0", ()), ("x", ("a:0",))],
            [("again", ("sum", "t:0")), ("d:0", ())],
        ),
        # The usual one goes before others of the main subgraph.
        (
            {"first": ({"p": "a", "q": "b"}, {}), **USUAL},
            [("y", ("b:0",)), ("x", ("a:0",))],
            [("sum", ("t:0",)), ("diff", ("d:0",))],
        ),
        ({"": ({"x": "a", "y": "b"}, {})}, [("y", ("b:0",)), ("x", ("a:0",))], None),
    ],
)
def test_inspect_names_come_from_the_signature_first(host, signatures, inputs, outputs):
    model = host.load(crossed(**signatures))
    assert [(info.name, info.aliases) for info in model.inputs] == inputs
    if outputs is not None:
        assert [(info.name, info.aliases) for info in model.outputs] == outputs


def test_a_name_means_the_signatures_tensor_first(host):
    model = host.load(crossed(s=({"a:0": "b", "b:0": "a"}, {"d:0": "total", "t:0": "difference"})))
    result = model.run({"b:0": f32(5, 7), "a:0": f32(1, 2)})
    assert result["d:0"].tolist() == [[6, 9]]
    assert result["t:0"].tolist() == [[4, 5]]


def test_an_output_may_have_several_names(host):
    model = FlatModel()
    x, y = model.tensor("x:0", DIMS), model.tensor("y:0", DIMS)
    model.operator("ADD", [x, x], [y])
    model.sign("s", {"x": x}, {"one": y, "two": y})
    result = host.load(model.finish([x], [y, y, x])).run(f32(1, 2))
    assert {name: array.tolist() for name, array in result.items()} == {
        "one": [[2, 4]],
        "two": [[2, 4]],
        "x:0": [[1, 2]],
    }


def test_the_config_chooses_a_signature(host):
    model = host.load(several(), config={"signature": "other"})
    assert [info.describe() for info in model.inputs] == ["p: f32[?, 2]", "q: f32[?, 2]"]
    assert [info.name for info in model.outputs] == ["more", "alias", "q:0"]
    contexts = [model.init_execution_context() for _ in range(3)]
    for rows, context in enumerate(contexts, 1):
        p = np.full((rows, 2), rows, np.float32)
        context.set_input("p", p)
        context.set_input(1, 10 * p)
    for rows, context in enumerate(contexts, 1):
        for _ in range(2):
            context.compute()
            # An output that is an input is not what is set next.
            context.set_input("q", np.full((rows, 2), 10 * rows, np.float32))
            assert context.get_output("sum").tolist() == [[11 * rows] * 2] * rows
            assert context.get_output("more").tolist() == [[rows + 2] * 2] * rows
            assert context.get_output(2).tolist() == [[10 * rows] * 2] * rows
        context.set_input("q", np.zeros((rows + 1, 2), np.float32))
        context.set_input("p", np.ones((rows + 1, 2), np.float32))
        context.compute()
        assert context.get_output("alias").tolist() == [[1, 1]] * (rows + 1)
        context.set_input("p", np.ones((rows + 2, 2), np.float32))
        with pytest.raises(RuntimeFailure):
            context.compute()
        context.close()


@pytest.mark.parametrize("config", [{}, {"signature": "serving_default"}])
def test_the_default_is_the_main_signature(host, config):
    model = host.load(several(), config=config)
    assert model.run({"a": f32(5, 7), "b": f32(1, 2)})["out"].tolist() == [[4, 5]]
    assert model.choices == {"signature": ("serving_default", "other")}


@pytest.mark.parametrize(
    ("source", "given", "says"),
    [
        (several(), "others", "one of serving_default, other, not 'others'"),
        (several(), 1, "one of serving_default, other, not 1"),
        (several(), ["other"], "one of serving_default, other, not"),
        (crossed(), "other", "the model has no signatures: leave config 'signature' out"),
    ],
)
def test_an_unknown_signature_is_explained(host, source, given, says):
    with pytest.raises(InvalidArgument, match=says):
        host.load(source, config={"signature": given})


def test_a_guest_chooses_a_signature(host, tmp_path):
    path = tmp_path / "several.tflite"
    path.write_bytes(several())
    host.add_model("net", path, config={"threads": 1})
    session = host.open_session()
    graphs = [
        session.load_by_name("net", config)
        for config in ({}, {"signature": "other"}, {"signature": "serving_default"})
    ]
    names = [[info.name for info in session.graphs[graph].inputs] for graph in graphs]
    assert names == [["b", "a"], ["p", "q"], ["b", "a"]]
    with pytest.raises(InvalidArgument, match="one of serving_default, other"):
        session.load_by_name("net", {"signature": "third"})
    config = {"signature": "other"}
    own = session.load([memoryview(several())], "tensorflowlite", ExecutionTarget.CPU, config)
    assert session.graphs[own].inputs[0].name == "p"
    session.close()


@pytest.mark.parametrize(
    ("config", "shows"),
    [
        ({}, ["input 1:       a: f32[1, 2] (also a:0)", "output 0:      out: f32[1, 2]"]),
        (
            {"signature": "other"},
            ["input 0:       p: f32[?, 2] (also p:0)", "alias: f32[?, 2] (also sum, t:0)"],
        ),
        ({"signature": "x"}, ["one of serving_default, other, not 'x'"]),
    ],
)
def test_inspect_lists_the_signatures(tmp_path, monkeypatch, config, shows):
    log = logging.getLogger("wasi_nn")
    for name, value in (("handlers", log.handlers[:]), ("propagate", True)):
        monkeypatch.setattr(log, name, value)
    path = tmp_path / "several.tflite"
    path.write_bytes(several())
    result = CliRunner().invoke(app, ["inspect", "--config", json.dumps(config), str(path)])
    for line in shows:
        assert line in result.stdout
    if config.get("signature") != "x":
        listed = 'signature:     serving_default, other (choose with {"signature": "other"})'
        assert listed in result.stdout


def test_the_layout_of_each_subgraph_is_read():
    model = several()
    assert layout(model, 0)[1:] == ([0, 1], [2], True)
    assert layout(model, 1)[1:] == ([1, 0], [4, 2, 0], True)
    assert layout(model, 2) == ({}, (), (), False)


def test_a_signature_may_have_smaller_elements_and_scalars(host):
    model = FlatModel()
    x, y = model.tensor("x", DIMS), model.tensor("y", DIMS)
    model.operator("ADD", [x, x], [y])
    model.another([x], [y])
    z, gain, out = model.tensor("z:0", DIMS), model.tensor("gain:0", ()), model.tensor("o:0", DIMS)
    packed = model.tensor("packed:0", (1, 4096), "int4", scale=1.0)
    model.operator("ADD", [z, gain], [out])
    model.sign("second", {"z": z, "gain": gain}, {"out": out, "packed": packed})
    loaded = host.load(model.finish([z, gain], [out, packed]), config={"signature": "second"})
    assert [info.native_type for info in loaded.outputs] == ["float32", "int4"]
    result = loaded.run({"z": f32(1, 2), "gain": np.float32(3)})
    assert {name: array.tolist() for name, array in result.items()} == {"out": [[4, 5]]}
