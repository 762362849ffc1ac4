"""`wasi-nn completion`, and the values that it offers."""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

_VARIABLE = "_WASI_NN_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a script with which SHELL completes commands, options and their values.

    \b
    bash: wasi-nn completion bash >> ~/.bashrc
    zsh:  wasi-nn completion zsh >> ~/.zshrc
    fish: wasi-nn completion fish > ~/.config/fish/completions/wasi-nn.fish"""
    found = get_completion_class(shell)
    assert found is not None  # (A choice above.)
    click.echo(found(context.find_root().command, {}, "wasi-nn", _VARIABLE).source())
    return 0


def runtimes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from wasi_nn.plugins import Plugins

    return _beginning(incomplete, ["auto", *(one.name for one in Plugins.installed().runtimes)])


def dialects(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from wasi_nn._abi.core.dialects import DIALECTS

    return _beginning(incomplete, ["auto", *DIALECTS])


def encodings(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from wasi_nn.plugins import Plugins

    served = {name for backend in Plugins.installed().backends for name in backend.encodings}
    return _listed(incomplete, sorted(served))


def targets(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from wasi_nn.types import ExecutionTarget

    return _listed(incomplete, [target.name.lower() for target in ExecutionTarget])


def models(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The named models of ``--graph`` before it."""
    given: Iterable[str] = context.params.get("graphs") or ()
    return _listed(incomplete, [text.partition("=")[0] for text in given])


def model_options(
    context: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The same, for an option that takes ``NAME=``."""
    given: Iterable[str] = context.params.get("graphs") or ()
    return _beginning(incomplete, [f"{text.partition('=')[0]}=" for text in given])


def plugins(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from wasi_nn._distributions import entry_points
    from wasi_nn.hookspecs import GROUP

    return _beginning(incomplete, sorted({f"no:{one.name}" for one in entry_points(GROUP)}))


def folders(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


def _listed(incomplete: str, names: list[str]) -> list[CompletionItem]:
    """Completions of the last name of a list with commas."""
    head, comma, last = incomplete.rpartition(",")
    return _beginning(last, names, head + comma)


def _beginning(start: str, names: list[str], head: str = "") -> list[CompletionItem]:
    return [CompletionItem(head + name) for name in names if name.startswith(start)]
