"""Models whose files are replaced while the process runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import needs

from wasi_nn import Host, Limits
from wasi_nn.errors import ModelNotFound, RuntimeFailure
from wasi_nn_ggml.backend import GgmlBackend

GRAPHS = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml"
CONFIG = {"embedding": True, "threads": 1, "ctx-size": 256}
PARTS = "m-{:05}-of-00003.gguf"


def embedded(model, prompt="Hello", config=None):
    with model.init_execution_context() as context:
        if config is not None:
            context.set_input("config", json.dumps(config))
        context.set_input("prompt", prompt)
        context.compute()
        return json.loads(bytes(context.get_output(0).data))["embedding"]


def other_weights(data):
    """The file with the numbers of its second half multiplied by -3."""
    half = len(data) // 8 * 4
    return data[:half] + (np.frombuffer(data[half:], "<f4") * np.float32(-3)).tobytes()


def replace(file, data):
    """Put another file in its place, with the same time."""
    status = file.stat()
    other = file.with_name("other")
    other.write_bytes(data)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def in_place(file, data):
    status = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def split(tmp_path, header):
    """The tiny model in three parts, the first of which has no tensors."""
    import gguf

    reader = gguf.GGUFReader(GRAPHS / "tiny.gguf")
    head = header.of((GRAPHS / "tiny.gguf").read_bytes())
    groups = [[], reader.tensors[::2], reader.tensors[1::2]]
    folder = tmp_path / "split"
    folder.mkdir()
    for at, group in enumerate(groups):
        writer = gguf.GGUFWriter(folder / PARTS.format(at + 1), "llama")
        writer.add_uint16("split.no", at)
        writer.add_uint16("split.count", len(groups))
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in group:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    first = header.of((folder / PARTS.format(1)).read_bytes())
    first.values.update(head.values)
    (folder / PARTS.format(1)).write_bytes(first.bytes())
    return folder


@pytest.mark.parametrize("part", [2, 3])
def test_a_replaced_later_part_is_loaded_anew(host, tmp_path, split, part):
    path, later = split / PARTS.format(1), split / PARTS.format(part)
    shutil.copytree(split, tmp_path / "new")
    changed = other_weights(later.read_bytes())
    (tmp_path / "new" / PARTS.format(part)).write_bytes(changed)
    expected = embedded(host.load(tmp_path / "new" / PARTS.format(1), config=CONFIG))
    host.add_model("m", path, config=CONFIG)
    old = host.model("m")
    before = embedded(old)
    assert before != expected
    assert embedded(host.load(GRAPHS / "tiny.gguf", config=CONFIG)) == before

    original = later.read_bytes()
    for change, data, answer in (
        (replace, changed, expected),
        (replace, original, before),
    ):
        change(later, data)
        assert embedded(host.model("m")) == answer
        assert embedded(host.load(path, config=CONFIG)) == answer
    assert embedded(old) == before
    # The library maps the old weights into memory: free them before they are overwritten.
    del old
    host.registry.close()
    in_place(later, changed)
    assert embedded(host.model("m")) == expected

    later.unlink()
    for load in (lambda: host.model("m"), lambda: host.load(path, config=CONFIG)):
        with pytest.raises(ModelNotFound, match=PARTS.format(part)):
            load()


def test_every_part_counts_against_a_limit(host, split):
    host.add_model("m", split / PARTS.format(1), config=CONFIG)
    size = sum(file.stat().st_size for file in split.iterdir())
    assert host.registry.size("m") == size
    for limit in (size - 1, size):
        with host.open_session(Limits(host_memory=limit)) as session:
            session.load_by_name("m")
            if limit < size:
                with pytest.raises(RuntimeFailure, match="above its limit"):
                    session.load_by_name("m", {"use-mmap": False})
            else:
                session.load_by_name("m", {"use-mmap": False})


def test_an_old_graph_does_not_mix_weights(host, tmp_path):
    path = tmp_path / "m.gguf"
    shutil.copy(GRAPHS / "tiny.gguf", path)
    old = host.load(path, config=CONFIG)
    before = embedded(old)
    replace(path, other_weights(path.read_bytes()))
    assert embedded(old) == before
    with pytest.raises(RuntimeFailure, match=r"m\.gguf was replaced .* load the graph again"):
        embedded(old, config={"use-mmap": False})
    assert embedded(host.load(path, config=CONFIG), config={"use-mmap": False}) != before


@pytest.mark.parametrize("way", ["builder", "graph's config", "context's config"])
def test_a_replaced_projector_is_loaded_anew(host, tmp_path, way):
    image = needs("PIL.Image").new("RGB", (20, 20), "red")
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        for file in ("tiny.gguf", "tiny-mmproj.gguf"):
            shutil.copy(GRAPHS / file, tmp_path / name)
        image.save(tmp_path / name / "red.png")
    data = (GRAPHS / "tiny-mmproj.gguf").read_bytes()
    (tmp_path / "new" / "tiny-mmproj.gguf").write_bytes(other_weights(data))

    def answer(folder):
        folder = tmp_path / folder
        config = {"temp": 0, "threads": 1, "ctx-size": 256, "n-predict": 16, "image": "red.png"}
        named = {**config, "mmproj": "tiny-mmproj.gguf"}
        files, own = [folder / "tiny.gguf"], None
        if way == "builder":
            files.append(folder / "tiny-mmproj.gguf")
        elif way == "graph's config":
            config = named
        else:
            own = named
        model = host.load(*files, encoding="ggml", config=config)
        keep.append(model.init_execution_context())
        if own is not None:
            keep[-1].set_input("config", json.dumps(own))
        keep[-1].set_input("prompt", "see <image> it")
        keep[-1].compute()
        return bytes(keep[-1].get_output(0).data)

    keep = []
    before, expected = answer("old"), answer("new")
    assert before != expected
    replace(tmp_path / "old" / "tiny-mmproj.gguf", other_weights(data))
    assert answer("old") == expected
    for context in keep:
        context.close()


def test_a_projector_counts_in_the_size_of_a_model(tmp_path):
    model, projector = GRAPHS / "tiny.gguf", GRAPHS / "tiny-mmproj.gguf"
    size = model.stat().st_size + projector.stat().st_size
    with Host() as host:
        host.add_model("pair", model, projector, encoding="ggml")
        host.add_model("named", model, config={"mmproj": projector.name})
        host.add_model("alone", model, config={"mmproj": "missing.gguf"})
        assert host.registry.size("pair") == host.registry.size("named") == size
        assert host.registry.size("alone") == model.stat().st_size
        assert host.registry.size("alone", {"mmproj": str(projector)}) == size
        assert host.registry.size("alone", {"mmproj": "/etc/passwd"}) == model.stat().st_size
        assert host.registry.size("alone", {"mmproj": 5}) == model.stat().st_size


def test_a_model_without_paths_has_no_files():
    assert list(GgmlBackend().files([], {"mmproj": "a"})) == []
