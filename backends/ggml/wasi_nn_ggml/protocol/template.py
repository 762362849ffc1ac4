"""A chat template (Jinja), rendered as Hugging Face's transformers does it.

A template comes with a model, which a guest may bring, and is a program: it can take time and
memory without an end. So ``main`` renders it in a process of its own, with bounds of the system's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
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

_SECONDS, _CPU_SECONDS, _ROOM = 60, 10, 256 << 20
_POLL_SECONDS = 0.05
_MOST_REASON = 300
_GOOD, _WRONG, _LONG = b"=", b"!", b">"
_PROBE = "wasi-nn-probe"


def render(
    template: str, variables: Mapping[str, Any], most: int, stopped: Callable[[], bool]
) -> str:
    """What a template makes of ``messages`` and other variables. Raises ``InvalidArgument`` with
    the template's or Jinja's reason, ``PromptTooLong`` above ``most`` bytes, and
    ``RuntimeFailure`` for one that does not end, or once ``stopped()`` is true."""
    if find_spec("jinja2") is None:
        raise UnsupportedOperation("chat templates need jinja2: pip install jinja2")
    # (A deeply nested value has been refused when it was read.)
    request: bytes | None = json.dumps({"template": template, "variables": variables}).encode()
    with subprocess.Popen(
        subprocess_module.command(__name__, str(most)),
        env=subprocess_module.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            end = time.monotonic() + _SECONDS
            while True:
                try:
                    answer, _ = process.communicate(request, timeout=_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    request = None
                    if stopped():
                        raise RuntimeFailure("the guest is being stopped") from None
                    if time.monotonic() > end:
                        raise RuntimeFailure("the chat template does not come to an end") from None
        finally:
            process.kill()
    text = answer[1:].decode("utf-8", "replace")
    if answer[:1] == _GOOD:
        return text
    if answer[:1] == _LONG:
        raise PromptTooLong(f"the chat template makes a prompt of more than {most} bytes")
    if answer[:1] == _WRONG:
        raise InvalidArgument(f"the chat template cannot be rendered: {text}")
    raise RuntimeFailure(
        f"the chat template takes more than {_CPU_SECONDS} seconds or ends its process "
        f"({process.returncode})"
    )


def main() -> None:
    """Render what comes on the standard input; the first byte of the answer says how it went."""
    most = int(sys.argv[1])
    data = sys.stdin.buffer.read()
    _limit(_ROOM + 16 * len(data))
    try:
        request = json.loads(data)
        text = _Template(request["template"]).render(request["variables"])
        answer = _GOOD + text.encode("utf-8", "replace")
        if len(answer) - 1 > most:
            answer = _LONG
    except MemoryError:
        answer = _WRONG + b"it takes too much memory"
    except RecursionError:
        answer = _WRONG + b"it calls itself without an end"
    except Exception as error:
        reason = f"{error}"[:_MOST_REASON] or type(error).__name__
        answer = _WRONG + reason.encode("utf-8", "replace")
    sys.stdout.buffer.write(answer)


def _limit(size: int) -> None:
    try:
        import resource
    except ImportError:
        return
    for kind, wanted in ((resource.RLIMIT_DATA, size), (resource.RLIMIT_CPU, _CPU_SECONDS)):
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (wanted, wanted))


class _Template:
    """A compiled template. Source: transformers' utils/chat_template_utils.py."""

    def __init__(self, text: str) -> None:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """``{% generation %}`` marks what an assistant wrote, for those who train."""

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
            # transformers would write "None" for a message without content.
            finalize=lambda value: "" if value is None else value,
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._template = environment.from_string(text)

    def render(self, variables: dict[str, Any]) -> str:
        """The text for ``variables``. Contents go as the template takes them: as a text, or as a
        list of parts."""
        messages = variables["messages"]
        parts = [{"type": "text", "text": _PROBE}]
        if any(isinstance(message.get("content"), list) for message in messages):
            if not self._takes(parts, variables):
                messages = [_joined(message) for message in messages]
        elif not self._takes(_PROBE, variables) and self._takes(parts, variables):
            messages = [_parted(message) for message in messages]
        return self._template.render({**variables, "messages": messages})

    def _takes(self, content: object, variables: dict[str, Any]) -> bool:
        try:
            text = self._template.render(
                {**variables, "messages": [{"role": "user", "content": content}]}
            )
        except Exception:
            return False
        # Where it writes out a list as Python or JSON does, it knows of none.
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
