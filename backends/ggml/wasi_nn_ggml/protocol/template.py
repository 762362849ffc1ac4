"""Renders a chat template (Jinja) as Hugging Face's transformers does.

A template comes with a model, and a guest may bring the model. A template is a program: it can take
unbounded time and memory. So ``main`` renders it in a separate process, under the system's limits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.util import find_spec
from typing import Any

from wasi_nn.errors import (
    InvalidArgument,
    PromptTooLong,
    RuntimeFailure,
    UnsupportedOperation,
)
from wasi_nn_ggml import subprocess_module

_TIMEOUT_SECONDS, _CPU_SECONDS, _MAX_MEMORY = 60, 10, 256 << 20
_POLL_SECONDS = 0.05
# Characters of an error.
_MAX_REASON = 300
# The first byte of an answer.
_RENDERED, _FAILED, _TOO_LONG = b"=", b"!", b">"
_PROBE = "wasi-nn-probe"


def render(
    template: str, variables: Mapping[str, Any], most: int, stopped: Callable[[], bool]
) -> str:
    """The text of a template for ``messages`` and other variables. Raises ``InvalidArgument`` with
    the reason of the template or of Jinja, ``PromptTooLong`` above ``most`` bytes, and
    ``RuntimeFailure`` if the template does not end or ``stopped()`` becomes true."""
    if find_spec("jinja2") is None:
        raise UnsupportedOperation("chat templates need jinja2: pip install jinja2")
    # (Values that nest too deep were rejected when they were parsed.)
    request: bytes | None = json.dumps({"template": template, "variables": variables}).encode()
    with subprocess.Popen(
        subprocess_module.command(__name__, str(most)),
        env=subprocess_module.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            end = time.monotonic() + _TIMEOUT_SECONDS
            while True:
                try:
                    answer, _ = process.communicate(request, timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    request = None
                    if stopped():
                        raise RuntimeFailure("the guest is being stopped") from None
                    if time.monotonic() > end:
                        raise RuntimeFailure("the chat template does not end") from None
        finally:
            process.kill()
    text = answer[1:].decode("utf-8", "replace")
    if answer[:1] == _RENDERED:
        return text
    if answer[:1] == _TOO_LONG:
        raise PromptTooLong(f"the chat template makes a prompt of more than {most} bytes")
    if answer[:1] == _FAILED:
        raise InvalidArgument(f"the chat template cannot be rendered: {text}")
    raise RuntimeFailure(
        f"the chat template takes more than {_CPU_SECONDS} seconds or ends its process "
        f"({process.returncode})"
    )


def main() -> None:
    """Render the request on standard input. The first byte of the answer says how it went."""
    most = int(sys.argv[1])
    data = sys.stdin.buffer.read()
    subprocess_module.limit(_MAX_MEMORY + 16 * len(data), _CPU_SECONDS)
    try:
        request = json.loads(data)
        text = _Template(request["template"]).render(request["variables"])
        answer = _RENDERED + text.encode("utf-8", "replace")
        if len(answer) - 1 > most:
            answer = _TOO_LONG
    except MemoryError:
        answer = _FAILED + b"it takes too much memory"
    except RecursionError:
        answer = _FAILED + b"it calls itself without end"
    except Exception as error:
        reason = f"{error}"[:_MAX_REASON] or type(error).__name__
        answer = _FAILED + reason.encode("utf-8", "replace")
    sys.stdout.buffer.write(answer)


class _Template:
    """A compiled template. Source: transformers' utils/chat_template_utils.py."""

    def __init__(self, text: str) -> None:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """``{% generation %}`` marks what the assistant wrote, for training."""

            tags = {"generation"}  # noqa: RUF012

            def parse(self, parser: Any) -> list[nodes.Node]:
                next(parser.stream)
                body: list[nodes.Node] = parser.parse_statements(
                    ("name:endgeneration",), drop_needle=True
                )
                return body

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            # transformers would write "None" for a null content.
            finalize=lambda value: "" if value is None else value,
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._template = environment.from_string(text)

    def render(self, variables: dict[str, Any]) -> str:
        """The text for ``variables``. The template gets contents in the form that it supports: a
        text, or a list of parts."""
        messages = variables["messages"]
        parts = [{"type": "text", "text": _PROBE}]
        if any(isinstance(message.get("content"), list) for message in messages):
            if not self._supports(parts, variables):
                messages = [_joined(message) for message in messages]
        elif not self._supports(_PROBE, variables) and self._supports(parts, variables):
            messages = [_parted(message) for message in messages]
        return self._template.render({**variables, "messages": messages})

    def _supports(self, content: object, variables: dict[str, Any]) -> bool:
        try:
            text = self._template.render(
                {**variables, "messages": [{"role": "user", "content": content}]}
            )
        except Exception:
            return False
        # A template that writes the list as Python or JSON does not support lists.
        return _PROBE in text and "'text':" not in text and '"text":' not in text


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _joined(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "\n".join(part["text"] for part in content)}


def _parted(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}
