"""The command `wasi-nn conformance`, which is `wasi-nn-conformance` in its own distribution."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path

import click

from wasi_nn_conformance import case, comparison, completion, expectations, hosts, matrix
from wasi_nn_conformance.dialects import DIALECTS, WIT
from wasi_nn_conformance.errors import UsageError
from wasi_nn_conformance.expectations import Failure
from wasi_nn_conformance.export import plain, testsuite
from wasi_nn_conformance.graphs import SUFFIXES
from wasi_nn_conformance.hosts.foreign import ForeignHost
from wasi_nn_conformance.matrix import FAILURES, Cell
from wasi_nn_conformance.origin import Origin
from wasi_nn_conformance.printing import check_writable, complain, is_stdout, program, visible
from wasi_nn_conformance.reports import html, jsonfile, junit, markdown, terminal

#: The default dialects: the specification's core ABI, each host's own, and components.
DEFAULT_DIALECTS = ("witx", "witx-2022", "wasmedge", "wamr", "wamr-legacy", WIT.name)

_EXPORTS = {"files": plain.write, "wasi-testsuite": testsuite.write}

_EXAMPLES = """\b
examples:
  PROGRAM                                   everything that is installed
  PROGRAM --host wasmtime --encoding onnx --dialect witx
  PROGRAM --case 'set_input/*' --case names/unknown
  PROGRAM --host wasmtime --host native-wasmtime --html matrix.html
  PROGRAM --host-command 'myhost --dir {graphs}::/graphs {module} {args}' \\
      --expectations mine.json --update-expectations
  PROGRAM --json new.json --compare old.json
  PROGRAM --encoding onnx --dialect witx --export cases
  PROGRAM --list
"""

_file = partial(click.option, type=click.Path(path_type=Path), metavar="FILE")


class _Command(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples with the name that the user knows."""
        self.epilog = _EXAMPLES.replace("PROGRAM", program())
        super().format_epilog(ctx, formatter)


@click.command(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--host",
    "host_names",
    multiple=True,
    metavar="HOST",
    shell_complete=completion.host_names,
    help="A runtime, or native-wasmtime, native-wasmedge, native-iwasm. Default: all but browsers.",
)
@click.option(
    "--host-command",
    "commands",
    multiple=True,
    metavar="COMMAND",
    help="Any host: the command that runs {module}. See docs/conformance.md.",
)
@_file("--adapter", "host_files", multiple=True, help="Any host: a TOML file about it.")
@click.option(
    "--encoding",
    "encodings",
    multiple=True,
    metavar="ENCODING",
    shell_complete=completion.encodings,
    help="Default: every encoding with canonical graphs.",
)
@click.option(
    "--dialect",
    "dialects",
    multiple=True,
    metavar="DIALECT",
    shell_complete=completion.dialects,
    help=f"Or 'all'. Default: {', '.join(DEFAULT_DIALECTS)}.",
)
@click.option(
    "--case",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    shell_complete=completion.cases,
    help="Cases by id, with * and ?.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Cells to run at the same time. Default: one per core.",
)
@_file("--json", "json_file", help="Write the results as JSON.")
@_file("--junit", "junit_file", help="Write the results as JUnit XML.")
@_file("--html", "html_file", help="Write one self-contained page.")
@_file("--markdown", "markdown_file", help="Write the counts as a page of Markdown.")
@_file(
    "--merge",
    "merged_files",
    multiple=True,
    help="Add the results of another run's --json, for cells that this run has no results for.",
)
@_file(
    "--check",
    "checked_file",
    help="Fail if a page that --markdown wrote has other results.",
)
@_file(
    "--expectations",
    "own_file",
    help="Known deviations of your own, as in conformance/expectations. They are for every host.",
)
@click.option(
    "--update-expectations",
    is_flag=True,
    help="Write what fails now to the file of --expectations.",
)
@_file("--compare", "old_file", help="Print what has changed since another run's --json.")
@click.option(
    "--export",
    "export_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the cases as plain files with a shell loop that runs them, and do nothing else.",
)
@click.option(
    "--export-format",
    type=click.Choice(list(_EXPORTS)),
    default="files",
    show_default=True,
    help="wasi-testsuite: for the executor of that repository.",
)
@click.option("--list", "list_cases", is_flag=True, help="Print the cases and do nothing.")
def conformance(
    host_names: tuple[str, ...],
    commands: tuple[str, ...],
    host_files: tuple[Path, ...],
    encodings: tuple[str, ...],
    dialects: tuple[str, ...],
    patterns: tuple[str, ...],
    jobs: int | None,
    json_file: Path | None,
    junit_file: Path | None,
    html_file: Path | None,
    markdown_file: Path | None,
    merged_files: tuple[Path, ...],
    checked_file: Path | None,
    own_file: Path | None,
    update_expectations: bool,
    old_file: Path | None,
    export_folder: Path | None,
    export_format: str,
    list_cases: bool,
) -> int:
    """Run the conformance cases and print the matrix of hosts and encodings.

    Each cell runs in a process of its own. The exit code is 0 if nothing unexpected happened: every
    failure is a known deviation, and every known deviation fails."""
    cases = case.chosen(case.load(), patterns)
    if list_cases:
        for one in cases:
            print(f"{one.id:<52} {one.why}")
        return 0
    wanted = _known("encoding", encodings, list(SUFFIXES)), _dialects(dialects)
    if export_folder is not None:
        count = _EXPORTS[export_format](export_folder, cases, *wanted)
        click.echo(
            f"{visible(str(export_folder))} has {count} cases; its README.md says how to run them"
        )
        return 0
    reports = [file for file in (json_file, junit_file, html_file, markdown_file) if file]
    to_stdout = sum(map(is_stdout, reports))
    if to_stdout > 1:
        raise UsageError("only one report can go to standard output")
    if update_expectations and own_file is None:
        raise UsageError("--update-expectations needs --expectations FILE, the file to write")
    for file in (*reports, *([own_file] if own_file and update_expectations else [])):
        check_writable(file)
    fresh = update_expectations and own_file is not None and not own_file.exists()
    own = [] if own_file is None or fresh else expectations.read(own_file)
    old = [] if old_file is None else jsonfile.read(old_file, cases)
    foreign = [ForeignHost({"command": command}) for command in commands]
    foreign += [ForeignHost.read(file) for file in host_files]
    plans = matrix.plan(
        host_names or ([] if foreign else _by_default()),
        *wanted,
        foreign,
    )
    others = [cell for file in merged_files for cell in jsonfile.read(file, cases)]
    origin = Origin.here()
    with _progress(len(plans) * len(cases)) as step:
        run = matrix.Run(cases, own, step)
        ran = run.cells(plans, jobs or os.cpu_count() or 1)
    cells = matrix.merge(ran, others)
    with redirect_stdout(sys.stderr) if to_stdout else nullcontext():
        terminal.print_matrix(cells, cases)
    writers: list[tuple[Path | None, Callable[[Path], None]]] = [
        (json_file, lambda path: jsonfile.write(path, cells, cases, origin)),
        (junit_file, lambda path: junit.write(path, cells)),
        (html_file, lambda path: html.write(path, cells, cases, origin)),
        (markdown_file, lambda path: markdown.write(path, cells, cases, origin)),
    ]
    for report, write in writers:
        if report:
            _write(report, write)
    if run.interrupted:
        if reports:
            complain("interrupted: the reports have the cases that ran before")
        raise KeyboardInterrupt
    for line in comparison.changes(old, cells) if old_file else ():
        click.echo(visible(line), err=bool(to_stdout))
    if update_expectations and own_file is not None:
        _update(own_file, own, ran)
        return 0
    if not any(cell.outcomes for cell in cells):
        complain("nothing was run: none of the hosts is installed here")
        return 2
    if checked_file:
        differences = markdown.differences(checked_file, cells)
        for difference in differences:
            complain(f"{checked_file} is out of date (make matrix): {difference}")
        if differences:
            return 1
    return 1 if any(cell.counts["unexpected"] for cell in cells) else 0


def _update(file: Path, own: Sequence[expectations.Expectation], cells: Sequence[Cell]) -> None:
    """Write the failures that the hosts' own expectations do not know."""
    ran, failures = set(), []
    for cell in matrix.shown(cells):
        theirs = expectations.load(cell.host)
        for outcome in cell.outcomes:
            one = outcome.case, cell.encoding, cell.dialect
            ran.add(one)
            if outcome.status in FAILURES and expectations.reason(theirs, *one) is None:
                failures.append(Failure(outcome.case, outcome.reason, *one[1:]))
    expectations.write(file, expectations.updated(own, ran, failures))


def _write(file: Path, write: Callable[[Path], None]) -> None:
    """Write a report to the file, or for ``-`` to standard output."""
    if not is_stdout(file):
        write(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "report"
        write(written)
        sys.stdout.flush()
        sys.stdout.buffer.write(written.read_bytes())


def _by_default() -> list[str]:
    return [name for name, host in hosts.known().items() if host.by_default]


def _known(what: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in given:
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}; known: {', '.join(known)}")
    return list(given or known)


def _dialects(given: Sequence[str]) -> list[str]:
    if "all" in given:
        return list(DIALECTS)
    return _known("dialect", given, [*DIALECTS, WIT.name]) if given else list(DEFAULT_DIALECTS)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Cell], None]]:
    """A bar on a terminal, with the cell that runs; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("running cases", total=total)
        yield lambda cell: bar.update(task, advance=1, description=escape(", ".join(cell.key)))
