"""The hooks of a wasi-nn plugin.

A plugin is a module that an entry point of the group ``wasi_nn`` names. It implements one hook or
both. Do not import a machine-learning library or an engine at the top of that module: hosts import
every plugin when they start."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from wasi_nn.backend import Backend
from wasi_nn.runtime import Runtime

__all__ = ["GROUP", "hookimpl", "hookspec", "wasi_nn_backends", "wasi_nn_runtimes"]

#: The group of entry points, and pluggy's name for the project.
GROUP = "wasi_nn"

#: Marks a hook's specification.
hookspec = pluggy.HookspecMarker(GROUP)
#: Marks a plugin's functions as its hooks.
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def wasi_nn_backends() -> Iterable[Backend]:
    """The backends that the plugin brings. Called once per host: make new objects."""
    return ()


@hookspec
def wasi_nn_runtimes() -> Iterable[Runtime]:
    """The runtimes that the plugin brings. Called once per host: make new objects."""
    return ()
