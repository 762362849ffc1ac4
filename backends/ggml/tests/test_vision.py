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

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import (
    InvalidArgument,
    ModelNotFound,
    NnError,
    PromptTooLong,
    RuntimeFailure,
)
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
    """Asks the model, with a projector and a config merged into the greedy one."""

    def make(prompt, projector=True, **config):
        builders = [folder / "tiny.gguf"]
        if projector:
            builders.append(folder / "tiny-mmproj.gguf")
        graph = GgmlBackend().load(builders, LoadOptions("ggml", config={**GREEDY, **config}))
        context = graph.init_execution_context(unlimited)
        context.set_input(0, Tensor(TensorType.U8, (1,), memoryview(prompt.encode())))
        context.compute()
        counters = json.loads(bytes(context.get_output(1).data))
        return bytes(context.get_output(0).data), counters["input_tokens"]

    return make


class TestImages:
    def test_an_image_changes_the_text(self, ask):
        red = ask(f"see {inline(picture('red'))} it")
        assert red == ask(f"see {inline(picture('red'))} it")
        assert red != ask(f"see {inline(picture('blue'))} it")
        assert red[1] == ask("see it")[1] + 1 + 4  # the text is in two parts, the image four tokens

    def test_jpeg_gives_the_text_of_png(self, ask):
        text = ask(f"see {inline(picture('red'))} it")
        assert ask(f"see {inline(picture('red', 'JPEG'), 'jpeg')} it") == text

    def test_the_config_can_name_an_image(self, ask):
        wanted = ask(f"see {inline(picture('red'))} it")
        named = {"image": "red.png", "mmproj": "tiny-mmproj.gguf"}
        assert ask("see <image> it", projector=False, **named) == wanted

    def test_two_images_have_an_order(self, ask):
        red, blue = inline(picture("red")), inline(picture("blue"))
        assert ask(f"{red} or {blue} it") != ask(f"{blue} or {red} it")

    def test_a_text_without_an_image_needs_no_projector(self, ask):
        assert ask("see it") == ask("see it", projector=False)

    def test_mtmd_writes_nothing_to_stderr(self, ask, capfd):
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
    def test_data_that_is_not_an_image_is_an_error(self, ask, data):
        with pytest.raises(InvalidArgument, match="image"):
            ask(f"see {inline(data)} it")

    @pytest.mark.parametrize("size", [(2000, 9), (9, 2000), (0, 20)])
    def test_a_narrow_image_is_rejected(self, ask, size):
        width, height = (side.to_bytes(4, "big") for side in size)
        data = picture("red")
        with pytest.raises(InvalidArgument, match=r"\d+ x \d+ pixels"):
            ask(f"see {inline(data[:16] + width + height + data[24:])} it")

    def test_the_size_is_read_where_the_decoder_reads_it(self, ask):
        """The decoder accepts a chunk before the header, and bytes before a marker."""
        data = picture("red")
        apple = b"\0\0\0\4CgBI\0\0\0\1\0\0\0\1"
        with pytest.raises(InvalidArgument, match="neither"):
            ask(f"see {inline(data[:8] + apple + data[8:])} it")
        data = picture("red", "JPEG", (2000, 9))
        data = data[:2] + b"\xff" * 7 + data[2:]
        with pytest.raises(InvalidArgument, match="2000 x 9"):
            ask(f"see {inline(data, 'jpeg')} it")

    def test_more_than_64_images_are_rejected(self, ask):
        with pytest.raises(InvalidArgument, match="65 images"):
            ask("see" + inline(picture("red")) * 65 + " it")
        ask("see" + inline(picture("red")) * 40 + " it")

    def test_an_image_must_be_base64(self, ask):
        with pytest.raises(InvalidArgument, match="base64"):
            ask('see <img src="data:image/png;base64,AAA"> it')

    def test_a_text_must_follow_an_image(self, ask):
        with pytest.raises(InvalidArgument, match="let text follow"):
            ask(f"see {inline(picture('red'))}")

    def test_each_image_has_a_marker(self, ask):
        with pytest.raises(InvalidArgument, match="0 image markers for 1"):
            ask("see it", image="red.png")
        with pytest.raises(InvalidArgument, match="2 image markers for 1"):
            ask(f"see <image> {inline(picture('red'))} it")

    def test_a_file_outside_the_models_folder_is_rejected(self, ask):
        with pytest.raises(ModelNotFound):
            ask("see <image> it", image="blue.png")
        for outside in ("../../etc/passwd", "/etc/passwd"):
            with pytest.raises(InvalidArgument, match="outside"):
                ask("see <image> it", image=outside)

    def test_the_projector_must_be_one(self, ask, folder):
        (folder / "text.gguf").write_bytes(b"no GGUF")
        with pytest.raises(RuntimeFailure, match="GGUF"):
            ask(f"see {inline(picture('red'))} it", mmproj="text.gguf")
        with pytest.raises(NnError):
            ask(f"see {inline(picture('red'))} it", mmproj="tiny.gguf")


class TestMemory:
    @pytest.fixture
    def context(self, folder):
        builders = [folder / "tiny.gguf", folder / "tiny-mmproj.gguf"]
        graph = GgmlBackend().load(builders, LoadOptions("ggml", config=GREEDY))
        return graph.init_execution_context(unlimited)

    @staticmethod
    def put(context, prompt, key=0):
        context.set_input(key, Tensor(TensorType.U8, (1,), memoryview(prompt.encode())))

    def test_all_images_of_a_prompt_have_one_limit(self, context):
        """Each image alone would be accepted. None is decoded."""
        image = inline(picture("red", size=(4000, 4000)))
        with pytest.raises(InvalidArgument, match="80000000 pixels"):
            self.put(context, f"see {image * 5} it")
        self.put(context, f"see {image} it")

    def test_an_image_counts_against_the_guests_limit(self, context):
        reserved = []
        context.reserve = reserved.append
        image = inline(picture("red", size=(1000, 1000)))
        self.put(context, f"see {image * 2} it")
        projector = (GRAPHS / "tiny-mmproj.gguf").stat().st_size
        assert max(reserved) > 26_000_000
        kept = sum(reserved) - projector
        assert 8 * 49152 < kept < 9 * 49152  # four tokens each
        self.put(context, '{"n-predict": 5}', 1)
        assert sum(reserved) - projector == kept
        self.put(context, "see it")
        assert sum(reserved) == projector
        self.put(context, f"see {image} it")
        context.close()
        assert sum(reserved) == 0

        def refuse(size):
            raise RuntimeFailure("above its limit")

        context.reserve = refuse
        with pytest.raises(RuntimeFailure, match="limit"):
            self.put(context, f"see {image} it")

    def test_a_text_beside_an_image_counts_little(self, context):
        reserved = []
        context.reserve = reserved.append
        image = inline(picture("red"))
        self.put(context, f"see {image} it")
        before = sum(reserved)
        self.put(context, f"see {image} {'a' * 450} it")
        tokens = context.n_prompt_tokens
        assert tokens > 400
        assert before < sum(reserved) < before + 10 * tokens

    def test_a_damaged_image_frees_the_ones_before_it(self, context, monkeypatch):
        native = context.model.native
        made, freed = [], []
        make, free = native.mtmd_helper_bitmap_init_from_buf, native.mtmd_bitmap_free

        def making(*args):
            result = make(*args)
            made.append(result.bitmap)
            return result

        def freeing(bitmap):
            freed.append(bitmap)
            free(bitmap)

        monkeypatch.setattr(native, "mtmd_helper_bitmap_init_from_buf", making)
        monkeypatch.setattr(native, "mtmd_bitmap_free", freeing)
        good, bad = picture("red"), picture("red")[:40] + b"junk"
        with pytest.raises(InvalidArgument, match="damaged"):
            self.put(context, f"see {inline(good)} {inline(bad)} it")
        assert [bitmap for bitmap in made if bitmap] == freed
        assert len(freed) == 1

    def test_a_long_text_beside_images_is_rejected(self, context):
        image = inline(picture("red"))
        with pytest.raises(PromptTooLong, match="300009 bytes"):
            self.put(context, f"{image} {'a' * 300_000} {image}"[: -len(image)])


def test_a_long_text_beside_an_image_does_not_overflow_the_stack(splitting, tmp_path):
    """A stack of the usual size would overflow, and the process would end."""
    (tmp_path / "model.gguf").write_bytes(splitting(b"tekken"))
    shutil.copy(GRAPHS / "tiny-mmproj.gguf", tmp_path)
    builders = [tmp_path / "model.gguf", tmp_path / "tiny-mmproj.gguf"]
    context = GgmlBackend().load(builders, LoadOptions("ggml")).init_execution_context(unlimited)
    TestMemory.put(context, f"{inline(picture('red'))} {'a' * 60_000} it")
    assert context.n_prompt_tokens > 50_000
