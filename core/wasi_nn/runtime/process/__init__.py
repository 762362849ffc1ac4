"""Engines that run in a process of their own."""

from wasi_nn._process.interrupts import shielded_from_sigint

__all__ = ["shielded_from_sigint"]
