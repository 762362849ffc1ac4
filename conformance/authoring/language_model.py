"""The tiny language model of the tests: llama's architecture, random weights, a real tokenizer.

    python conformance/authoring/language_model.py      writes conformance/graphs/ggml/tiny*.gguf

Its text is noise, and always the same noise, because the weights come from a fixed seed. The
SentencePiece vocabulary has bytes, printable characters, a few words, and ChatML's special tokens.
Only printable tokens have any weight, so greedy text is plain ASCII and never ends by itself. The
projector belongs to it: a vision transformer of two layers that turns an image into four tokens.
"""

from __future__ import annotations

from pathlib import Path

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
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_license("Apache-2.0")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_TEMPLATE)
    random = np.random.Generator(np.random.PCG64(20261123))

    def matrix(rows: int, columns: int, scale: float) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    key_width = _WIDTH // _HEADS * _KV_HEADS
    writer.add_tensor("token_embd.weight", matrix(len(tokens), _WIDTH, 1.0))
    for layer in range(_LAYERS):
        ones = np.ones(_WIDTH, np.float32)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.attn_q.weight", matrix(_WIDTH, _WIDTH, 0.3))
        writer.add_tensor(f"blk.{layer}.attn_k.weight", matrix(key_width, _WIDTH, 0.3))
        writer.add_tensor(f"blk.{layer}.attn_v.weight", matrix(key_width, _WIDTH, 0.3))
        writer.add_tensor(f"blk.{layer}.attn_output.weight", matrix(_WIDTH, _WIDTH, 0.3))
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", matrix(_HIDDEN, _WIDTH, 0.3))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", matrix(_HIDDEN, _WIDTH, 0.3))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", matrix(_WIDTH, _HIDDEN, 0.3))
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    output = matrix(len(tokens), _WIDTH, 1.0)
    output[: 4 + 256] = 0
    writer.add_tensor("output.weight", output)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_projector(path: Path) -> None:
    """Write the projector. It has the same bytes every time."""
    width, hidden, layers, side, patch = 16, 32, 2, 16, 8
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("tiny-mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32("clip.vision.image_size", side)
    writer.add_uint32("clip.vision.patch_size", patch)
    writer.add_uint32("clip.vision.embedding_length", width)
    writer.add_uint32("clip.vision.feed_forward_length", hidden)
    writer.add_uint32("clip.vision.block_count", layers)
    writer.add_uint32("clip.vision.attention.head_count", 2)
    writer.add_uint32("clip.vision.projection_dim", _WIDTH)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    random = np.random.Generator(np.random.PCG64(20261124))

    def tensor(name: str, *shape: int, scale: float = 0.5) -> None:
        values = random.standard_normal(shape) * scale
        writer.add_tensor(name, values.astype(np.float32))

    tensor("v.patch_embd.weight", width, 3, patch, patch)
    tensor("v.position_embd.weight", (side // patch) ** 2, width)
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensor(f"v.blk.{layer}.{name}.weight", width, width)
            tensor(f"v.blk.{layer}.{name}.bias", width)
        for name in ("ln1", "ln2"):
            tensor(f"v.blk.{layer}.{name}.weight", width)
            tensor(f"v.blk.{layer}.{name}.bias", width)
        tensor(f"v.blk.{layer}.ffn_up.weight", hidden, width)
        tensor(f"v.blk.{layer}.ffn_up.bias", hidden)
        tensor(f"v.blk.{layer}.ffn_down.weight", width, hidden)
        tensor(f"v.blk.{layer}.ffn_down.bias", width)
    tensor("mm.0.weight", _WIDTH, width)
    tensor("mm.0.bias", _WIDTH)
    tensor("mm.2.weight", _WIDTH, _WIDTH)
    tensor("mm.2.bias", _WIDTH)
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
