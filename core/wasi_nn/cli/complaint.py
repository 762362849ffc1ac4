"""Lines of the command itself, on stderr, beside what the guest writes there."""

from __future__ import annotations

import contextlib
import os
import sys

from wasi_nn.escaping import visible_lines


def complain(text: str) -> None:
    """Print a line to stderr. Nobody may be there to read it: a closed stream is no error."""
    if sys.stderr is None:
        return
    try:
        print(f"wasi-nn: {visible_lines(text)}", file=sys.stderr, flush=True)
    except ValueError:
        pass
    except OSError:
        # What is left in the buffer would make Python end with 120: let it go nowhere.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
