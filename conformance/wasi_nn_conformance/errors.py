"""The error of a user's mistake."""

from __future__ import annotations

import click


class UsageError(click.ClickException):
    """A wrong option or file. The command prints its text, and exits with 2."""

    exit_code = 2
