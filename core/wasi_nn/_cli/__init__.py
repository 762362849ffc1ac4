"""The command `wasi-nn`."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from pathlib import Path

import click

from wasi_nn import __version__
from wasi_nn._cli.messages import complain, speak_for_python
from wasi_nn._cli.shared_options import leave_out, plugin_option
from wasi_nn.errors import UsageError, WasiNnError
from wasi_nn.escaping import trace_of

# The commands, by their modules here or elsewhere. Each is imported when it is used.
_MODULES = {
    "run": "run",
    "inspect": "inspect",
    "plugins": "status",
    "doctor": "status",
    "mcp": "mcp",
    "models": "models",
    "new": "new",
    "completion": "completion",
    "playground": "playground",
    "conformance": "wasi_nn_conformance.cli",
}
# Commands of other hosts, and what to use here instead.
_ELSEWHERE = {
    "compile": "a guest is compiled when it runs: wasi-nn run GUEST",
    "validate": "wasi-nn inspect FILE says whether a guest can run",
    "parse": "wasi-nn inspect FILE shows what a guest is",
    "serve": "guests are programs here: wasi-nn run GUEST",
}


class _Group(click.Group):
    """A group whose default command is ``run``, as in other hosts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES and cmd_name not in self.commands:
            name = _MODULES[cmd_name]
            module = import_module(name if "." in name else f"{__name__}.{name}")
            self.add_command(getattr(module, cmd_name))
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        while args[:1] == ["-p"] and len(args) > 1:
            # Here, so that what follows can be a guest or an option of ``run``.
            leave_out(args[1])
            args = args[2:]
        first = args[0] if args else ""
        is_file = first.endswith(".wasm") or Path(first).is_file()
        if first not in self.list_commands(ctx):
            from wasi_nn._cli.run import run

            if is_file or run.has_option(first):
                args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in _ELSEWHERE:
            raise UsageError(f"there is no command {args[0]!r}; {_ELSEWHERE[args[0]]}")
        if args[0] not in self.list_commands(ctx):
            for name in _MODULES:  # (click suggests commands that it has.)
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@plugin_option
@click.version_option(__version__, prog_name="wasi-nn", message="%(prog)s %(version)s")
def app() -> None:
    """Run WebAssembly programs that do machine learning through wasi-nn."""


def main() -> None:
    """Run the command line. A mistake of the user gives one line on stderr and exit code 2."""
    speak_for_python()
    for stream in (sys.stdout, sys.stderr):
        # The terminal's encoding may not have every character of a name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="wasi-nn", standalone_mode=False)
    except click.Abort:
        complain("interrupted")
        code = 130
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        code = 2
    except click.ClickException as error:
        complain(error.format_message())
        code = 2
    except (WasiNnError, OSError) as error:
        complain(str(error))
        code = 2
    except Exception as error:
        # Python would print the texts of errors unescaped.
        complain(trace_of(error))
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
