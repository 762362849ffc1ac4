"""The results of benchmarks: named figures with goals, as a table and as build/bench.json."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "build" / "bench.json"


class Figure(NamedTuple):
    """One number. ``goal`` is its upper bound or, with ``at_least``, its lower bound."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def interleaved(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """The median of each measure over ``rounds`` passes. The measures alternate."""
    results: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, values in zip(measures, results, strict=True):
            values.append(measure())
    return [statistics.median(values) for values in results]


def paired_ratio(
    rounds: int, one: Callable[[], float], other: Callable[[], float]
) -> tuple[float, float, float]:
    """The median of ``one / other`` over pairs measured side by side, and the median of each. Other
    load on the machine affects both sides of a pair."""
    pairs = []
    for turn in range(rounds):
        # The second measure finds warmer caches, so they swap.
        first, second = (one, other) if turn % 2 else (other, one)
        a, b = first(), second()
        pairs.append((a, b) if turn % 2 else (b, a))
    ratio = statistics.median(a / b for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def per_call(function: Callable[[], Any], calls: int) -> float:
    """Seconds for one call, over a loop of ``calls``."""
    turns = range(calls)
    started = time.perf_counter()
    for _ in turns:
        function()
    return (time.perf_counter() - started) / calls


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def report(figures: list[Figure], output: Path = OUTPUT) -> None:
    """Print the table and write the file."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns: tuple[tuple[str, Literal["left", "right"]], ...] = (
        ("figure", "left"),
        ("value", "right"),
        ("unit", "left"),
        ("goal", "right"),
        ("met", "left"),
        ("", "left"),
    )
    for title, side in columns:
        table.add_column(title, justify=side, no_wrap=True)
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≥' if figure.at_least else '≤'} {figure.goal:g}"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        table.add_row(figure.name, f"{figure.value:.3f}", figure.unit, goal, met, figure.note)
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
    output.parent.mkdir(exist_ok=True)
    records = [
        {"name": f.name, "value": f.value, "unit": f.unit, "goal": f.goal, "met": f.met}
        for f in figures
    ]
    output.write_text(json.dumps(records, indent=1) + "\n")
    print(f"\nwritten to {output.relative_to(ROOT)}")
