"""`python -m fuzz COMMAND`."""

from __future__ import annotations

import argparse
import importlib
import sys

#: The module of each command. What it needs is imported when it is used.
COMMANDS = {
    "models": ("fuzz.hostile", "hostile models of every encoding, and texts for ggml"),
    "decoders": ("fuzz.decoders", "bytes for the host's own readers"),
    "soak": ("fuzz.soak", "very many guests, with flat memory"),
    "calls": ("fuzz.calls.running", "the core ABI's calls from Wasm, on every engine"),
}


def main(arguments: list[str]) -> int:
    """Run a command. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, says) in COMMANDS.items():
        found = importlib.import_module(module)
        added = commands.add_parser(name, help=says, description=found.__doc__)
        found.add_options(added)
        added.set_defaults(main=found.main)
    options = parser.parse_args(arguments)
    code: int = options.main(options)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
