"""Runs one cell of the matrix, in its own process: a host, an encoding, a dialect.

    python -m wasi_nn_conformance.cell HOST ENCODING DIALECT [DESCRIPTION]

Reads the cases' ids on standard input. Prints a line of JSON before and after each case, so that
the parent knows which case was running if the process dies.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from wasi_nn_conformance import case as cases
from wasi_nn_conformance import graphs, hosts, running
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.hosts.foreign import ForeignHost


def main() -> int:
    host, encoding, dialect = sys.argv[1:4]
    wanted = set(sys.stdin.read().split())
    found = ForeignHost.parse(sys.argv[4]) if sys.argv[4:] else hosts.find(host)
    if found is None:
        raise UsageError(f"there is no host {host!r}")
    files = graphs.canonical(encoding)
    subject = found.subject(files, dialect)
    try:
        for case in cases.load():
            if case.id in wanted:
                _print({"begin": case.id})
                result = running.run(case, subject, files, dialect)
                _print(result._asdict())
    finally:
        subject.close()
    return 0


def _print(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    sys.exit(main())
