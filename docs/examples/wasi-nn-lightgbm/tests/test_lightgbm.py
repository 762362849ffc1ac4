"""lightgbm as every backend is tested, and what is its own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar

import lightgbm
import numpy as np
import pytest
from wasi_nn_lightgbm import Lightgbm

from wasi_nn import Host, Policy, errors
from wasi_nn.backend import LoadOptions
from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.places import GUESTS
from wasi_nn_conformance.testing import BackendConformance

GRAPHS = Path(__file__).parent / "graphs"
RANDOM = np.random.default_rng(1)
ROWS = RANDOM.random((200, 3), np.float32)
ROWS[:, 2] = RANDOM.integers(0, 9, 200)  # a category
FEW = {
    "verbosity": -1,
    "num_leaves": 7,
    "min_data_in_leaf": 2,
    "num_threads": 1,
    "min_data_per_group": 2,
    "cat_smooth": 1,
    "max_cat_to_onehot": 1,
}


class TestConformance(BackendConformance):
    # The canonical graphs that linear trees can be: one input, whose rows stay rows.
    graphs = GraphSet(
        "lightgbm", GRAPHS, {name: (GRAPHS / f"{name}.txt",) for name in ("batch", "identity")}
    )
    deviations: ClassVar = dict.fromkeys(
        ("flow/identity", "flow/special-values"),
        "LightGBM adds what its trees give to 0.0, so -0.0 becomes 0.0",
    )


def trained(labels, **parameters):
    data = lightgbm.Dataset(ROWS, np.array(labels), categorical_feature=[2])
    return lightgbm.train({**FEW, **parameters}, data, 5)


MODELS = {
    "regression": trained(ROWS[:, 0] * 3 + ROWS[:, 2]),
    "binary": trained(ROWS[:, 0] > 0.5, objective="binary"),
    "multiclass": trained(ROWS[:, 2] % 3, objective="multiclass", num_class=3),
    "lambda": trained(ROWS[:, 0], objective="l1", boosting="dart"),
    "categories": trained(ROWS[:, 2] % 2 * 5),
    "nothing learnt": trained(np.ones(200)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_lightgbm_trained_compute(name, tmp_path):
    booster = MODELS[name]
    path = tmp_path / "m.txt"
    booster.save_model(path)
    with Host() as host:
        for raw in (False, True):
            found = np.asarray(host.load(path, config={"raw_score": raw}).run(x=ROWS)["prediction"])
            wanted = booster.predict(ROWS, raw_score=raw).reshape(200, -1)
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
        with pytest.raises(errors.InvalidArgument, match="must be true or false"):
            host.load(path, config={"raw_score": 1})


def hostile():
    """Models that do harm, each with what the message says."""
    good = (GRAPHS / "batch.txt").read_text()
    trees = MODELS["regression"].model_to_string()
    sets = MODELS["categories"].model_to_string()

    def line(key, value, text=trees):
        at = text.index(f"\n{key}=") + 1
        return text[:at] + f"{key}={value}" + text[text.index("\n", at) :]

    def first(key, value, text=trees):
        """With another number in the place of the first one of a line."""
        at = text.index(f"\n{key}=") + len(key) + 2
        end = min(text.index(" ", at), text.index("\n", at))
        return text[:at] + value + text[end:]

    models = {
        "empty": ("", "does not begin"),
        "another text": ("tree\n" * 1000, "does not begin"),
        "truncated": (trees[: len(trees) // 2], "is it complete"),
        "without trees": (
            line("max_feature_idx", 3, good.split("Tree=")[0] + "\nend of trees\n"),
            "0 trees",
        ),
        "huge classes": (line("num_class", 2**31 - 1), "num_class is 2147483647"),
        "huge features": (line("max_feature_idx", 10**12), "max_feature_idx is"),
        "negative leaves": (line("num_leaves", -1), "num_leaves is -1"),
        "more leaves": (line("num_leaves", 2**31 - 1), "num_leaves is"),
        "few children": (line("left_child", "-1"), "left_child has 1 numbers"),
        "a far child": (first("left_child", "1000000"), "makes it no tree"),
        "a far leaf": (first("left_child", "-1000000"), "makes it no tree"),
        "a cycle": (first("left_child", "0"), "makes it no tree"),
        "a far feature": (first("split_feature", "900000"), "feature 900000 is not among"),
        "no number": (first("split_feature", "x"), "invalid literal"),
        "far categories": (first("cat_boundaries", "99", sets), "do not fit"),
        "a far linear feature": (line("leaf_features", "0 9", good), "feature 9 is not among"),
        "few coefficients": (line("leaf_coeff", "1", good), "leaf_coeff does not have 2"),
    }
    found = {name: (text.encode(), says) for name, (text, says) in models.items()}
    return {
        **found,
        "no text": (b"tree\nversion=v4\n\xff\xff", "not a model that LightGBM wrote"),
        "a pickle": (pickle.dumps(MODELS["binary"]), "not a model that LightGBM wrote"),
    }


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_model_is_an_error_of_the_guest(name):
    data, says = hostile()[name]
    with pytest.raises(errors.RuntimeFailure, match=says):
        Lightgbm().load([memoryview(data)], LoadOptions("lightgbm"))


def test_a_guests_own_models_are_loaded_in_a_worker(tmp_path):
    """One host, and a good model after each hostile one."""
    (tmp_path / "in.raw").write_bytes(np.float32([1, 2, 3, 4]).tobytes())
    good = (GRAPHS / "batch.txt").read_bytes()
    # What the checks let through, and LightGBM's parser has to find.
    odd = good.replace(b"tree_sizes=", b"tree_sizes=99999999 "), good.replace(b"Tree=1", b"Tree=x")
    with Host(policy=Policy(own_models=True)) as host:
        program = host.compile(GUESTS / "classify/classify.wasm")

        def classify(data):
            (tmp_path / "m").write_bytes(data)
            return program.run(["m", "in.raw", "1,4"], dirs={".": tmp_path})

        for data in odd:
            classify(data)
        for data, _ in hostile().values():
            assert classify(data).exit_code == 1
        done = classify(good)
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith(b"3 8.0000\n2 6.0000\n")
