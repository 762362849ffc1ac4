"""Where the built pages are."""

from __future__ import annotations

import os
from pathlib import Path

from wasi_nn.errors import Unavailable

#: Names a folder with the built pages, in place of the package's own.
VARIABLE = "WASI_NN_BROWSER_PAGES"
_OWN = Path(__file__).with_name("page")
_KNOWN = "guests.html"


def folder() -> Path:
    """The folder of the built pages. Raises ``Unavailable`` with the remedy."""
    named = os.environ.get(VARIABLE)
    found = Path(named) if named else _OWN
    if not (found / _KNOWN).is_file():
        raise Unavailable(
            f"its pages are not built; {found} has no {_KNOWN}: run make browser in a "
            f"checkout of wasi-nn, and name its {_OWN.parent.name}/{_OWN.name} in {VARIABLE}, or "
            "install a wheel that was built afterwards"
        )
    return found
