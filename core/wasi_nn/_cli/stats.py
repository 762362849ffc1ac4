"""Print the statistics of `--stats`."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from wasi_nn._host.result import RunResult
from wasi_nn.backend import Generation
from wasi_nn.escaping import visible


def print_stats(result: RunResult) -> None:
    """Print times and counts to stderr."""
    # No markup: names come from plugins.
    console = Console(
        stderr=True,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if sys.stderr.isatty() else 120,
    )
    timings = result.timings
    summary = Table(box=None, show_header=False, pad_edge=False)
    summary.add_column(style="bold")
    summary.add_column(justify="right")
    summary.add_column()
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
    for rule, count in sorted(result.refused.items()):
        summary.add_row("refused", str(count), f"by the rule {rule}")
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
