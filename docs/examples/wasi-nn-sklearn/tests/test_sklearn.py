"""sklearn as every backend is tested, and what is its own."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from wasi_nn_sklearn import Sklearn

from wasi_nn import Host, Policy, errors
from wasi_nn.backend import LoadOptions
from wasi_nn_conformance.graphs import GraphSet
from wasi_nn_conformance.places import GUESTS
from wasi_nn_conformance.testing import BackendConformance

GRAPHS = Path(__file__).parent / "graphs"
ROWS = np.float32([[0, 0], [1, 1], [9, 9], [8, 8]])


class TestConformance(BackendConformance):
    # The canonical graphs that a pipeline can be: one input, whose rows stay rows.
    graphs = GraphSet(
        "sklearn", GRAPHS, {name: (GRAPHS / f"{name}.skops",) for name in ("batch", "identity")}
    )
    deviations: ClassVar = {"flow/special-values": "scikit-learn's scaler refuses infinities"}


def load(data):
    return Sklearn().load([memoryview(data)], LoadOptions("sklearn"))


def run(host, tmp_path, model, **config):
    path = tmp_path / "m.skops"
    skops.io.dump(model, path)
    found = host.load(path, config=config).run(x=ROWS)
    return {name: np.asarray(tensor) for name, tensor in found.items()}


def test_a_forest_needs_the_operators_trust(tmp_path):
    # scikit-learn's trees follow numbers of the file without a check, so skops does not trust them.
    forest = RandomForestClassifier(5, random_state=1, n_jobs=2).fit(ROWS, [0, 0, 1, 1])
    with Host() as host:
        with pytest.raises(errors.RuntimeFailure, match=r"name them .*: {\"trusted\": \["):
            run(host, tmp_path, forest)
        found = run(host, tmp_path, forest, trusted=["sklearn.tree._tree.Tree"])
        np.testing.assert_allclose(found["probabilities"], forest.predict_proba(ROWS), rtol=1e-6)
        with pytest.raises(errors.InvalidArgument, match="must be a list of names of types"):
            run(host, tmp_path, forest, trusted=True)
    assert Sklearn.host_only_keys == {"trusted"}


def test_a_classifier_gives_probabilities_and_the_place_of_the_label(tmp_path):
    labels = ["near", "near", "away", "away"]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, labels)
    with Host() as host:
        found = run(host, tmp_path, model)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(ROWS), rtol=1e-6)
    assert [model.classes_[place] for place in found["label"]] == list(model.predict(ROWS))


def test_a_classifier_without_probabilities_gives_labels(tmp_path):
    with Host() as host:
        found = run(host, tmp_path, RidgeClassifier().fit(ROWS, [0, 0, 1, 1]))
    assert {name: list(values) for name, values in found.items()} == {"label": [0, 0, 1, 1]}


def test_a_regression_and_a_sparse_transformer_compute(tmp_path):
    with Host() as host:
        found = run(host, tmp_path, LinearRegression().fit(ROWS, ROWS[:, 0] * 3))
        np.testing.assert_allclose(found["prediction"], [0, 3, 27, 24], atol=1e-4)
        found = run(host, tmp_path, OneHotEncoder(handle_unknown="ignore").fit(ROWS))
        assert found["output"].shape == (4, 8)


class Evil:
    """Makes a folder when a pickle of it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def changed(data, **members):
    """A model with other members."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            kind = "schema" if name == "schema.json" else "array"
            new.writestr(name, members.get(kind, old.read(name)))
    return out.getvalue()


def schema_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return json.loads(archive.read("schema.json"))


def npy(header, data=b""):
    text = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def bomb():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.npy", bytes(64 << 20))
        archive.writestr("schema.json", "{}")
    return out.getvalue()


def hostile(mark):
    """Models that do harm, each with what the message says."""
    good = (GRAPHS / "batch.skops").read_bytes()
    evil = pickle.dumps(Evil(mark))
    schema = schema_of(good)
    system = {**schema, "__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}
    untrusted = skops.io.dumps(FunctionTransformer(os.system))
    huge = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }")
    objects = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", evil)
    return {
        "empty": (b"", "not a complete zip archive"),
        "a pickle": (evil, "a pickle"),
        "truncated": (good[:-40], "not a complete zip archive"),
        "its middle": (good[:200] + good[-2000:], "not a model that skops wrote"),
        "no schema": (changed(good, schema=b""), "not a model that skops wrote"),
        "deep": (changed(good, schema=b"[" * 99_999), "not a model that skops wrote"),
        "a list": (changed(good, schema=b"[]"), "not a model that skops wrote"),
        "an old format": (
            changed(good, schema=json.dumps({**schema, "protocol": 0}).encode()),
            "save the model again",
        ),
        "a function": (changed(good, schema=json.dumps(system).encode()), "does not trust"),
        "an untrusted type": (untrusted, "does not trust"),
        "no model": (skops.io.dumps({"a": 1}), "the model has None features"),
        "not fitted": (skops.io.dumps(StandardScaler()), "the model has None features"),
        "a pickle in an array": (changed(good, array=objects), "not a model that skops wrote"),
        "a huge array": (changed(good, array=huge), "not a model that skops wrote"),
        "a bomb": (bomb(), "unpacks to 2 files"),
    }


@pytest.mark.parametrize("name", hostile(""))
def test_a_hostile_model_is_an_error_of_the_guest(name, tmp_path):
    data, says = hostile(tmp_path / "mark")[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(errors.RuntimeFailure, match=says):
            load(data)
    assert not list(tmp_path.iterdir())


def test_a_guests_own_models_are_loaded_in_a_worker(tmp_path):
    """One host, one good model before and after each hostile one."""
    (tmp_path / "in.raw").write_bytes(np.float32([1, 2, 3, 4]).tobytes())
    good = (GRAPHS / "batch.skops").read_bytes()
    mark = tmp_path / "mark"
    with Host(policy=Policy(own_models=True)) as host:
        program = host.compile(GUESTS / "classify/classify.wasm")

        def classify(data):
            (tmp_path / "m").write_bytes(data)
            return program.run(["m", "in.raw", "1,4"], dirs={".": tmp_path})

        for data, _ in [*hostile(mark).values(), (good, "")]:
            done = classify(data)
            assert done.exit_code == (0 if data == good else 1), done.stderr
        assert done.stdout.startswith(b"3 8.0000\n2 6.0000\n")
    assert not mark.exists()
