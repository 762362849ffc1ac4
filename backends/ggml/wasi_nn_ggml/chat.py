"""Conversations: messages in, the prompt that the model was trained to answer out.

With the config's ``enable-chat-template`` (which WasmEdge reads and does not use) the prompt is
JSON, ``[{"role": "user", "content": "…"}, …]``, and llama.cpp puts it into the model's own chat
template, or the one that ``chat-template`` names (``chatml``, ``llama2``, …). A guest need not know
the model's special tokens then.
"""

from __future__ import annotations

import ctypes
import json
import reprlib

from wasi_nn.errors import InvalidArgument
from wasi_nn_ggml.layouts import ChatMessage
from wasi_nn_ggml.weights import Weights


def prompt(weights: Weights, text: str, template: str) -> str:
    """The prompt of a conversation, which the model is to go on with as the assistant. Raises
    ``InvalidArgument`` for what is no list of messages, and for a template that llama.cpp does not
    know."""
    messages = _messages(text)
    chosen = (template or weights.chat_template() or "chatml").encode("utf-8")
    pairs = [(role.encode(), content.encode()) for role, content in messages]
    array = (ChatMessage * len(pairs))(*(ChatMessage(*pair) for pair in pairs))
    apply = weights.native.llama_chat_apply_template
    size = 2 * sum(len(role) + len(content) for role, content in pairs) + 1024
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = apply(chosen, array, len(pairs), True, ctypes.addressof(buffer), size)
        if length < 0:
            raise InvalidArgument(
                "llama.cpp does not know the chat template: name one that it knows "
                "(config chat-template: chatml, llama2, …), or send a prompt of your own"
            )
        if length <= size:
            return buffer.raw[:length].decode("utf-8", "replace")
        size = length


def _messages(text: str) -> list[tuple[str, str]]:
    try:
        messages = json.loads(text.rstrip("\0"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"with enable-chat-template the prompt is a JSON list of messages: {error}"
        ) from error
    if not isinstance(messages, list) or not messages:
        raise InvalidArgument("with enable-chat-template the prompt is a list of messages")
    pairs = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise InvalidArgument(
                f'a message is {{"role": "…", "content": "…"}}, not {reprlib.repr(message)}'
            )
        if "\0" in role or "\0" in content:
            raise InvalidArgument("a message holds a NUL character")
        pairs.append((role, content))
    return pairs
