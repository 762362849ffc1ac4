"""Print the statistics of `--stats`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from wasi_nn._host.result import RunResult
from wasi_nn._host.statistics import Statistics
from wasi_nn.backend import Generation
from wasi_nn.escaping import visible

# The means of what graphs count: a title, the sum and the number.
_MEANS = (
    ("tokens per step", "step_tokens", "steps"),
    ("rows per batch", "rows", "batches"),
    ("requests per batch", "requests", "batches"),
)


def print_stats(result: RunResult, statistics: Statistics) -> None:
    """Print times and counts of the host's only run to stderr."""
    console = _console()
    timings = result.timings
    summary = _summary()
    summary.add_row("compile", _milliseconds(timings.compile), "")
    summary.add_row("instantiate", _milliseconds(timings.instantiate), "")
    summary.add_row("run", _milliseconds(timings.run), f"dialect {result.dialect or 'none'}")
    for graph in result.graphs:
        how = visible(f"{graph.encoding} by {graph.backend} on {graph.target}, with its library")
        summary.add_row("  of it, open model", _milliseconds(graph.seconds), how)
    for span in timings.bench:
        summary.add_row("bench.start to end", _milliseconds(span), "")
    if result.generation is not None:
        _generation(summary, result.generation)
    _refused(summary, result.refused)
    _models(summary, statistics)
    console.print(summary)
    called = [(name, calls) for name, calls in result.calls.items() if calls.calls]
    if not called:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("function")
    for title in ("calls", "failed", "total ms", "mean µs", "longest µs", "per second"):
        table.add_column(title, justify="right")
    for name, calls in called:
        table.add_row(
            name,
            str(calls.calls),
            str(calls.failures),
            f"{calls.seconds * 1e3:.3f}",
            f"{calls.seconds / calls.calls * 1e6:.1f}",
            f"{calls.longest * 1e6:.1f}",
            f"{calls.calls / calls.seconds:.0f}" if calls.seconds else "-",
        )
    console.print()
    console.print(table)


def print_totals(statistics: Statistics) -> None:
    """Print times and counts of all runs of the host to stderr."""
    summary = _summary()
    runs = sum(statistics.runs.values())
    for outcome, count in statistics.runs.items():
        if count:
            summary.add_row("runs", str(count), outcome.replace("_", " "))
    if runs:
        mean = f"mean of {runs}, without compiling"
        summary.add_row("run", _milliseconds(statistics.run_seconds / runs), mean)
    if statistics.generation != Generation():
        _generation(summary, statistics.generation)
    if statistics.failed_calls:
        summary.add_row("failed calls", str(statistics.failed_calls), "gave an errno")
    _refused(summary, statistics.refused)
    _models(summary, statistics)
    _console().print(summary)


def _console() -> Console:
    # No markup: names come from plugins.
    return Console(
        stderr=True,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if sys.stderr.isatty() else 120,
    )


def _summary() -> Table:
    summary = Table(box=None, show_header=False, pad_edge=False)
    summary.add_column(style="bold")
    summary.add_column(justify="right")
    summary.add_column()
    return summary


def _refused(summary: Table, refused: Mapping[str, int]) -> None:
    for rule, count in sorted(refused.items()):
        summary.add_row("refused", str(count), f"by the rule {rule}")


def _models(summary: Table, statistics: Statistics) -> None:
    for backend, count in statistics.worker_deaths.items():
        summary.add_row("lost workers", str(count), f"of the backend {visible(backend)}")
    for name, model in statistics.models.items():
        if model.counts:
            where = "" if model.isolation == "none" else f", {model.isolation} worker"
            how = f"{model.encoding} by {model.backend}{where}"
            summary.add_row(visible(f"model {name}"), "", visible(how))
        for title, value in figures(model.counts):
            summary.add_row(visible(f"  {title}"), value, "")


def figures(counts: Mapping[str, float]) -> list[tuple[str, str]]:
    """What a graph counts, with its means: titles and values."""
    left = dict(counts)
    found = []
    for title, above, below in _MEANS:
        if above in left and below in left:
            mean = left[above] / left[below] if left[below] else 0.0
            found.append((title, f"{mean:.2f}"))
    if "kv_cells" in left and "kv_cells_used" in left:
        used, cells = left.pop("kv_cells_used"), left.pop("kv_cells")
        found.append(("kv cells", f"{used:.0f} of {cells:.0f}"))
    for name, value in left.items():
        title = name.replace("_", " ")
        if name.endswith("_seconds"):
            found.append((f"{title.removesuffix(' seconds')} in all", _milliseconds(value)))
        else:
            found.append((title, f"{value:.0f}" if value.is_integer() else f"{value:.3f}"))
    return found


def _generation(summary: Table, done: Generation) -> None:
    kept = f", {done.kept_tokens} more kept from earlier" if done.kept_tokens else ""
    summary.add_row(
        "prompt",
        _rate(done.prompt_tokens, done.prompt_seconds),
        f"{done.prompt_tokens} tokens{kept}",
    )
    summary.add_row("generated", _rate(done.tokens, done.seconds), f"{done.tokens} tokens")
    if done.texts:
        mean = _milliseconds(done.first_seconds / done.texts)
        summary.add_row("time to first token", mean, f"mean of {done.texts}")


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.1f} tokens/s" if seconds else "-"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
