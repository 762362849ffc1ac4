"""`python -m wasi_nn`, the same as the command `wasi-nn`."""

import contextlib
import os
import sys

from wasi_nn._cli import main

if __name__ == "__main__":
    # Python puts the current directory first. A guest may be allowed to write there, and a backend
    # is imported when a guest asks for it.
    with contextlib.suppress(OSError):
        if sys.path[:1] == [os.getcwd()]:
            del sys.path[0]
    main()
