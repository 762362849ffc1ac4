"""GGUF: mutated keys, types, tensors and vocabularies; and the texts of ggml's protocol."""

from __future__ import annotations

import functools
import json
from typing import Any

from fuzz.chance import Chance
from fuzz.models.gguf import ARRAY, FORMATS, STRING, Gguf, read, write
from fuzz.models.seeds import canonical
from fuzz.models.texts import grammar, prompt, schema, template
from fuzz.trial import Trial

_ENCODING = "ggml"
_ARCHITECTURES = (
    "llama",
    "gpt2",
    "bert",
    "qwen2",
    "qwen3",
    "gemma3",
    "mamba",
    "rwkv6",
    "phi3",
    "t5",
    "falcon",
    "starcoder2",
    "deepseek2",
    "command-r",
    "clip",
    "whisper",
    "jina-bert-v2",
    "bloom",
    "mpt",
    "olmo2",
)
_TOKENIZERS = ("llama", "gpt2", "bert", "t5", "rwkv", "none", "no_vocab", "plamo2", "")


@functools.cache
def _sound() -> bytes:
    # The projector is not a model by itself.
    return max(canonical(_ENCODING), key=len)


def _changed(name: bytes, kind: int, value: Any, chance: Chance) -> tuple[bytes, int, Any]:
    """A key with another value, name or type."""
    if chance.once_in(10):
        return chance.text(name.decode(errors="replace")).encode(), kind, value
    if kind == STRING:
        if name == b"general.architecture":
            return name, kind, chance.choice(_ARCHITECTURES).encode()
        if name == b"tokenizer.ggml.model":
            return name, kind, chance.choice(_TOKENIZERS).encode()
        if name == b"tokenizer.chat_template":
            return name, kind, template(chance, value.decode()).encode()
        return name, kind, chance.text(value.decode(errors="replace")).encode()
    if kind == ARRAY:
        return name, kind, _changed_array(value, chance)
    if chance.once_in(8):
        other = chance.choice(sorted(FORMATS))
        return name, other, value
    number = chance.real() if kind in (6, 12) else chance.whole(int(value))
    return name, kind, number


def _changed_array(value: Any, chance: Chance) -> Any:
    element, items = value
    items = list(items)
    for _ in range(chance.randint(1, 8)):
        choice = chance.randrange(5)
        if choice == 0 or not items:
            return element, items[: chance.randrange(len(items) + 1)]
        at = chance.randrange(len(items))
        if choice == 1:
            items[at] = chance.choice(items)
        elif choice == 2:
            del items[at]
        elif element == STRING:
            odd = (b"", b"\xff\xfe", b"<0x00>", b"<|", b"a" * 3000, "é".encode(), b"\0")
            items[at] = chance.choice(odd)
        elif element == ARRAY:
            return element, []
        else:
            items[at] = chance.whole() if element not in (6, 12) else chance.real()
    return element, items


def _change(model: Gguf, chance: Chance) -> str:
    """Change a key or a tensor. Returns what was changed."""
    kind = chance.randrange(10)
    if kind < 5 and model.keys:
        at = chance.randrange(len(model.keys))
        name = model.keys[at][0]
        if chance.once_in(8):
            del model.keys[at]
        else:
            model.keys[at] = _changed(*model.keys[at], chance)
        return name.decode(errors="replace")
    if kind == 5:
        name = chance.choice(
            (
                b"tokenizer.ggml.add_bos_token",
                b"llama.expert_count",
                b"llama.rope.scaling.type",
                b"llama.attention.sliding_window",
                b"tokenizer.ggml.merges",
                b"general.alignment",
                b"llama.rope.dimension_sections",
                b"tokenizer.ggml.precompiled_charsmap",
                b"split.count",
                b"tokenizer.ggml.eot_token_id",
                b"llama.pooling_type",
                b"llama.vocab_size",
            )
        )
        kinds = {4: chance.whole(), 8: b"x", 9: (4, [chance.randrange(9) for _ in range(4)]), 7: 1}
        added = chance.choice(sorted(kinds))
        model.keys.append((name, added, kinds[added]))
        return name.decode()
    if not model.tensors:
        return "nothing"
    at = chance.randrange(len(model.tensors))
    name, dims, number, offset = model.tensors[at]
    dims = list(dims)
    choice = chance.randrange(6)
    if choice == 0:
        del model.tensors[at]
    elif choice == 1:
        model.tensors.append(model.tensors[at])
    elif choice == 2:
        dims = chance.some(dims, 5)
        model.tensors[at] = name, dims, number, offset
    elif choice == 3 and dims:
        dims[chance.randrange(len(dims))] = chance.whole(dims[0])
        model.tensors[at] = name, dims, number, offset
    elif choice == 4:
        model.tensors[at] = name, dims, chance.randrange(45), offset
    else:
        model.tensors[at] = name, dims, number, chance.whole(offset)
    return name.decode(errors="replace")


def _config(chance: Chance, **more: Any) -> bytes:
    base = {"threads": 1, "ctx-size": 256, "n-predict": 6, "temp": 0, **more}
    return json.dumps(base).encode()


def mutated(chance: Chance) -> Trial:
    """A sound model with some of its header changed, and a prompt for it."""
    data = _sound()
    header = len(data) - len(read(data).data)
    texts = ((1, _config(chance)), (0, b"Hello you"))
    if chance.once_in(8):
        packed = chance.flipped(data[:header]) + data[header:]
        return Trial(_ENCODING, (packed,), texts, made="bytes changed")
    model = read(data)
    changed = [_change(model, chance) for _ in range(chance.randint(1, 4))]
    counts = (chance.whole(), chance.whole()) if chance.once_in(25) else (None, None)
    version = 3 if not chance.once_in(30) else chance.whole(3)
    packed = write(model, version, *counts)
    if chance.once_in(20):
        packed = packed[: chance.randrange(len(packed))]
    return Trial(_ENCODING, (packed,), texts, made="changed " + ", ".join(changed))


def texts(chance: Chance) -> Trial:
    """The host's own model with a hostile prompt, template, grammar, schema or config."""
    from wasi_nn_ggml import keys

    more: dict[str, Any] = {}
    kind = chance.randrange(6)
    if kind == 0:
        more["grammar"] = grammar(chance)
    elif kind == 1:
        more["json-schema"] = schema(chance)
    elif kind == 2:
        more["chat-template"] = template(chance)
        more["enable-chat-template"] = True
    # What writes to the host's stdout would only be seen by a terminal.
    flags = sorted(set(keys.FLAGS) - {"stream-stdout"})
    for _ in range(chance.randrange(5)):
        group = chance.choice((flags, keys.WHOLE, keys.NUMBERS, keys.TEXTS))
        key = chance.choice(group)
        if key in more:
            continue
        if group is flags:
            more[key] = chance.once_in(2)
        elif group is keys.WHOLE:
            more[key] = chance.whole()
        elif group is keys.NUMBERS:
            more[key] = chance.choice((0, 1, -1, 0.5, 1e9, -1e9))
        else:
            more[key] = chance.text()
    config = _config(chance, **more)
    if chance.once_in(12):
        config = chance.flipped(config)
    inputs = ((1, config), (0, prompt(chance)))
    return Trial(_ENCODING, (), inputs, made=f"texts {json.dumps(more)[:150]}")


def templated(chance: Chance) -> Trial:
    """A model that is sound but for its chat template."""
    model = read(_sound())
    kept = [key for key in model.keys if key[0] != b"tokenizer.chat_template"]
    old = next(key[2] for key in model.keys if key[0] == b"tokenizer.chat_template")
    text = template(chance, old.decode())
    kept.append((b"tokenizer.chat_template", STRING, text.encode()))
    packed = write(model._replace(keys=kept))
    inputs = ((1, _config(chance)), (0, prompt(chance)))
    return Trial(_ENCODING, (packed,), inputs, made=f"template {text[:100]}")


def make(chance: Chance) -> Trial:
    """A mutated model, or hostile texts for the host's own."""
    kind = chance.randrange(8)
    if kind == 0:
        return templated(chance)
    return mutated(chance) if kind < 5 else texts(chance)
