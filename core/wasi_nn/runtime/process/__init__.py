"""Engines that run in a process of their own."""

import sys

from wasi_nn._process.interrupts import shielded_from_sigint

__all__ = ["in_own_process", "shielded_from_sigint"]


def in_own_process() -> bool:
    """Whether this process runs nothing but one engine and its guest, for a ``ProcessRuntime``."""
    return "wasi_nn.runtime.process._worker" in sys.modules
