"""Hostile models, and the hosts that try them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from conftest import needs
from fuzz import hosting
from fuzz.hostile import LIBRARIES, attempt, make
from fuzz.hosting import TrialHost
from fuzz.trial import Trial

from wasi_nn_conformance import graphs

ENCODINGS = [
    pytest.param(encoding, marks=[pytest.mark.slow] if encoding == "pytorch" else [])
    for encoding in LIBRARIES
]


def sound(encoding: str) -> Trial:
    files = graphs.canonical(encoding).files
    name = "tiny" if encoding == "ggml" else "add"
    texts = ((1, b'{"n-predict": 2, "threads": 1}'), (0, b"Hello")) if encoding == "ggml" else ()
    return Trial(encoding, tuple(path.read_bytes() for path in files[name]), texts)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_seed_makes_the_same_models_again(encoding):
    needs(LIBRARIES[encoding])
    made = [make(encoding, 3, number) for number in range(12)]
    assert made == [make(encoding, 3, number) for number in range(12)]
    assert len({trial.builders + trial.texts for trial in made}) >= 10
    assert made != [make(encoding, 4, number) for number in range(12)]


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["none", "guest"])
@pytest.mark.parametrize("encoding", LIBRARIES)
def test_a_sound_model_computes_in_the_host_and_in_a_worker(encoding, isolation):
    needs(LIBRARIES[encoding])
    with TrialHost(60, isolation) as host:
        verdict = host.attempt(sound(encoding))
    assert (verdict.outcome, verdict.unknown, verdict.unforeseen) == ("computed", (), ())


@pytest.mark.slow
def test_hostile_texts_go_to_the_hosts_own_model():
    needs("xllamacpp")
    with TrialHost(60) as host:
        verdict = host.attempt(sound("ggml")._replace(builders=()))
    assert (verdict.outcome, verdict.unforeseen) == ("computed", ())


def test_a_host_that_dies_is_counted_and_replaced(monkeypatch):
    needs("onnxruntime")
    with TrialHost(60) as host:
        assert host.attempt(sound("onnx")).outcome == "computed"
        host._process.kill()
        verdict = host.attempt(sound("onnx"))
        assert verdict.outcome == "died"
        assert "SIGKILL" in verdict.reason
        assert host.attempt(sound("onnx")).outcome == "computed"
        assert host.started == 2


def test_a_host_that_hangs_is_counted_and_replaced(monkeypatch):
    needs("onnxruntime")
    monkeypatch.setattr(hosting, "GRACE_SECONDS", 0.1)
    with TrialHost(0.1) as host:
        assert host.attempt(sound("onnx")).outcome == "computed"
        host._process.send_signal(signal.SIGSTOP)
        assert host.attempt(sound("onnx")).outcome == "hung"
        assert host.attempt(sound("onnx")).outcome == "computed"


@pytest.mark.fuzz
@pytest.mark.parametrize("encoding", LIBRARIES)
def test_no_hostile_model_ends_the_host(encoding):
    needs(LIBRARIES[encoding])
    tally = attempt(encoding, 7, range(30), 10)
    bad = {key: tally.counts[key] for key in ("died", "hung", "unknown") if tally.counts[key]}
    assert not bad, tally.findings


def test_a_gguf_file_is_written_as_it_was_read():
    from fuzz.models import gguf

    data = Path(graphs.canonical("ggml").files["tiny"][0]).read_bytes()
    assert gguf.write(gguf.read(data)) == data
