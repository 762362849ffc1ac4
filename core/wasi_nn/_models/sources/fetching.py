"""From a model's sources to its files on this machine, each checked before it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from wasi_nn._models import digests, recognition
from wasi_nn._models.sources.cache import Cache, Cached, key_of
from wasi_nn._models.sources.source import About, file_name, remote
from wasi_nn._models.sources.url import is_remote
from wasi_nn.backend import files as model_files
from wasi_nn.errors import UsageError


class Teller:
    """Is told what goes on. These methods do nothing."""

    def begins(self, source: str, about: About) -> None:
        """A download is about to begin."""

    def goes_on(self, done: int, whole: int | None) -> None:
        """So many bytes are here, of so many if that is known."""

    def waits(self, source: str) -> None:
        """Another process downloads the model now."""

    def ended(self) -> None:
        """The download has ended, or has failed."""


class Fetched(NamedTuple):
    """The files of a model, in the order of its sources, and the licence that a source names.
    ``cached`` is their entry in the cache, or None if all are local."""

    paths: tuple[Path, ...]
    cached: Cached | None = None


def fetch(
    texts: Sequence[str | os.PathLike[str]],
    cache: Cache,
    wanted: str | None = None,
    teller: Teller = Teller(),
    again: bool = False,
) -> Fetched:
    """The files of a model, downloaded where they are not here, or with ``again`` in any case.

    ``wanted`` are digests as in ``NamedModel.digest``. What is downloaded has one of them; which
    file has which is checked when the model is loaded. Raises ``UsageError``."""
    # (It knows packages, and parses what this module gets.)
    from wasi_nn._models.spec import resolve_path

    urls = [str(text) for text in texts if is_remote(text)]
    if not urls:
        return Fetched(tuple(resolve_path(text) for text in texts))
    cached = _download(urls, cache, wanted.split(",") if wanted else [], teller, again)
    places = iter(cached.paths)
    paths = tuple(next(places) if is_remote(text) else resolve_path(text) for text in texts)
    return Fetched(paths, cached)


def _download(
    urls: Sequence[str], cache: Cache, wanted: list[str], teller: Teller, again: bool
) -> Cached:
    key = key_of(urls)
    if not again and (found := cache.find(key)) is not None:
        return found
    remotes = [remote(url, wanted[0] if wanted else None) for url in urls]
    with cache.locked(key, lambda: teller.waits(urls[0])) as part:
        if not again and (found := cache.find(key)) is not None:
            return found
        names = _names(urls)
        abouts = [one.about() for one in remotes]
        known = sum(about.size or 0 for about in abouts)
        cache.make_room(key, known)
        checked, before = [], 0
        for url, name, one, about in zip(urls, names, remotes, abouts, strict=True):
            to = part / name
            teller.begins(url, about)

            def room(size: int, done: int = before, to: Path = to) -> None:
                try:
                    cache.make_room(key, max(known, done + size))
                except UsageError:
                    _discard(to)
                    raise

            try:
                one.download(to, room, teller.goes_on)
            finally:
                teller.ended()
            checked.append(_check(url, to, wanted))
            before += to.stat().st_size
        licence = next((about.licence for about in abouts if about.licence), None)
        paths = tuple(part / name for name in names)
        made = Cached(key, tuple(urls), before, 0, licence, paths, tuple(checked))
        return cache.complete(key, made)


def _check(url: str, file: Path, wanted: Sequence[str]) -> str:
    """The digest of a download. Raises ``UsageError`` for a file that is not what was meant, and
    removes it."""
    os.chmod(file, 0o600)
    found = recognition.look(file)
    if found is not None and ((found.stands_in and found.certain) or not file.stat().st_size):
        _discard(file)
        advice = f": {found.advice}" if found.advice else ""
        raise UsageError(f"{url} gave {found.what}, not a model{advice}")
    digest = digests.of(model_files.version(file))
    if wanted and digest not in wanted:
        _discard(file)
        raise UsageError(
            f"{url} has the digest {digest}, not {' or '.join(wanted)}: it is another version, or "
            "was changed on its way. Give the new digest only if its publisher names it"
        )
    return digest


def _discard(file: Path) -> None:
    """Remove a download, and the note with which it could go on."""
    for path in (file, file.with_name(f"{file.name}.version")):
        path.unlink(missing_ok=True)


def _names(urls: Sequence[str]) -> list[str]:
    """A file name for each URL."""
    names: list[str] = []
    for url in urls:
        name = file_name(url)
        names.append(name if name not in names else f"{len(names)}-{name}")
    return names
