"""Lines of the command itself, on stderr, beside what the guest writes there."""

from __future__ import annotations

import contextlib
import sys


def complain(text: str) -> None:
    """Print a line to stderr. Nobody may be there to read it: a closed stream is no error."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        print(f"wasi-nn: {text}", file=sys.stderr, flush=True)
