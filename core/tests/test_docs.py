"""The tables in docs/ against the code that they describe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wasi_nn.abi.dialects import DIALECTS
from wasi_nn.errors import ErrorCode

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("|  |", "| |")


def errnos() -> str:
    body = [
        [f"`{code}`", *(str(dialect.errnos[code]) for dialect in DIALECTS.values())]
        for code in ErrorCode
    ]
    return rows(["", *DIALECTS], body)


def dialects() -> str:
    summary = rows(
        ["dialect", "of guests of", "module"],
        [[f"`{d.name}`", d.summary, f"`{d.module}`"] for d in DIALECTS.values()],
    )

    def table(title: str, most: int, cell) -> str:
        body = [[str(n), *(cell(d, n) for d in DIALECTS.values())] for n in range(most)]
        return rows([title, *DIALECTS], body)

    def tensor_type(dialect, number: int) -> str:
        types = dialect.tensor_types
        return str(types[number]) if number < len(types) else "–"

    types = table("tensor type", 7, tensor_type)
    encodings = table("encoding", 15, lambda d, n: d.encodings.get(n, "–"))
    return f"{summary}\n\n{types}\n\n{encodings}"


@pytest.mark.parametrize(
    ("page", "mark", "expected"),
    [("errors.md", "errnos", errnos()), ("dialects.md", "dialects", dialects())],
)
def test_the_tables_are_what_the_code_says(page, mark, expected):
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n?<!-- end -->", (DOCS / page).read_text(), re.S)
    assert found is not None
    assert found[1] == expected, f"docs/{page} is to have:\n{expected}"


def test_every_reason_is_in_the_table_of_mistakes():
    text = (DOCS / "errors.md").read_text().split("## The numbers")[0]
    # busy is for hosts that do not wait; two more are for language models' prompts.
    elsewhere = {ErrorCode.BUSY, ErrorCode.CONTEXT_FULL, ErrorCode.PROMPT_TOO_LONG}
    for code in set(ErrorCode) - elsewhere:
        assert f"`{code}`" in text


def test_links_lead_somewhere():
    root = DOCS.parent
    for page in (*root.glob("*.md"), *root.rglob("docs/**/*.md"), *root.glob("*/*/README.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"
