"""The tiny language model of the tests: llama's architecture, random weights, a real tokenizer.

    python conformance/authoring/language_model.py      writes conformance/graphs/ggml/tiny*.gguf

Its text is noise, and always the same noise, because the weights come from a fixed seed. The
SentencePiece vocabulary has bytes, printable characters, a few words, and ChatML's special tokens.
Only printable tokens have any weight, so greedy text is plain ASCII and never ends by itself. The
projector belongs to it: a vision transformer of two layers that turns an image into four tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

PATH = Path(__file__).parents[1] / "graphs" / "ggml" / "tiny.gguf"
PROJECTOR = PATH.with_name("tiny-mmproj.gguf")
CONTEXT = 512
_WIDTH, _HEADS, _KV_HEADS, _HIDDEN, _LAYERS = 64, 4, 2, 128, 2
_WORDS = "the and of to in is it you that he was for on are with as his they be at one have".split()
_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Tokens, scores and types (gguf's TokenType)."""
    kinds = gguf.TokenType
    entries: list[tuple[bytes, float, int]] = [
        (b"<unk>", 0.0, kinds.UNKNOWN),
        (b"<s>", 0.0, kinds.CONTROL),
        (b"<|im_end|>", 0.0, kinds.CONTROL),
        (b"<|im_start|>", 0.0, kinds.CONTROL),
    ]
    entries += [(b"<0x%02X>" % byte, 0.0, kinds.BYTE) for byte in range(256)]
    printable = [chr(code) for code in range(33, 127)] + ["\u2581"]
    entries += [(text.encode(), -1000.0 - i, kinds.NORMAL) for i, text in enumerate(printable)]
    # A word is merged from its start, so every prefix is a token too.
    beginnings = {
        ("\u2581" + word)[:length] for word in _WORDS for length in range(2, len(word) + 2)
    }
    ordered = sorted(beginnings, key=lambda text: (-len(text), text))
    entries += [(text.encode(), -float(i + 1), kinds.NORMAL) for i, text in enumerate(ordered)]
    return [e[0] for e in entries], [e[1] for e in entries], [int(e[2]) for e in entries]


def write(path: Path) -> None:
    """Write the model. It has the same bytes every time."""
    tokens, scores, kinds = vocabulary()
    metadata = {
        "name": "tiny",
        "license": "Apache-2.0",
        "context_length": CONTEXT,
        "embedding_length": _WIDTH,
        "block_count": _LAYERS,
        "feed_forward_length": _HIDDEN,
        "head_count": _HEADS,
        "head_count_kv": _KV_HEADS,
        "rope_dimension_count": _WIDTH // _HEADS,
        "layer_norm_rms_eps": 1e-5,
        "vocab_size": len(tokens),
        "tokenizer_model": "llama",
        "token_list": tokens,
        "token_scores": scores,
        "token_types": kinds,
        "unk_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": True,
        "add_space_prefix": False,
        "chat_template": _TEMPLATE,
    }
    random = np.random.Generator(np.random.PCG64(20261123))

    def matrix(rows: int, columns: int, scale: float) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    key_width = _WIDTH // _HEADS * _KV_HEADS
    ones = np.ones(_WIDTH, np.float32)
    tensors = {"token_embd": matrix(len(tokens), _WIDTH, 1.0)}
    for layer in range(_LAYERS):
        block = {
            "attn_norm": ones,
            "attn_q": matrix(_WIDTH, _WIDTH, 0.3),
            "attn_k": matrix(key_width, _WIDTH, 0.3),
            "attn_v": matrix(key_width, _WIDTH, 0.3),
            "attn_output": matrix(_WIDTH, _WIDTH, 0.3),
            "ffn_norm": ones,
            "ffn_gate": matrix(_HIDDEN, _WIDTH, 0.3),
            "ffn_up": matrix(_HIDDEN, _WIDTH, 0.3),
            "ffn_down": matrix(_WIDTH, _HIDDEN, 0.3),
        }
        tensors |= {f"blk.{layer}.{name}": tensor for name, tensor in block.items()}
    output = matrix(len(tokens), _WIDTH, 1.0)
    output[: 4 + 256] = 0
    tensors |= {"output_norm": ones, "output": output}
    named = {f"{name}.weight": tensor for name, tensor in tensors.items()}
    _write(path, "llama", metadata, named)


def write_projector(path: Path) -> None:
    """Write the projector. It has the same bytes every time."""
    width, hidden, layers, side, patch = 16, 32, 2, 16, 8
    metadata = {
        "name": "tiny-mmproj",
        "clip_has_vision_encoder": True,
        "clip_projector_type": "mlp",
        "vision_use_gelu": True,
        "vision_image_size": side,
        "vision_patch_size": patch,
        "vision_embedding_length": width,
        "vision_feed_forward_length": hidden,
        "vision_block_count": layers,
        "vision_head_count": 2,
        "vision_projection_dim": _WIDTH,
        "vision_attention_layernorm_eps": 1e-5,
        "vision_image_mean": [0.5, 0.5, 0.5],
        "vision_image_std": [0.5, 0.5, 0.5],
    }
    square = (width, width)
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (width, 3, patch, patch),
        "v.position_embd.weight": ((side // patch) ** 2, width),
    }
    for layer in range(layers):
        for name, shape in {
            **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), square),
            **dict.fromkeys(("ln1", "ln2"), (width,)),
            "ffn_up": (hidden, width),
            "ffn_down": (width, hidden),
        }.items():
            shapes[f"v.blk.{layer}.{name}.weight"] = shape
            shapes[f"v.blk.{layer}.{name}.bias"] = shape[:1]
    shapes |= {
        "mm.0.weight": (_WIDTH, width),
        "mm.0.bias": (_WIDTH,),
        "mm.2.weight": (_WIDTH, _WIDTH),
        "mm.2.bias": (_WIDTH,),
    }
    random = np.random.Generator(np.random.PCG64(20261124))
    tensors = {
        name: (random.standard_normal(shape) * 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
    _write(path, "clip", metadata, tensors)


def _write(
    path: Path, kind: str, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write a GGUF file. Each name in ``metadata`` is a method of the writer, behind ``add_``."""
    writer = gguf.GGUFWriter(path, kind)
    for name, value in metadata.items():
        getattr(writer, f"add_{name}")(value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    write(PATH)
    write_projector(PROJECTOR)
    for made in (PATH, PROJECTOR):
        print(f"{made}: {made.stat().st_size} bytes")
