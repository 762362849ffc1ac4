"""The process in which a guest's own model is tried, and the look at its vocabulary before."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from conftest import needs, run_python

from wasi_nn.backend import LoadOptions, unlimited
from wasi_nn.errors import RuntimeFailure
from wasi_nn.types import Tensor, TensorType
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.guard import gguf

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
# Modules that the separate process imports, of the standard library and of this project.
NAMES = ("ctypes", "json", "signal", "sitecustomize", "wasi_nn", "wasi_nn_ggml")
LOAD = """
import sys
from pathlib import Path
from wasi_nn.backend import LoadOptions
from wasi_nn_ggml.backend import GgmlBackend
data = memoryview(Path(sys.argv[1]).read_bytes())
GgmlBackend().load([data], LoadOptions("ggml")).close()
print("loaded")
"""


@pytest.fixture
def poisoned(tmp_path):
    """A folder with modules that leave a trace when they are imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n")
    return tmp_path


def traces(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".py")


def load():
    GgmlBackend().load([memoryview(TINY.read_bytes())], LoadOptions("ggml")).close()


def test_no_module_is_imported_from_the_current_directory(poisoned, monkeypatch):
    monkeypatch.chdir(poisoned)
    load()
    assert traces(poisoned) == []


@pytest.mark.parametrize("place", ["", ".", "modules"])
def test_no_module_is_imported_from_a_relative_folder(poisoned, monkeypatch, place):
    (poisoned / "modules").symlink_to(poisoned)
    monkeypatch.setenv("PYTHONPATH", f"{place}:")
    monkeypatch.setattr(sys, "path", [place, *sys.path])
    monkeypatch.chdir(poisoned)
    load()
    assert traces(poisoned) == ["modules"]


def test_no_module_is_imported_after_the_host_changes_its_directory(poisoned):
    """The process that tests the model imports nothing from there."""
    # What this process imports later is found in its own sys.path: "" with python -c.
    before = f"import os, wasi_nn_ggml.protocol.graph\nos.chdir({str(poisoned)!r})\ndata ="
    script = LOAD.replace("data =", before)
    done = run_python(script, str(TINY), timeout=120)
    assert done.stdout == "loaded\n", done.stderr
    assert traces(poisoned) == []


def test_a_model_that_ends_the_process_is_rejected(remake):
    """At load, and at the first computation."""
    for keys in ({b"llama.block_count": 0}, {b"llama.pooling_type": 77}):
        with pytest.raises(RuntimeFailure, match="end its process"):
            GgmlBackend().load([memoryview(remake(keys=keys))], LoadOptions("ggml"))


def node(label=0, leaf=False, base=0):
    return base << 10 | leaf << 8 | label


def charsmap(changes, texts=b"b\0cc\0"):
    """A map that replaces "z" by "b", with some nodes changed."""
    nodes = [0] * 512
    nodes[0] = node(base=256)
    nodes[256 ^ ord("z")] = node(ord("z"), True, base=ord("z"))  # its children begin at 256
    nodes[256] = 1 << 31
    for at, value in changes.items():
        nodes[at] = value
    return struct.pack("<I512I", 4 * 512, *nodes) + texts


class TestMapsOfCharacters:
    @pytest.mark.parametrize(
        "sound",
        [
            charsmap({}),
            charsmap({256: 1 << 31 | 2}),
            charsmap({}, b"\0"),
            charsmap({}, b"x" * 1024 + b"\0"),
            struct.pack("<I", 0) + b"\0",
        ],
    )
    def test_a_valid_map_is_accepted(self, tmp_path, sound):
        check(tmp_path, vocabulary(b"t5", [b"a"], sound))

    @pytest.mark.parametrize(
        "unsound",
        [
            charsmap({0: node(base=512)}),
            charsmap({0: node(base=1 << 20)}),
            charsmap({256 ^ ord("z"): node(ord("z"), False, base=1 << 20)}),
            charsmap({256 ^ ord("z"): node(ord("z"), True, base=1 << 9)}),
            charsmap({300: node(3, False, base=(1 << 21) - 1) | 1 << 9}),
            charsmap({256: 1 << 31 | 6}),
            charsmap({256: 1 << 31 | 5}, b"b\0cc\0d"),
            charsmap({}, b"x" * 65),
            charsmap({})[:1000],
            charsmap({})[: 4 + 4 * 512],
            b"\xff\xff\xff\xff" + charsmap({})[4:],
            b"\0\0",
            b"",
        ],
    )
    def test_a_map_that_texts_can_leave_is_rejected(self, tmp_path, unsound):
        with pytest.raises(RuntimeFailure, match="map of characters"):
            check(tmp_path, vocabulary(b"t5", [b"a"], unsound))

    def test_a_long_replacement_is_rejected(self, tmp_path):
        with pytest.raises(RuntimeFailure, match="by more than 1024 bytes"):
            check(tmp_path, vocabulary(b"t5", [b"a"], charsmap({}, b"x" * 1025 + b"\0")))

    def test_the_memory_of_replacing_counts(self, remake, tmp_path):
        path = tmp_path / "model.gguf"
        texts = b"x" * 1000 + b"\0"
        keys = {b"tokenizer.ggml.precompiled_charsmap": bytearray(charsmap({}, texts))}
        path.write_bytes(remake(b"t5", keys=keys))
        context = GgmlBackend().load([path], LoadOptions("ggml")).init_execution_context(unlimited)
        reserved = []
        context.reserve = reserved.append
        context.set_input(0, Tensor(TensorType.U8, (1,), memoryview(b"z" * 100)))
        assert reserved[0] == (64 + 32 * 1000) * 100
        assert sum(reserved) == 0
        assert context.n_prompt_tokens > 1000


def vocabulary(tokenizer, tokens, characters=None):
    """A GGUF file with only a vocabulary; the name of its tokenizer comes last."""

    def text(value):
        return struct.pack("<Q", len(value)) + value

    listed = struct.pack("<IIQ", 9, 8, len(tokens)) + b"".join(map(text, tokens))
    keys = [text(b"tokenizer.ggml.tokens") + listed]
    if characters is not None:
        values = struct.pack("<IIQ", 9, 0, len(characters)) + characters
        keys.append(text(b"tokenizer.ggml.precompiled_charsmap") + values)
    keys.append(text(b"tokenizer.ggml.model") + struct.pack("<I", 8) + text(tokenizer))
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, len(keys)) + b"".join(keys)


def check(folder, data):
    path = folder / "vocabulary.gguf"
    path.write_bytes(data)
    with path.open("rb") as file:
        gguf.check(file.fileno())
