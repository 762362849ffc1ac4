"""The checked-in language model is what the repository's code makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from conftest import needs

needs("gguf")

SOURCE = Path(__file__).parents[1] / "language_model.py"


def test_the_same_bytes(tmp_path):
    spec = importlib.util.spec_from_file_location("language_model", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for write, checked_in in (
        (module.write, module.PATH),
        (module.write_projector, module.PROJECTOR),
    ):
        write(tmp_path / "made.gguf")
        assert (tmp_path / "made.gguf").read_bytes() == checked_in.read_bytes()
    assert module.PATH.stat().st_size < 1 << 20
