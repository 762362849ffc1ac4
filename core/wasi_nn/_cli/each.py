"""`wasi-nn run --each FILE…`: one run of the guest for each file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from wasi_nn._cli.foreground import in_thread
from wasi_nn._cli.messages import complain, show_row, subject
from wasi_nn.errors import LinkError, UsageError, WasiNnError
from wasi_nn.escaping import visible
from wasi_nn.runtime import Preopen
from wasi_nn.wasm.module import is_wasm

if TYPE_CHECKING:
    from wasi_nn._host.many import Outcome, Runs
    from wasi_nn._host.options import RunInput, RunOptions
    from wasi_nn._host.program import Program

#: What stands for the file in the guest's arguments.
PLACE = "{}"
# The most names in the line about the runs that failed.
_MAX_NAMES = 10
# What a shell reports of a program that SIGPIPE has ended.
_CLOSED_PIPE = 141


def files_before_guest(rest: list[str]) -> tuple[list[str], list[str]]:
    """Split the command line after ``--each`` into its files and what follows: a shell makes many
    arguments of ``*.jpg``. The first is a file; further ones end at an option or the guest, the
    first Wasm file. Raises ``UsageError`` if that does not follow."""
    files, rest = rest[:1], rest[1:]
    while rest and not rest[0].startswith("-") and not _is_guest(rest[0]):
        files.append(rest.pop(0))
    if not rest:
        raise UsageError(
            f"--each {' '.join(files[:3])}{' …' if files[3:] else ''}: the guest (a .wasm file) "
            "must follow the files"
        )
    return files, rest


def _is_guest(text: str) -> bool:
    if text.endswith(".wasm"):
        return True
    try:
        with open(text, "rb") as file:
            return is_wasm(file.read(8))
    except OSError:
        return False


def _named_files(texts: Sequence[str]) -> tuple[Iterable[str], int | None]:
    """The files of ``--each``, and how many there are: None if standard input names them. Raises
    ``UsageError`` for a pattern that matches no file."""
    if "-" in texts:
        if len(texts) > 1:
            raise UsageError("--each - reads the names of all files from standard input")
        return _lines(), None
    found: list[str] = []
    for text in texts:
        if has_magic(text) and not os.path.exists(text):
            matching = sorted(path for path in glob(text, recursive=True) if os.path.isfile(path))
            if not matching:
                raise UsageError(f"--each {text}: no file matches")
            found += matching
        else:
            found.append(text)
    return found, len(found)


def _lines() -> Iterator[str]:
    # (A thread that reads sys.stdin when Python exits makes it abort.)
    rest = b""
    while data := os.read(0, 1 << 16):
        *names, rest = (rest + data).split(b"\n")
        yield from map(os.fsdecode, filter(None, names))
    if rest:
        yield os.fsdecode(rest)


def run_each(
    program: Program,
    texts: Sequence[str],
    args: Sequence[str],
    options: RunOptions,
    jobs: int | None,
) -> int:
    """Run the guest once for each file that ``texts`` name. Returns the exit code."""
    files, total = _named_files(texts)
    interrupted = threading.Event()
    runs = _runs(program, files, args, options, jobs)

    def interrupt() -> None:
        interrupted.set()
        runs.interrupt()

    def work() -> int:
        with runs:
            return _show(runs, total)

    code = in_thread(work, interrupt)
    if interrupted.is_set():
        complain("interrupted")
        return 130
    return code


def _runs(
    program: Program,
    files: Iterable[str],
    args: Sequence[str],
    options: RunOptions,
    jobs: int | None,
) -> Runs[str]:
    """The runs of the guest for the files, in their order.

    If the arguments have the place for it, they get the file's path, and the guest may read the
    file's folder. If not, the file is the guest's standard input."""
    dirs: list[Preopen] = list(options["dirs"])  # type: ignore[arg-type]
    by_path = any(PLACE in text for text in args)

    def prepare(path: str) -> RunInput:
        subject.set(path)
        if not by_path:
            return {"stdin": Path(path).read_bytes()}
        with open(path, "rb"):
            # It must be a file that can be read.
            pass
        path = _without_links(path)
        own = [] if _can_open(dirs, path) else [_folder(path)]
        return {"args": [text.replace(PLACE, path) for text in args], "dirs": [*dirs, *own]}

    return program.run_many(files, prepare, args=args, jobs=jobs, ordered=True, **options)


def _without_links(path: str) -> str:
    """The path of the file itself, if it is a symbolic link: a guest can follow none that leads out
    of the folder."""
    real = os.path.realpath(path)
    folder, name = os.path.split(path)
    return path if real == os.path.join(os.path.realpath(folder), name) else real


def _folder(path: str) -> Preopen:
    folder = os.path.dirname(path) or "."
    return Preopen(Path(folder), folder, False)


def _can_open(dirs: Sequence[Preopen], path: str) -> bool:
    """Whether a guest with these directories finds the file under the path."""
    wanted = os.path.normpath(path)
    for directory in dirs:
        guest = os.path.normpath(directory.guest)
        if os.path.isabs(guest) != os.path.isabs(wanted):
            continue
        inside = os.path.relpath(wanted, guest)
        with suppress(OSError):
            if inside.split(os.sep)[0] != ".." and os.path.samefile(directory.host / inside, path):
                return True
    return False


def _show(runs: Iterable[Outcome[str]], total: int | None) -> int:
    """Write each run's output, whole, and what went wrong. Returns the exit code: 1 if a run has
    failed. Raises ``UsageError`` if the first run shows that the command is wrong."""
    done = failures = 0
    # The first of them.
    failed: list[str] = []
    of = "" if total is None else f" of {total}"
    # The row would erase the start of a line that a guest has not ended.
    within_line = False
    show_row(f"0{of} done")
    for outcome in runs:
        if outcome.index == 0 and isinstance(outcome.error, (LinkError, UsageError)):
            raise outcome.error
        show_row("")
        if outcome.result is not None:
            try:
                _write(1, outcome.result.stdout)
            except BrokenPipeError:
                return _CLOSED_PIPE
            _write(2, outcome.result.stderr)
            if outcome.result.stdout:
                within_line = os.isatty(1) and not outcome.result.stdout.endswith(b"\n")
        done += 1
        reason = _failure(outcome)
        if reason:
            name = visible(outcome.input)
            complain(f"{name}: {reason}")
            failures += 1
            failed += [name] * (failures <= _MAX_NAMES)
        if not within_line:
            show_row(f"{done}{of} done" + (f", {failures} failed" if failures else ""))
    show_row("")
    if failures:
        more = f" and {failures - _MAX_NAMES} more" if failures > _MAX_NAMES else ""
        complain(f"{failures} of {done} runs failed: {', '.join(failed)}{more}")
    return 1 if failures else 0


def _failure(outcome: Outcome[str]) -> str:
    """Why a run is not right; an empty text for one that is."""
    error, result = outcome.error, outcome.result
    if isinstance(error, WasiNnError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if error is not None or result is None:
        return f"{type(error).__name__}: {error}"
    if result.exit_code:
        return f"exit code {result.exit_code}"
    return "its output is not complete" if "output" in result.refused else ""


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
