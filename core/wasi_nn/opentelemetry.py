"""What a host does, as spans of OpenTelemetry: ``pip install "wasi-nn[opentelemetry]"``.

Give it to the host:

    from wasi_nn.opentelemetry import Spans

    host = Host(observer=Spans())

A run is a span, and its loads and calls are spans within it. A run is within the span that is
current where it is started, in asyncio too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wasi_nn.errors import Unavailable
from wasi_nn.observer import Observer, Step

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["Spans"]


class Spans(Observer):
    """Makes a span of each step: ``run guest.wasm``, ``load model.onnx``, ``call compute``. Their
    attributes are ``wasi_nn.guest`` and ``wasi_nn.request``, and the status of a span that failed
    has the reason. Raises ``Unavailable`` without the package."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """``provider`` is the global one by default."""
        try:
            from opentelemetry import context, trace
        except ImportError:
            raise Unavailable(
                'opentelemetry is not installed: pip install "wasi-nn[opentelemetry]"'
            ) from None
        from wasi_nn import __version__

        self._trace, self._context = trace, context
        self._tracer = trace.get_tracer("wasi_nn", __version__, provider)

    def begin(self, step: Step) -> None:
        names = {"wasi_nn.guest": step.guest, "wasi_nn.request": step.request}
        span = self._tracer.start_span(
            f"{step.kind} {step.name}",
            attributes={name: value for name, value in names.items() if value},
        )
        token = self._context.attach(self._trace.set_span_in_context(span))
        step.state = span, token

    def end(self, step: Step) -> None:
        span, token = step.state
        self._context.detach(token)
        error: Any = step.error
        if error is not None:
            if isinstance(error, BaseException):
                span.record_exception(error)
                reason = type(error).__name__
            else:
                reason = str(error.code)
            span.set_attribute("error.type", reason)
            span.set_status(self._trace.StatusCode.ERROR, str(error))
        span.end()
