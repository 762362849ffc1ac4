"""The command `wasi-nn-conformance`, also as `python -m wasi_nn_conformance`."""

from __future__ import annotations

import sys

import click

from wasi_nn_conformance.cli import conformance
from wasi_nn_conformance.printing import complain, print_any_character


def main() -> None:
    """Run the command. A mistake of the user gives one line on stderr and exit code 2."""
    print_any_character()
    try:
        code = conformance.main(prog_name="wasi-nn-conformance", standalone_mode=False)
    except click.Abort:
        complain("interrupted")
        code = 130
    except click.ClickException as error:
        complain(error.format_message())
        code = 2
    except OSError as error:
        complain(str(error))
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
