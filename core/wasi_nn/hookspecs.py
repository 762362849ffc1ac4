"""The hooks of a wasi-nn plugin.

A plugin is a module that an entry point of the group ``wasi_nn`` names. It implements one hook or
both. Do not import a machine-learning library or an engine at the top of that module: hosts import
every plugin when they start."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from wasi_nn.backend import Backend
from wasi_nn.runtime import Runtime

__all__ = ["API_VERSION", "GROUP", "hookimpl", "hookspec", "wasi_nn_backends", "wasi_nn_runtimes"]

#: The group of entry points, and pluggy's name for the project.
GROUP = "wasi_nn"

#: The version of the contract of plugins. It grows when a plugin that was right is no longer. A
#: plugin may name the one that it is for: ``WASI_NN_API = 1`` in its module.
API_VERSION = 1

#: Marks a hook's specification.
hookspec = pluggy.HookspecMarker(GROUP)
#: Marks a plugin's functions as its hooks.
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def wasi_nn_backends() -> Iterable[Backend]:
    """The backends that the plugin brings, each a ``wasi_nn.backend.Backend``.

    Called once for each host: make new objects. What it raises makes the plugin a broken one."""
    return ()


@hookspec
def wasi_nn_runtimes() -> Iterable[Runtime]:
    """The runtimes that the plugin brings, each a ``wasi_nn.runtime.Runtime``.

    Called once for each host: make new objects. What it raises makes the plugin a broken one."""
    return ()
