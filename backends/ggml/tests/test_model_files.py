"""Models in several files, and files that are something else."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from wasi_nn import Host
from wasi_nn.backend import LoadOptions
from wasi_nn.errors import (
    ContextFull,
    InvalidArgument,
    ModelNotFound,
    RuntimeFailure,
)
from wasi_nn_ggml.backend import GgmlBackend
from wasi_nn_ggml.guard import model_files
from wasi_nn_ggml.llama.model import Source
from wasi_nn_ggml.settings import ModelSettings

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
WIDTH, CONTEXT = 32, 64
LORA = b"adapter"  # prose: allow


def text(value):
    return struct.pack("<Q", len(value)) + value


def short(value):
    return struct.pack("<IH", 2, value)


def file(keys, tensors):
    """A GGUF file of f32 tensors: name to dimensions and data."""
    table, data = b"", b""
    for name, (dims, values) in tensors.items():
        table += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data))
        data += values + bytes(-len(values) % 32)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    head += b"".join(text(key) + value for key, value in keys.items()) + table
    return head + bytes(-len(head) % 32) + data


def parts(folder, keys, groups):
    """Writes a split model, one group of tensors per part. Returns the path of the first part."""
    paths = []
    for at, group in enumerate(groups):
        known = keys if at == 0 else {}
        known = {
            **known,
            b"split.no": short(at),
            b"split.count": short(len(groups)),
            b"split.tensors.count": struct.pack("<Ii", 5, sum(map(len, groups))),
        }
        paths.append(folder / f"m-{at + 1:05}-of-{len(groups):05}.gguf")
        paths[-1].write_bytes(file(known, group))
    return paths[0]


@pytest.fixture
def gpt2(header):
    """The keys and tensors of a model with learned positions."""
    values = {
        key: value
        for key, value in header.of(TINY.read_bytes()).values.items()
        if not key.startswith(b"llama.")
    }
    n_vocab = len(header.of(TINY.read_bytes()).texts(b"tokenizer.ggml.tokens"))
    values[b"general.architecture"] = header.encoded(b"gpt2")
    for name, value in {
        b"context_length": CONTEXT,
        b"embedding_length": WIDTH,
        b"block_count": 1,
        b"feed_forward_length": WIDTH,
        b"attention.head_count": 2,
    }.items():
        values[b"gpt2." + name] = header.encoded(value)
    values[b"gpt2.attention.layer_norm_epsilon"] = struct.pack("<If", 6, 1e-5)

    def tensor(*dims):
        count = 1
        for dim in dims:
            count *= dim
        return dims, struct.pack(f"<{count}f", *(at % 7 / 100 for at in range(count)))

    tensors = {
        b"token_embd.weight": tensor(WIDTH, n_vocab),
        b"position_embd.weight": tensor(WIDTH, CONTEXT),
    }
    for name, inner in (("attn_qkv", 3 * WIDTH), ("attn_output", WIDTH), ("ffn_up", WIDTH),
                        ("ffn_down", WIDTH)):  # fmt: skip
        tensors[f"blk.0.{name}.weight".encode()] = tensor(WIDTH, inner)
        tensors[f"blk.0.{name}.bias".encode()] = tensor(inner)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        tensors[f"{name}.weight".encode()] = tensor(WIDTH)
        tensors[f"{name}.bias".encode()] = tensor(WIDTH)
    return values, tensors


def halves(tensors, count=2):
    items = list(tensors.items())
    return [dict(items[at::count]) for at in range(count)]


@pytest.mark.parametrize("layout", ["one file", "two parts", "no tensors first", "three parts"])
def test_learned_positions_end_the_context(tmp_path, gpt2, layout):
    keys, tensors = gpt2
    groups = {
        "one file": None,
        "two parts": halves(tensors),
        "no tensors first": [{}, tensors],
        "three parts": [{}, *halves(tensors)],
    }[layout]
    if groups is None:
        path = tmp_path / "m.gguf"
        path.write_bytes(file(keys, tensors))
    else:
        path = parts(tmp_path, keys, groups)
    with Host() as host:
        model = host.load(path, config={"temp": 0, "ctx-size": 256, "ignore-eos": True})
        with model.init_execution_context() as context:
            context.set_input("prompt", "hello")
            with pytest.raises(ContextFull, match=str(CONTEXT)):
                context.compute()


def test_the_size_and_tensors_are_those_of_all_parts(tmp_path, gpt2):
    keys, tensors = gpt2
    path = parts(tmp_path, keys, [{}, *halves({**tensors, b"cls.weight": ((32,), bytes(128))})])
    sizes = [each.stat().st_size for each in tmp_path.iterdir()]
    assert Source(path).size == sum(sizes)
    assert {b"cls.weight", *tensors} == model_files.check(path).tensors


def test_a_damaged_later_part_is_rejected(tmp_path, gpt2):
    keys, tensors = gpt2
    path = parts(tmp_path, keys, [{}, tensors])
    later = tmp_path / "m-00002-of-00002.gguf"
    later.write_bytes(later.read_bytes()[:-4096])
    with Host() as host, pytest.raises(RuntimeFailure, match="cut off"):
        host.load(path)


def test_a_missing_part_is_named(tmp_path, gpt2):
    keys, tensors = gpt2
    path = parts(tmp_path, keys, [{}, *halves(tensors)])
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    with Host() as host, pytest.raises(ModelNotFound, match="m-00003-of-00003"):
        host.load(path)


def test_a_tensor_in_two_parts_is_rejected(tmp_path, gpt2):
    keys, tensors = gpt2
    path = parts(tmp_path, keys, [tensors, tensors])
    with Host() as host, pytest.raises(RuntimeFailure):
        host.load(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "m-00002-of-00002.gguf: .* 0 bytes"),
        (b"<html>" * 9, "m-00002-of-00002.gguf: .*<htm"),
        (None, "says that it is part 1 and must be part 2"),
        (TINY.read_bytes(), "says that it is part 1 and must be part 2"),
    ],
    ids=["empty", "page", "first part", "whole model"],
)
def test_a_later_part_that_is_another_file_is_rejected(tmp_path, gpt2, data, reason):
    keys, tensors = gpt2
    path = parts(tmp_path, keys, [{}, tensors])
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(path.read_bytes() if data is None else data)
    with Host() as host, pytest.raises(RuntimeFailure, match=reason):
        host.load(path)


def test_any_part_may_have_no_tensors(tmp_path, gpt2):
    keys, tensors = gpt2
    for number, groups in enumerate([[tensors, {}], [{}, {}, tensors, {}]]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Host() as host:
            model = host.load(parts(folder, keys, groups), config={"temp": 0, "n-predict": 2})
            with model.init_execution_context() as context:
                context.set_input("prompt", "hello")
                context.compute()
                assert len(context.get_output(0))


def test_a_later_part_alone_is_rejected(tmp_path, gpt2):
    keys, tensors = gpt2
    parts(tmp_path, keys, [{}, tensors])
    with Host() as host, pytest.raises(RuntimeFailure, match="name the first part"):
        host.load(tmp_path / "m-00002-of-00002.gguf")


def test_a_renamed_first_part_is_rejected(tmp_path, gpt2):
    keys, tensors = gpt2
    path = parts(tmp_path, keys, [{}, tensors]).rename(tmp_path / "model.gguf")
    with Host() as host, pytest.raises(RuntimeFailure, match="must end in -00001-of-00002"):
        host.load(path)


def test_a_guest_cannot_bring_a_part(tmp_path, gpt2):
    keys, tensors = gpt2
    data = parts(tmp_path, keys, [{}, tensors]).read_bytes()
    with Host() as host, pytest.raises(InvalidArgument, match="in one piece"):
        host.load(data, encoding="ggml")


def test_later_parts_are_not_builders(tmp_path, gpt2):
    keys, tensors = gpt2
    first = parts(tmp_path, keys, [{}, *halves(tensors)])
    second = tmp_path / "m-00002-of-00003.gguf"
    third = tmp_path / "m-00003-of-00003.gguf"
    backend, options = GgmlBackend(), LoadOptions("ggml")
    with pytest.raises(RuntimeFailure, match=r"part 2 of 3.* give only the first part"):
        backend.load([first, second], options)
    with pytest.raises(InvalidArgument, match="give only the first part"):
        backend.load([first, second, third], options)
    with pytest.raises(RuntimeFailure, match="must be a projector"):
        backend.load([TINY, TINY], options)


def test_a_replaced_later_part_makes_a_new_model(tmp_path, gpt2):
    keys, tensors = gpt2
    path = parts(tmp_path, keys, [{}, tensors])
    source = Source(path)
    settings = ModelSettings()
    first = source.model(settings)
    assert source.model(settings) is first
    later = tmp_path / "m-00002-of-00002.gguf"
    os.utime(later, ns=(1, 1))
    assert source.model(settings) is first
    assert Source(path).model(settings) is not first


def test_a_big_endian_file_is_rejected():
    data = TINY.read_bytes()
    with Host() as host, pytest.raises(RuntimeFailure, match="big-endian"):
        host.load(data[:4] + data[7:3:-1] + data[8:], encoding="ggml")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({b"general.type": LORA, b"general.architecture": b"llama"}, "LoRA adapter"),
        ({b"general.type": b"imatrix"}, "importance matrix"),
        ({b"general.architecture": b"controlvector"}, "control vector"),
        ({b"general.type": b"mmproj", b"general.architecture": b"clip"}, "projector"),
        ({b"general.architecture": b"clip"}, "projector"),
        ({b"general.architecture": b"llama"}, "vocabulary"),
    ],
)
def test_a_file_that_is_not_a_language_model_is_named(tmp_path, header, keys, reason):
    path = tmp_path / "m.gguf"
    tensors = {} if reason == "vocabulary" else {b"a": ((1,), bytes(4))}
    path.write_bytes(file({key: header.encoded(value) for key, value in keys.items()}, tensors))
    with Host() as host:
        for model in (path, path.read_bytes()):
            with pytest.raises(RuntimeFailure, match=reason):
                host.load(model, encoding="ggml")


def test_a_second_file_must_be_a_projector(tmp_path, header):
    backend, options = GgmlBackend(), LoadOptions("ggml")
    second = tmp_path / "second.gguf"
    one = {b"a": ((1,), bytes(4))}
    clip = {b"general.architecture": header.encoded(b"clip")}
    for keys, tensors, reason in (
        ({b"general.type": header.encoded(LORA)}, one, r"is a LoRA adapter.*\. A second"),
        ({b"general.type": header.encoded(b"imatrix")}, one, "is an importance matrix"),
        ({}, {}, "is a vocabulary without a model"),
        ({**clip, b"split.count": short(2)}, one, r"part 1 of 2 of a projector.*--merge"),
    ):
        second.write_bytes(file(keys, tensors))
        with pytest.raises(RuntimeFailure, match=f"second.gguf .*{reason.removeprefix('is ')}"):
            backend.load([TINY, second], options)


def test_a_key_of_wasmedges_examples_is_not_logged(caplog):
    with Host() as host:
        host.load(TINY, config={"llama3": False})
    assert "llama3" not in caplog.text


def test_a_schema_is_logged_once(caplog):
    schema = '{"type": "string", "contentEncoding": "x", "pattern": "ab", "not": {}}'
    with Host() as host:
        model = host.load(TINY, config={"json-schema": schema})
        for _ in range(2):
            with model.init_execution_context() as context:
                context.set_input("prompt", "x")
                next(context.stream())
    assert caplog.text.count("not followed in full") == 1
