"""What `--stats` prints."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from wasi_nn.program import RunResult


def print_stats(result: RunResult) -> None:
    """Print times and counts to stderr, which the guest's own output does not use."""
    console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
    timings = result.timings
    summary = Table(box=None, show_header=False, pad_edge=False)
    summary.add_column(style="bold")
    summary.add_column(justify="right")
    summary.add_column()
    summary.add_row("compile", _milliseconds(timings.compile), "")
    summary.add_row("instantiate", _milliseconds(timings.instantiate), "")
    for graph in result.graphs:
        how = f"{graph.encoding} by {graph.backend} on {graph.target}"
        summary.add_row("open model", _milliseconds(graph.seconds), how)
    summary.add_row("run", _milliseconds(timings.run), f"dialect {result.dialect or 'none'}")
    for span in timings.bench:
        summary.add_row("bench.start to end", _milliseconds(span), "")
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


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
