"""Turns the messages of a conversation into the prompt that the model was trained to answer.

With the config's ``enable-chat-template`` (which WasmEdge reads but does not use) the prompt is
JSON: ``[{"role": "user", "content": "…"}, …]``, or an object with ``messages`` and ``tools`` as in
OpenAI's API. The model's own template renders them, or the config's ``chat-template``, which is a
template or the name of one. So a guest need not know the model's special tokens.
"""

from __future__ import annotations

import ctypes
import json
import re
import reprlib
import secrets
from collections.abc import Callable
from typing import Any

from wasi_nn.backend import Reserve
from wasi_nn.errors import InvalidArgument
from wasi_nn_ggml.llama.bindings import ChatMessage
from wasi_nn_ggml.llama.model import Model
from wasi_nn_ggml.llama.vision import INLINE, MARKER
from wasi_nn_ggml.protocol import template as templates

_KEYS = ("messages", "tools", "documents", "add_generation_prompt", "chat_template_kwargs")


def prompt(
    model: Model,
    text: str,
    template: str,
    most: int,
    reserve: Reserve,
    stopped: Callable[[], bool],
) -> str:
    """The prompt of a conversation, which the model continues as the assistant. A model without a
    template gets ChatML. Raises ``InvalidArgument`` if ``text`` is not a conversation, and what
    ``template.render`` raises."""
    request = _request(text)
    images: list[str] = []
    # Images may be large, so a template gets marks in their place.
    mark = secrets.token_hex(8)
    messages = [_message(each, images, mark) for each in request.pop("messages")]
    # The name of a template of llama.cpp's; ChatML for a model without a template.
    name = "" if "{%" in template or "{{" in template else template
    if not template:
        tools = request.get("tools") and model.chat_template("tool_use")
        template = tools or model.chat_template()
        name = "" if template else "chatml"
    if not name:
        extra = request.pop("chat_template_kwargs", None) or {}
        variables = {"add_generation_prompt": True, "tools": None, "documents": None}
        variables |= model.special_tokens() | extra | request | {"messages": messages}
        result = templates.render(template, variables, most, reserve, stopped)
        begin = model.special_tokens()["bos_token"]
        if begin and model.adds_bos:
            # The tokenizer adds it again.
            result = result.removeprefix(begin)
    else:
        if request:
            raise InvalidArgument(
                f"the chat template {reprlib.repr(name)} takes only messages, not "
                f"{', '.join(request)}"
            )
        result = _named(model, messages, name)
    return re.sub(f"<{mark}-([0-9]+)>", lambda match: images[int(match[1])], result)


def _named(model: Model, messages: list[dict[str, Any]], name: str) -> str:
    """The prompt by a template that llama.cpp knows by name."""
    pairs = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = "\n".join(part["text"] for part in content)
        pairs.append((message["role"].encode(), (content or "").encode()))
    array = (ChatMessage * len(pairs))(*(ChatMessage(*pair) for pair in pairs))
    apply = model.native.llama_chat_apply_template
    size = 2 * sum(len(role) + len(content) for role, content in pairs) + 1024
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = apply(name.encode(), array, len(pairs), True, ctypes.addressof(buffer), size)
        if length < 0:
            raise InvalidArgument(
                f"the config's chat-template is neither a Jinja template nor a name that llama.cpp "
                f"knows (chatml, llama2, …): {reprlib.repr(name)}"
            )
        if length <= size:
            return buffer.raw[:length].decode("utf-8", "replace")
        size = length


def _request(text: str) -> dict[str, Any]:
    try:
        request = json.loads(text.rstrip("\0"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"with enable-chat-template the prompt is a JSON list of messages: {error}"
        ) from error
    if isinstance(request, list):
        request = {"messages": request}
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or not messages:
        raise InvalidArgument(
            "with enable-chat-template the prompt is a list of messages, or an object with "
            "messages and tools"
        )
    unknown = sorted(request.keys() - set(_KEYS))
    if unknown:
        raise InvalidArgument(f"a conversation has {', '.join(_KEYS)}, not {reprlib.repr(unknown)}")
    if not isinstance(request.get("chat_template_kwargs") or {}, dict):
        raise InvalidArgument("chat_template_kwargs must be an object")
    return dict(request)


def _message(message: Any, images: list[str], mark: str) -> dict[str, Any]:
    """A message as templates expect it: images as marks, arguments of calls as objects."""
    content = message.get("content") if isinstance(message, dict) else None
    if (
        not isinstance(message, dict)
        or not isinstance(message.get("role"), str)
        or not (content is None or isinstance(content, (str, list)))
        or (content is None and not message.get("tool_calls") and "content" not in message)
    ):
        raise InvalidArgument(
            f'a message is {{"role": "…", "content": "…"}}, not {reprlib.repr(message)}'
        )
    calls = message.get("tool_calls")
    # Templates test whether a message with calls has a content. They join other contents to texts.
    if content is None and not calls:
        content = ""
    if isinstance(content, list):
        content = [_part(part) for part in content]

    def marked(text: str) -> str:
        if "\0" in text:
            raise InvalidArgument("a message contains a NUL character")
        # Reject half a character here, not where the prompt is encoded.
        text.encode("utf-8")

        def keep(match: re.Match[str]) -> str:
            images.append(match[0])
            return f"<{mark}-{len(images) - 1}>"

        return INLINE.sub(keep, text)

    marked(message["role"])
    if isinstance(content, str):
        content = marked(content)
    elif content:
        content = [{**part, "text": marked(part["text"])} for part in content]
    result = {**message, "content": content}
    if isinstance(calls, list):
        result["tool_calls"] = [_call(call) for call in calls]
    return result


def _part(part: Any) -> dict[str, Any]:
    """A part of a content as text. An image becomes its marker in prompts."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        return {"type": "text", "text": MARKER}
    if kind == "image_url":
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        inline = f'<img src="{url}">'
        if isinstance(url, str) and INLINE.fullmatch(inline):
            return {"type": "text", "text": inline}
        raise InvalidArgument(
            f"an image of a message is a data: URL of PNG or JPEG, not {reprlib.repr(url)}"
        )
    raise InvalidArgument(
        f'a part of a content is {{"type": "text", "text": "…"}} or an image, not '
        f"{reprlib.repr(part)}"
    )


def _call(call: Any) -> Any:
    """A call with its arguments as an object. In OpenAI's API they are a string of JSON."""
    function = call.get("function") if isinstance(call, dict) else None
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        try:
            arguments = json.loads(function["arguments"])
        except (ValueError, RecursionError):
            return call
        return {**call, "function": {**function, "arguments": arguments}}
    return call
