"""The named models of `wasi-nn run`: those of its options, and those of the models file.

The file is not read before it is asked for a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wasi_nn._models.registry import NamedModel
from wasi_nn._models.sources.url import is_remote
from wasi_nn._models.spec import parse_graph, parse_nn_graph, parse_nn_preload, resolve_path
from wasi_nn.errors import UsageError

if TYPE_CHECKING:
    from wasi_nn._models.catalogue import Catalogue


class KeptModels:
    """The models of a file, by default the user's. ``pins`` are the policy's."""

    def __init__(self, file: Path | None, pins: Mapping[str, str]) -> None:
        self._file = file
        self._pins = pins
        if file is not None:
            _ = self._catalogue  # (A file that is named must be there.)

    @cached_property
    def _catalogue(self) -> Catalogue:
        from wasi_nn._models import catalogue

        return catalogue.read(self._file)

    def locate(self, name: str, sources: Sequence[str]) -> Sequence[Path]:
        """The files of a model of ``--graph``, which are downloaded if they must be."""
        if not any(map(is_remote, sources)):
            return [resolve_path(source) for source in sources]
        from wasi_nn._cli.downloads import DownloadRow
        from wasi_nn._models.sources.fetching import fetch

        try:
            pin = self._pins.get(name)
            return fetch(sources, self._catalogue.cache, pin, DownloadRow()).paths
        except UsageError as error:
            raise type(error)(f"model {name!r}: {error}") from error

    def model(self, name: str) -> NamedModel:
        """The model of ``--graph NAME``, which is downloaded if it must be."""
        from wasi_nn._cli.downloads import DownloadRow

        if name not in self._catalogue.models:
            hint = f"there is no model {name!r} in {self._catalogue.path}"
            raise UsageError(
                f"--graph takes NAME=[ENCODING:[TARGET:]]PATH[,PATH…], or the name of a model of "
                f"wasi-nn models; {hint}"
            )
        entry = self._catalogue.entry(name)
        return entry.named(self._catalogue.fetch(entry, DownloadRow()).paths)

    def find(self, name: str) -> NamedModel | None:
        """The model that a guest names, if the file has it. A guest starts no download: raises
        ``UsageError`` for a model that is not here."""
        entry = self._catalogue.models.get(name)
        if entry is None:
            return None
        here = self._catalogue.present(entry)
        if here is None:
            raise UsageError(
                f"the model {name!r} is not downloaded: wasi-nn models fetch {name}, or --graph "
                f"{name}"
            )
        return entry.named(here.paths)


def named_models(
    kept: KeptModels,
    graphs: Sequence[str],
    configs: Sequence[str],
    preloads: Sequence[str],
    nn_graphs: Sequence[str],
) -> list[NamedModel]:
    """The named models of all options, with their configs."""
    models = [
        parse_graph(text, kept.locate) if "=" in text else kept.model(text) for text in graphs
    ]
    models += [parse_nn_preload(text, kept.locate) for text in preloads]
    models += [parse_nn_graph(text) for text in nn_graphs]
    by_name = {}
    for text in configs:
        import json

        name, _, value = text.partition("=")
        try:
            settings = json.loads(value)
        except ValueError as error:
            raise UsageError(
                f"--config is for a named model, as in 'm={{\"threads\": 2}}'; {text!r} is not "
                f"NAME=JSON: {error}"
            ) from error
        if not isinstance(settings, dict):
            raise UsageError(f"--config {text!r}: the config must be a JSON object")
        by_name[name] = settings
    unknown = by_name.keys() - {model.name for model in models}
    if unknown:
        raise UsageError(
            f"--config names {', '.join(sorted(unknown))}: there is no --graph of that name"
        )
    return [
        model._replace(config={**model.config, **by_name.get(model.name, {})}) for model in models
    ]
