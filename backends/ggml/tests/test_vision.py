"""Images in prompts, through a real mtmd and a projector of random weights."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import pytest
from conftest import needs
from PIL import Image

from wasi_nn.backend import LoadOptions
from wasi_nn.errors import InvalidArgument, ModelNotFound, NnError, RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml.backend import GgmlBackend

needs("xllamacpp")

GRAPHS = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml"
GREEDY = {"temp": 0.0, "threads": 1, "ctx-size": 512, "n-predict": 16}


def picture(color, kind="PNG", size=(20, 20)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def inline(data, kind="png"):
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


@pytest.fixture
def folder(tmp_path):
    for name in ("tiny.gguf", "tiny-mmproj.gguf"):
        shutil.copy(GRAPHS / name, tmp_path)
    (tmp_path / "red.png").write_bytes(picture("red"))
    return tmp_path


@pytest.fixture
def ask(folder):
    """Asks the model with a projector beside it and a config over the greedy one."""

    def make(prompt, projector=True, **config):
        builders = [folder / "tiny.gguf"]
        if projector:
            builders.append(folder / "tiny-mmproj.gguf")
        graph = GgmlBackend().load(builders, LoadOptions("ggml", config={**GREEDY, **config}))
        context = graph.init_execution_context()
        context.set_input(0, Tensor(TensorType.U8, (1,), memoryview(prompt.encode())))
        context.compute()
        counters = json.loads(bytes(context.get_output(1).data))
        return bytes(context.get_output(0).data), counters["input_tokens"]

    return make


class TestPictures:
    def test_it_is_seen(self, ask):
        red = ask(f"see {inline(picture('red'))} it")
        assert red == ask(f"see {inline(picture('red'))} it")
        assert red != ask(f"see {inline(picture('blue'))} it")
        assert red[1] == ask("see it")[1] + 1 + 4  # the text is in two parts, the image four tokens

    def test_formats(self, ask):
        text = ask(f"see {inline(picture('red'))} it")
        assert ask(f"see {inline(picture('red', 'JPEG'), 'jpeg')} it") == text

    def test_by_a_name_in_the_config(self, ask):
        wanted = ask(f"see {inline(picture('red'))} it")
        named = {"image": "red.png", "mmproj": "tiny-mmproj.gguf"}
        assert ask("see <image> it", projector=False, **named) == wanted

    def test_two(self, ask):
        red, blue = inline(picture("red")), inline(picture("blue"))
        assert ask(f"{red} or {blue} it") != ask(f"{blue} or {red} it")

    def test_text_alone(self, ask):
        assert ask("see it") == ask("see it", projector=False)

    def test_nothing_on_stderr(self, ask, capfd):
        ask(f"see {inline(picture('red'))} it")
        assert capfd.readouterr() == ("", "")


class TestMistakes:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"nonsense",
            picture("red", "GIF"),
            picture("red", "BMP"),
            picture("red")[:40],
            picture("red")[:20],
            picture("red", "JPEG")[:100],
            b"\xff\xd8" + b"\xff" * 100,
            # 65,535 × 65,535 pixels.
            picture("red")[:16] + b"\0\0\xff\xff" * 2 + picture("red")[24:],
            b"RIFF\0\0\0\0WAVEfmt ",
        ],
    )
    def test_no_picture(self, ask, data):
        with pytest.raises(InvalidArgument, match="image"):
            ask(f"see {inline(data)} it")

    def test_no_base64(self, ask):
        with pytest.raises(InvalidArgument, match="base64"):
            ask('see <img src="data:image/png;base64,AAA"> it')

    def test_nothing_after_it(self, ask):
        with pytest.raises(InvalidArgument, match="let text follow"):
            ask(f"see {inline(picture('red'))}")

    def test_markers_and_pictures(self, ask):
        with pytest.raises(InvalidArgument, match="0 image markers for 1"):
            ask("see it", image="red.png")
        with pytest.raises(InvalidArgument, match="2 image markers for 1"):
            ask(f"see <image> {inline(picture('red'))} it")

    def test_files_out_of_reach(self, ask):
        with pytest.raises(ModelNotFound):
            ask("see <image> it", image="blue.png")
        for outside in ("../../etc/passwd", "/etc/passwd"):
            with pytest.raises(InvalidArgument, match="outside"):
                ask("see <image> it", image=outside)

    def test_projectors(self, ask, folder):
        (folder / "text.gguf").write_bytes(b"no GGUF")
        with pytest.raises(RuntimeFailure, match="GGUF"):
            ask(f"see {inline(picture('red'))} it", mmproj="text.gguf")
        with pytest.raises(NnError):
            ask(f"see {inline(picture('red'))} it", mmproj="tiny.gguf")
