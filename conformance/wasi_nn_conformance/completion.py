"""The values that a shell completes."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

from wasi_nn_conformance import case, hosts
from wasi_nn_conformance.dialects import DIALECTS, WIT
from wasi_nn_conformance.graphs import SUFFIXES


def host_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _beginning(incomplete, hosts.known())


def encodings(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _beginning(incomplete, SUFFIXES)


def dialects(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _beginning(incomplete, ["all", *DIALECTS, WIT.name])


def cases(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _beginning(incomplete, [one.id for one in case.load()])


def _beginning(incomplete: str, values: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]
