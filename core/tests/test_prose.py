"""The check of prose in tools/prose.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools/prose.py"
spec = importlib.util.spec_from_file_location("prose", TOOL)
assert spec is not None
assert spec.loader is not None
prose = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prose)


def seen(path, text):
    path.write_text(text)
    return [message.removeprefix(f"{path}:").split('"')[0:2] for message in prose.findings(path)]


@pytest.mark.parametrize(
    "text",
    [
        "This is no command.",  # prose: allow
        "These are\nno commands.",  # prose: allow
        "A backend is to be told.",  # prose: allow
        "What a person reads.",  # prose: allow
        "Somebody else waits for ever, inside of the engine's adapter.",  # prose: allow
    ],
)
def test_wrong_patterns_are_found_in_pages_comments_texts_and_names(text, tmp_path):
    assert seen(tmp_path / "page.md", text)
    comment = text.replace("\n", "\n# ")
    assert seen(tmp_path / "a.py", f"# {comment}\n")
    assert seen(tmp_path / "a.py", f'def f():\n    """{text}"""\n')
    halves = text.replace("\n", ' "\n    "')
    assert seen(tmp_path / "a.py", f'x = (\n    "{halves}"\n)\n')
    name = text.lower().replace(" ", "_").replace("\n", "_").strip(".").split(",")[0]
    assert seen(tmp_path / "a.py", f"def test_{name}():\n    pass\n")


@pytest.mark.parametrize(
    "text",
    [
        "There is no command, and there are no others.",
        "The answer is no longer than this, and is no more.",
        "A LoRA adapter must be merged.",
        "x = y is None or y is no_limit or 'to be'",
    ],
)
def test_good_english_is_left_alone(text, tmp_path):
    assert not seen(tmp_path / "page.md", text.split(" or y is")[0])
    assert not seen(tmp_path / "a.py", text if text.startswith("x") else f"# {text}\n")


def test_a_finding_names_its_line(tmp_path):
    page = tmp_path / "a.py"
    assert seen(page, '"""Fine."""\n\nx = 1  # it is no number\n') == [  # prose: allow
        ["3: ", "is no number"]  # prose: allow
    ]


def test_a_marker_allows_a_line_or_the_whole_text_before_it(tmp_path):
    line = "what a person writes"  # prose: allow
    page = tmp_path / "page.md"
    assert not seen(page, f"{line} <!-- prose: allow -->\n")
    module = tmp_path / "a.py"
    assert not seen(module, f'x = "{line}"  # prose: allow\n')
    assert not seen(module, f'x = """\n{line}\n"""  # prose: allow\n')
    assert seen(module, f'x = "{line}"\ny = 1\n\n# prose: allow\n')
