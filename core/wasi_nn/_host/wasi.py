"""What a guest sees of the system, made from the options of a run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union

from wasi_nn.errors import UsageError
from wasi_nn.runtime import Preopen, Stdin, WasiConfig

if TYPE_CHECKING:
    from wasi_nn._host.capture import Capture
    from wasi_nn._host.feed import Feed
    from wasi_nn._host.options import RunOptions

#: What a guest may see of the file system: ``{guest path: host path}``, or Preopen tuples.
Dirs = Union[Mapping[str, Union[str, Path]], Sequence[Preopen]]


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | str: ...


#: What may be a guest's standard input.
StdinSource = Union[
    None,
    bytes,
    Literal["inherit"],
    _Readable,
    Iterable[bytes],
    AsyncIterable[bytes],
    Callable[[int], bytes],
]
_BYTES = (bytes, bytearray, memoryview)


def _preopen(entry: object, dirs: object) -> Preopen:
    if (
        not isinstance(entry, Preopen)
        or not isinstance(entry.host, (str, os.PathLike))
        or not isinstance(entry.guest, str)
    ):
        raise UsageError(
            f"dirs is {dirs!r}, and must map guest paths to host paths, as in "
            "{'/data': 'photos'}, or be a list of Preopen"
        )
    host = Path(entry.host)
    if not host.is_dir():
        raise UsageError(f"{host} is not a directory")
    return entry._replace(host=host)


def _preopens(dirs: Dirs) -> list[Preopen]:
    if isinstance(dirs, Mapping):
        # (``_preopen`` checks what they are.)
        unchecked: Mapping[Any, Any] = dirs
        given: Sequence[object] = [Preopen(host, guest) for guest, host in unchecked.items()]
    else:
        given = dirs if isinstance(dirs, Sequence) else [dirs]
    return [_preopen(entry, dirs) for entry in given]


def fed(stdin: object) -> Feed | None:
    """The feed of a standard input that needs one. Raises ``UsageError`` for another form."""
    if stdin is None or stdin == "inherit" or isinstance(stdin, _BYTES):
        return None
    if isinstance(stdin, str) or not (
        hasattr(stdin, "read") or isinstance(stdin, Iterable) or callable(stdin)
    ):
        raise UsageError(
            "stdin must be None, 'inherit', bytes, a file, an iterable of bytes (an asynchronous "
            f"one for run_async) or a callable, not {stdin!r}"
        )
    # (Most guests have none.)
    from wasi_nn._host.feed import Feed

    return Feed(stdin)


def wasi_config(
    args: Sequence[str], options: RunOptions, captured: Capture, feed: Feed | None = None
) -> WasiConfig:
    """The WASI configuration of a run, whose standard input may come from a feed. Raises
    ``UsageError`` for an option of another form, a directory that is not there, and NUL in an
    argument or variable."""
    env, dirs, given_stdin = options.get("env"), options.get("dirs", ()), options.get("stdin")
    stdin: Stdin = "inherit" if given_stdin == "inherit" else None
    if feed is not None:
        stdin = feed.reader
    elif isinstance(given_stdin, _BYTES):
        stdin = bytes(given_stdin)
    stdout = captured.stream("stdout", options.get("stdout"))
    stderr = captured.stream("stderr", options.get("stderr"))
    preopens = [] if dirs == () else _preopens(dirs)
    if env is not None and not isinstance(env, Mapping):
        raise UsageError(f"env is {env!r}, and must map names to texts, as in {{'LEVEL': 'info'}}")
    pairs = list((env or {}).items())
    for name, _ in pairs:
        if name == "" or (isinstance(name, str) and "=" in name):
            raise UsageError(f"a variable's name is {name!r}, and must be a text without '='")
    for text in (*args, *(part for pair in pairs for part in pair)):
        if not isinstance(text, str):
            raise UsageError(f"an argument or variable is {text!r}, and must be a text (str)")
        if "\0" in text:
            raise UsageError(f"an argument or variable holds a NUL byte: {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"an argument or variable is not UTF-8: {text!r}") from None
    for stream in (stdout, stderr):
        if not (stream is None or stream == "inherit" or callable(stream)):
            raise UsageError(
                f"an output must be None, 'inherit', a file or a callable, not {stream!r}"
            )
    return WasiConfig(list(args), pairs, preopens, stdin, stdout, stderr)
