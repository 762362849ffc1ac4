"""The pages against the code that they describe."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from wasi_nn import hookspecs
from wasi_nn._abi.core.dialects import DIALECTS
from wasi_nn._cli import app
from wasi_nn.errors import ErrorCode

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


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


def hooks() -> str:
    """The hooks of plugins, from their specifications."""
    parts = []
    for name, function in vars(hookspecs).items():
        if name.startswith("wasi_nn_") and callable(function):
            options = getattr(function, f"{hookspecs.GROUP}_spec")
            assert not options["historic"]
            signature = str(inspect.signature(function)).replace("'", "")
            kind = ", the first answer counts" if options["firstresult"] else ""
            parts += [f"### `{name}{signature}`{kind}", inspect.getdoc(function)]
    return "\n\n".join(parts)


@pytest.mark.parametrize(
    ("page", "mark", "expected"),
    [
        ("errors.md", "errnos", errnos()),
        ("dialects.md", "dialects", dialects()),
        ("plugins.md", "hooks", hooks()),
    ],
)
def test_the_tables_are_what_the_code_says(page, mark, expected):
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n?<!-- end -->", (DOCS / page).read_text(), re.S)
    assert found is not None
    assert found[1] == expected, f"docs/{page} must have:\n{expected}"


def test_every_reason_is_in_the_table_of_mistakes():
    text = (DOCS / "errors.md").read_text().split("## The numbers")[0]
    # busy is for hosts that do not wait; two more are for language models' prompts.
    elsewhere = {ErrorCode.BUSY, ErrorCode.CONTEXT_FULL, ErrorCode.PROMPT_TOO_LONG}
    for code in set(ErrorCode) - elsewhere:
        assert f"`{code}`" in text


def blocks():
    """The lines of each console block, by page."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*/README.md")):
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S):
            yield page.relative_to(ROOT), block.replace("\\\n", "").splitlines()


COMMANDS = [
    pytest.param(line[2:], id=f"{page}: {line[2:50]}")
    for page, lines in blocks()
    for line in lines
    if line.startswith("$ wasi-nn ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_options_that_there_are(line, monkeypatch):
    # The option -p sets it for the whole process.
    monkeypatch.setenv("WASI_NN_PLUGINS", "")
    command_alone = re.split(" >>? ", line)[0]
    _, name, *arguments = shlex.split(command_alone, comments=True)
    if name == "conformance":
        from wasi_nn_conformance.cli import conformance as command
    else:
        command = app.get_command(click.Context(app), name)
    assert command.make_context(name, arguments)


def test_commands_print_what_the_pages_say(tmp_path):
    """Those with guests of the checkout alone."""
    (tmp_path / "conformance").symlink_to(ROOT / "conformance")
    checked = 0
    for page, lines in blocks():
        for line, after in zip(lines, [*lines[1:], "$"], strict=True):
            if line.startswith("$ echo "):
                subprocess.run(["sh", "-c", line[2:]], cwd=tmp_path, check=True)
            if not re.match(r"\$ wasi-nn run .*conformance/guests/(hello|echo)/", line):
                continue
            run = subprocess.run(
                [sys.executable, "-m", "wasi_nn", *shlex.split(line, comments=True)[2:]],
                capture_output=True,
                text=True,
                cwd=tmp_path,
            )
            if "v8" in line and run.returncode == 2:
                continue
            assert (run.returncode, run.stderr) == (0, ""), f"{page}: {line}"
            if not after.startswith("$"):
                assert run.stdout.strip() == after
            checked += 1
    assert checked >= 4


def test_links_lead_to_files_that_exist():
    root = DOCS.parent
    for page in (*root.glob("*.md"), *root.rglob("docs/**/*.md"), *root.glob("*/*/README.md")):
        if {"node_modules", "build"}.intersection(page.relative_to(root).parts):
            continue
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_readme_counts_the_cases():
    files = [f for f in (ROOT / "conformance/cases").glob("*.json") if f.name != "schema.json"]
    cases = sum(len(json.loads(file.read_text())["cases"]) for file in files)
    assert f"It runs {cases} [cases]" in " ".join((ROOT / "README.md").read_text().split())


ARCHITECTURE = (DOCS / "architecture.md").read_text()
QUESTIONS = re.findall(r"^\| (.*\?) \| (.*) \|$", ARCHITECTURE, re.M)


@pytest.mark.parametrize(("question", "answer"), QUESTIONS)
def test_the_files_of_an_answer_have_the_names_that_it_gives(question, answer):
    files = [DOCS / target for target in re.findall(r"\]\(([^)#]+)\)", answer)]
    assert files
    text = "".join(file.read_text() for file in files)
    names = re.findall(r"`(\w+)`", answer)
    assert all(re.search(rf"\b{name}\b", text) for name in names), names


def test_the_architecture_lists_every_module_of_core():
    modules = {path.stem for path in (ROOT / "core/wasi_nn").iterdir()}
    missing = modules - {"__main__", "__pycache__", "py"}
    assert not {name for name in missing if not re.search(rf"`{name}/?`", ARCHITECTURE)}


def test_the_architecture_answers_twenty_questions():
    assert len(QUESTIONS) >= 20


def test_every_path_of_the_architecture_exists():
    places = [ROOT, ROOT / "core/wasi_nn", ROOT / "backends/onnx"]
    text = re.sub(r"\]\(.*?\)", "", ARCHITECTURE).replace("runtimes/NAME", "runtimes/wasmtime")
    paths = re.findall(r"(?<!\w)_?\w+/[\w/]*(?:\.py)?", text.replace("NAME", "onnx"))
    for path in filter(lambda path: path[-1] == "/" or path.endswith(".py"), paths):
        assert any((place / path).exists() for place in places), path


# From those who decide down to those who do, as the drawing has it. Names of one floor do not
# import each other, except that a runtime reads binaries.
FLOORS = {"_cli": 6, "_host": 5, "_abi": 4, "_session": 3, "_models": 2}
FLOORS |= {"plugins": 1.5, "hookspecs": 1.2, "runtime": 1, "backend": 1, "wasm": 0.5, "_process": 0}


def test_imports_point_down_as_the_architecture_draws_them():
    for path in (ROOT / "core/wasi_nn").rglob("*.py"):
        own, *_ = path.relative_to(ROOT / "core/wasi_nn").with_suffix("").parts
        text = path.read_text()
        for imported in re.findall(r"^from wasi_nn\.([\w.]+) import", text, re.M):
            floor = FLOORS.get(imported.split(".")[0], -1)
            upward = own in FLOORS and imported.split(".")[0] != own and floor >= FLOORS[own]
            assert not upward, f"{path} imports {imported}"
