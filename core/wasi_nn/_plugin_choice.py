"""The plugins that the user leaves out."""

from __future__ import annotations

import os
from collections.abc import Set

from wasi_nn._suggestion import did_you_mean
from wasi_nn.errors import UsageError

#: The environment variable that chooses among the plugins, and what is said of the others.
CHOICE = "WASI_NN_PLUGINS"
LEFT_OUT = "left out by WASI_NN_PLUGINS or -p"
_NO = "no:"


def chosen(installed: Set[str]) -> set[str]:
    """The plugins that ``WASI_NN_PLUGINS`` does not leave out. Raises ``UsageError`` for a name
    that is not installed."""
    words = [word.strip() for word in os.environ.get(CHOICE, "").split(",")]
    without = {word[len(_NO) :] for word in words if word.startswith(_NO)}
    only = {word for word in words if word and not word.startswith(_NO)}
    for name in sorted((without | only) - installed):
        hint = did_you_mean(name, installed)
        listed = ", ".join(sorted(installed))
        raise UsageError(f"{CHOICE}: there is no plugin {name!r}{hint}; installed: {listed}")
    return (only or set(installed)) - without
