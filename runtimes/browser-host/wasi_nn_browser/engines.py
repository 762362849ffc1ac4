"""The engines' files that the pages can use and that are too large for the wheel."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from wasi_nn.errors import UsageError
from wasi_nn_browser import pages

#: Names the npm registry that they come from, as for npm itself.
VARIABLE = "npm_config_registry"
_REGISTRY = "https://registry.npmjs.org"
_LIST = "engines.json"
_SECONDS = 60
_MAX_PACKAGE = 1 << 30


class Asset(NamedTuple):
    """A file of the pages, and where it comes from: a member of an npm package."""

    file: str
    package: str
    version: str
    member: str
    bytes: int
    sha256: str


def assets() -> list[Asset]:
    """What the built pages name. Raises ``Unavailable`` if they are not built."""
    found = pages.folder() / _LIST
    return [Asset(**one) for one in json.loads(found.read_text())] if found.is_file() else []


def _place(asset: Asset) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "wasi-nn" / "browser" / asset.sha256


def fetched() -> Mapping[str, Path]:
    """The files that are here, by their names on the pages."""
    places = {asset.file: _place(asset) for asset in assets()}
    return {file: place for file, place in places.items() if place.is_file()}


def fetch(tell: Callable[[str], object]) -> None:
    """Get what is not here yet. Each file must have its digest. Raises ``UsageError``."""
    here = fetched()
    wanted = [asset for asset in assets() if asset.file not in here]
    if not wanted:
        tell("the engines' files are here already")
    for package, group in groupby(wanted, lambda asset: (asset.package, asset.version)):
        _fetch(*package, list(group), tell)


def _fetch(name: str, version: str, wanted: list[Asset], tell: Callable[[str], object]) -> None:
    registry = (os.environ.get(VARIABLE) or _REGISTRY).rstrip("/")
    url = f"{registry}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    tell(f"fetching {name} {version}")
    try:
        with tempfile.TemporaryFile() as file:
            with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
                for piece in _pieces(answer):
                    file.write(piece)
                    if file.tell() > _MAX_PACKAGE:
                        raise UsageError(f"{url} has more than {_MAX_PACKAGE} bytes")
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:gz") as package:
                for asset in wanted:
                    _keep(package, asset, url)
    except (OSError, EOFError, tarfile.TarError, KeyError) as error:
        raise UsageError(
            f"{url} cannot be fetched: {error}; look whether there is a network, or name another "
            f"npm registry in {VARIABLE}"
        ) from error
    for asset in wanted:
        tell(f"{asset.member}: {asset.bytes / 1e6:.1f} MB, sha256:{asset.sha256}")


def _keep(package: tarfile.TarFile, asset: Asset, url: str) -> None:
    member = package.extractfile(f"package/{asset.member}")
    if member is None:
        raise UsageError(f"{url} has {asset.member} not as a file")
    place = _place(asset)
    place.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    # (Its name shows that it is whole, so it gets that last.)
    with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as made:
        try:
            for piece in _pieces(member):
                digest.update(piece)
                size += len(piece)
                if size > asset.bytes:
                    break
                made.write(piece)
            if size != asset.bytes or digest.hexdigest() != asset.sha256:
                raise UsageError(
                    f"{asset.member} of {url} is not what these pages were built with: expected "
                    f"{asset.bytes} bytes with the sha256 {asset.sha256}, got "
                    f"{'more' if size > asset.bytes else size} with {digest.hexdigest()}"
                )
            made.close()
            os.replace(made.name, place)
        except BaseException:
            made.close()
            os.unlink(made.name)
            raise


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(1 << 20):
        yield piece
