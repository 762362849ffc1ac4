"""The playground: a page on which the user runs guests and models in a browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wasi_nn_browser import pages
from wasi_nn_browser.server import Answer, Server

_MAGIKA_MODEL = "models/standard_v3_3"


class Playground:
    """Serves the playground's page, and the files that it offers. A context manager."""

    def __init__(
        self, guest: Path | None = None, models: Sequence[tuple[str, Path]] = (), args: str = ""
    ) -> None:
        """``models`` are names and files, and ``args`` the guest's arguments as the user would
        type them. Raises ``Unavailable`` if the pages are not built."""
        self._files: list[Path] = []
        files = [] if guest is None else [self._file(guest)]
        files += [self._file(path, name) for name, path in models]
        self._offered = {"files": files, "args": args, "magika": self._magika()}
        self._server = Server(pages.folder(), self._serve)
        #: The page's address.
        self.url = self._server.url("playground.html")

    def __enter__(self) -> Playground:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.close()

    def _file(self, path: Path, name: str | None = None, shown: str | None = None) -> Any:
        self._files.append(path)
        known = {} if name is None else {"as": name}
        return {"name": shown or path.name, "number": len(self._files) - 1, **known}

    def _magika(self) -> dict[str, Any]:
        """The example: a guest that tells the types of files, and its model."""
        package, suite = find_spec("magika"), find_spec("wasi_nn_conformance")
        if package is None or package.origin is None or suite is None:
            return {"missing": 'needs its model: pip install "wasi-nn[demo]"'}
        from wasi_nn_conformance.places import guest

        home = Path(package.origin).parent
        model = home / _MAGIKA_MODEL
        return {
            "files": [
                self._file(guest("magika")),
                self._file(model / "model.onnx", "magika", "magika.onnx"),
                self._file(model / "config.min.json"),
                self._file(home / "config" / "content_types_kb.min.json"),
            ],
            "args": "--config config.min.json --kb content_types_kb.min.json {}",
        }

    def _serve(self, names: list[str], body: bytes) -> Answer:
        match names:
            case ["offered"]:
                return Answer(200, json.dumps(self._offered).encode())
            case ["file", number] if number.isdecimal() and int(number) < len(self._files):
                path = self._files[int(number)]
                return Answer(200, path) if path.is_file() else Answer(404)
        return Answer(404)
