"""`make bench`: every figure, in a table and in build/bench.json."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import (
    backends,
    batching,
    components,
    engines,
    fresh,
    hosting,
    isolation,
    language,
    native,
    neighbours,
    sockets,
    tools,
    traps,
)
from benchmarks.figures import report


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        steps = [
            ("host calls", hosting.host_call),
            ("many runs", hosting.run_many),
            ("the check of outputs", hosting.output_check),
            ("the look for signal handlers", hosting.attending),
            ("engines", engines.overhead),
            ("checks for traps", traps.checks),
            ("component calls", components.calls),
            ("a component on another host", native.components),
            ("a guest on another host", native.cycles),
            ("a process on another host", native.processes),
            ("backends", lambda: backends.cycles(folder)),
            ("batching", lambda: batching.figures(folder)),
            ("fresh guests", lambda: fresh.figures(folder)),
            ("workers", lambda: isolation.figures(folder)),
            ("language models", language.figures),
            ("servers", lambda: sockets.figures(folder)),
            ("tools", tools.figures),
            ("neighbours", lambda: neighbours.figures(folder)),
            ("start-up", hosting.start),
            ("memory", lambda: hosting.memory(folder)),
        ]
        figures = []
        for title, step in steps:
            if sys.stderr.isatty():
                print(f"measuring {title} ...", file=sys.stderr)
            figures += step()
    report(figures)


if __name__ == "__main__":
    main()
