"""The checked-in language model is what the repository's code makes."""

from __future__ import annotations

from conftest import needs

needs("gguf")

from authoring import language_model  # noqa: E402


def test_the_language_model_is_written_with_the_same_bytes(tmp_path):
    for write, checked_in in (
        (language_model.write, language_model.PATH),
        (language_model.write_projector, language_model.PROJECTOR),
    ):
        write(tmp_path / "made.gguf")
        assert (tmp_path / "made.gguf").read_bytes() == checked_in.read_bytes()
    assert language_model.PATH.stat().st_size < 1 << 20
