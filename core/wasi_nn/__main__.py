"""`python -m wasi_nn`, the same as the command `wasi-nn`."""

from wasi_nn.cli import main

if __name__ == "__main__":
    main()
