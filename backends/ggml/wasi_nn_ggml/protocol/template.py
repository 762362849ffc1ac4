"""Renders a chat template (Jinja) as Hugging Face's transformers does.

Source: transformers' utils/chat_template_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.util import find_spec
from typing import Any

from wasi_nn.backend import Reserve
from wasi_nn.errors import InvalidArgument, NnError, PromptTooLong, UnsupportedOperation

# In bytes. Real ones have up to 20 KB.
_MAX_TEMPLATE = 32 << 10
# Characters of an error.
_MAX_REASON = 300
# Of a form of strftime_now.
_MAX_FORM = 256
_PROBE = "wasi-nn-probe"


def render(
    template: str,
    variables: Mapping[str, Any],
    most: int,
    reserve: Reserve,
    stopped: Callable[[], bool],
) -> str:
    """The text of a template for ``messages`` and other variables. Its memory counts with
    ``reserve``. Raises ``InvalidArgument`` with the reason of the template or of Jinja, and for one
    that takes too much, ``PromptTooLong`` above ``most`` characters, and ``RuntimeFailure`` if it
    takes too long or ``stopped()`` becomes true."""
    if find_spec("jinja2") is None:
        raise UnsupportedOperation("chat templates need jinja2: pip install jinja2")
    if len(template) > _MAX_TEMPLATE:
        raise InvalidArgument(
            f"the chat template has {len(template)} characters: at most {_MAX_TEMPLATE} are allowed"
        )
    from wasi_nn_ggml.protocol.sandbox import Work

    work = Work(variables, reserve, stopped)
    try:
        return _Template(template, work).render(variables, most)
    except NnError:
        raise
    except RecursionError:
        reason = "it calls itself without end"
    except MemoryError:
        reason = "it takes too much memory"
    except Exception as error:
        reason = f"{error}"[:_MAX_REASON] or type(error).__name__
    finally:
        work.release()
    raise InvalidArgument(f"the chat template cannot be rendered: {reason}")


class _Template:
    """A compiled template."""

    def __init__(self, text: str, work: Any) -> None:
        from wasi_nn_ggml.protocol.sandbox import BoundedEnvironment

        functions = {"raise_exception": _refuse, "strftime_now": _now}
        self._template = BoundedEnvironment(work).template(text, functions)

    def render(self, variables: Mapping[str, Any], most: int) -> str:
        """The text for ``variables``. The template gets contents in the form that it supports: a
        text, or a list of parts."""
        messages = variables["messages"]
        parts = [{"type": "text", "text": _PROBE}]
        if any(isinstance(message.get("content"), list) for message in messages):
            if not self._supports(parts, variables, most):
                messages = [_joined(message) for message in messages]
        elif not self._supports(_PROBE, variables, most) and self._supports(parts, variables, most):
            messages = [_parted(message) for message in messages]
        return self._text({**variables, "messages": messages}, most)

    def _text(self, variables: Mapping[str, Any], most: int) -> str:
        pieces: list[str] = []
        left = most
        for piece in self._template.generate(variables):
            left -= len(piece)
            if left < 0:
                raise PromptTooLong(
                    f"the chat template makes a prompt of more than {most} characters"
                )
            pieces.append(piece)
        return "".join(pieces)

    def _supports(self, content: object, variables: Mapping[str, Any], most: int) -> bool:
        try:
            text = self._text(
                {**variables, "messages": [{"role": "user", "content": content}]}, most
            )
        except NnError:
            raise
        except Exception:
            return False
        # A template that writes the list as Python or JSON does not support lists.
        return _PROBE in text and "'text':" not in text and '"text":' not in text


def _refuse(message: object) -> None:
    from jinja2 import TemplateError

    raise TemplateError(str(message))


def _now(form: str) -> str:
    if len(form) > _MAX_FORM:
        raise InvalidArgument(f"strftime_now takes a form of at most {_MAX_FORM} characters")
    return datetime.now().strftime(form)


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
