"""What a host does, as metrics for Prometheus: ``pip install "wasi-nn[prometheus]"``.

Register one collector for the host of a process:

    from prometheus_client import REGISTRY, start_http_server
    from wasi_nn.prometheus import Collector

    REGISTRY.register(Collector(host))
    start_http_server(9000)

The host counts its runs in any case. A scrape reads these numbers, and asks each loaded model's
backend for its own.

The labels are ``outcome`` and ``rule``, which are few, ``backend``, and ``model``, the names that
the operator registers. Tenants and guests are not labels, because there is no bound on how many
there are: count what a ``RunResult`` says with metrics of your own if your tenants are few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wasi_nn.errors import Unavailable

if TYPE_CHECKING:
    from wasi_nn._host.host import Host
    from wasi_nn._host.statistics import ModelStatistics, Statistics

__all__ = ["Collector"]

_COUNTS: Mapping[str, str] = MappingProxyType(
    {
        "steps": "Steps of the decode loop.",
        "step_tokens": "Tokens that the steps have computed, of prompts and texts.",
        "prefix_hits": "Prompts that began as another one did, and were copied that far.",
        "queue_seconds": "Seconds that all sequences or requests have waited for their turn.",
        "batches": "Batches of tensors that were computed.",
        "requests": "Computations that came in batches.",
        "rows": "Rows along the first dimension that came in batches.",
    }
)
_LEVELS: Mapping[str, str] = MappingProxyType(
    {
        "sequences": "Open contexts of the language model.",
        "kv_cells": "Cells of the KV cache.",
        "kv_cells_used": "Cells of the KV cache that are in use.",
    }
)


class Collector:
    """The metrics of a host, for ``CollectorRegistry.register``. Their names begin with
    ``wasi_nn_``. Raises ``Unavailable`` without prometheus_client.

    A registry takes one collector. In a process with several hosts, give each a registry."""

    def __init__(self, host: Host) -> None:
        try:
            from prometheus_client import metrics_core
        except ImportError as error:
            raise Unavailable(
                'prometheus_client is not installed: pip install "wasi-nn[prometheus]"'
            ) from error
        self._core = metrics_core
        self._host = host

    def describe(self) -> Iterable[Any]:
        """The metrics that there always are, without numbers. The registry refuses a second
        collector for them."""
        from wasi_nn._host.statistics import RunCounts

        return list(self._of_host(RunCounts().statistics({}, 0))) + list(self._of_models({}))

    def collect(self) -> Iterator[Any]:
        """The metrics, as they are now."""
        statistics = self._host.statistics()
        yield from self._of_host(statistics)
        yield from self._of_models(statistics.models)

    def _of_host(self, now: Statistics) -> Iterator[Any]:
        yield self._counter("runs", "Runs of guests that have ended.", now.runs, "outcome")
        yield self._gauge("runs_in_progress", "Guests that run.", now.running)
        buckets = [
            ("+Inf" if bound == float("inf") else str(float(bound)), count)
            for bound, count in now.durations.items()
        ]
        yield self._core.HistogramMetricFamily(
            "wasi_nn_run_seconds",
            "Seconds of runs, without compiling the guest.",
            buckets=buckets,
            sum_value=now.run_seconds,
        )
        calls = "Calls of wasi-nn that gave a guest an errno."
        yield self._counter("failed_calls", calls, now.failed_calls)
        refused = "What the rules of the policy have refused."
        yield self._counter("refusals", refused, now.refused, "rule")
        done = now.generation
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts that were computed.", done.prompt_tokens),
            ("kept_tokens", "Tokens of prompts that an earlier prompt had.", done.kept_tokens),
            ("prompt_seconds", "Seconds in which prompts were computed.", done.prompt_seconds),
            ("tokens", "Tokens that were generated.", done.tokens),
            ("token_seconds", "Seconds in which tokens were generated.", done.seconds),
            ("texts", "Texts that were begun.", done.texts),
            (
                "first_token_seconds",
                "Seconds to the first token, of all texts.",
                done.first_seconds,
            ),
        ):
            yield self._counter(f"generation_{name}", text, value)
        yield self._gauge("guest_workers", "Workers of one guest each.", now.workers)
        deaths = "Workers that have ended by themselves, or for what they did."
        yield self._counter("worker_deaths", deaths, now.worker_deaths, "backend")

    def _of_models(self, models: Mapping[str, ModelStatistics]) -> Iterator[Any]:
        labels = ["model", "backend"]
        families = {
            "load_seconds": self._gauge(
                "model_load_seconds", "Seconds that loading took.", None, labels
            )
        }
        for name, text in _COUNTS.items():
            families[name] = self._counter(f"model_{name}", text, None, labels)
        for name, text in _LEVELS.items():
            families[name] = self._gauge(f"model_{name}", text, None, labels)
        for model, now in models.items():
            for name, value in {**now.counts, "load_seconds": now.load_seconds}.items():
                if name not in families:
                    # Only the backend knows what it counts.
                    full = "wasi_nn_model_" + re.sub(r"\W", "_", name, flags=re.ASCII)
                    families[name] = self._core.UnknownMetricFamily(full, name, labels=labels)
                families[name].add_metric([model, now.backend], value)
        yield from families.values()

    def _counter(
        self,
        name: str,
        text: str,
        value: float | Mapping[str, float] | None,
        labels: str | list[str] = "",
    ) -> Any:
        family = self._core.CounterMetricFamily
        return self._family(family, name, text, value, labels)

    def _gauge(
        self, name: str, text: str, value: float | None, labels: str | list[str] = ""
    ) -> Any:
        return self._family(self._core.GaugeMetricFamily, name, text, value, labels)

    def _family(
        self, family: Any, name: str, text: str, value: Any, labels: str | list[str]
    ) -> Any:
        """One metric: of a number, of numbers by one label, or still empty."""
        name = f"wasi_nn_{name}"
        if not labels:
            return family(name, text, value=value)
        made = family(name, text, labels=[labels] if isinstance(labels, str) else labels)
        for label, number in (value or {}).items():
            made.add_metric([label], number)
        return made
