"""The name of a runtime, with the place where its engine runs."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RuntimeName"]


class RuntimeName(NamedTuple):
    """``NAME`` is a plugin's runtime, in this process. ``NAME@PYTHON`` gives each guest a process
    of another Python, and ``NAME@`` one of this Python."""

    plugin: str
    #: A program's name or path; empty for this Python. None: the engine runs in this process.
    python: str | None = None

    @classmethod
    def parse(cls, text: str) -> RuntimeName:
        """The name that a user wrote."""
        plugin, separator, python = text.partition("@")
        return cls(plugin, python if separator else None)

    def isolated(self, python: str = "") -> RuntimeName:
        """The same engine, in processes of ``python``."""
        return self._replace(python=python)

    def __str__(self) -> str:
        return self.plugin if self.python is None else f"{self.plugin}@{self.python}"
