"""The command `wasi-nn`, also as `python -m wasi_nn`."""

import contextlib
import gc
import os
import sys


def main() -> None:
    """Run the command line."""
    # What a start makes stays until the end: Python would look through it for garbage many times.
    gc.set_threshold(100_000)
    from wasi_nn._cli import main

    try:
        main()
    finally:
        # Python looks through everything once more when it ends.
        gc.freeze()


if __name__ == "__main__":
    # Python puts the current directory first. A guest may be allowed to write there, and a backend
    # is imported when a guest asks for it.
    with contextlib.suppress(OSError):
        if sys.path[:1] == [os.getcwd()]:
            del sys.path[0]
    main()
