"""A hook of mkdocs: the pages of the site that are not in docs/.

It adds the READMEs and the other pages of the repository, a page for each file that pages link to,
and the reference of every public module. Links between the repository's files become links between
pages, so that the same Markdown serves the checkout and the site.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from runpy import run_path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
_public_modules = run_path(str(ROOT / "tools" / "api.py"))["public_modules"]
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_ELSEWHERE = ("http:", "https:", "mailto:")
_LANGUAGES = {
    ".c": "c", ".h": "c", ".js": "js", ".json": "json", ".py": "python", ".toml": "toml",
    ".ts": "ts", ".yml": "yaml", ".mjs": "js",
}  # fmt: skip
# The pages at the root of the repository.
_TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "RELEASING.md": "releasing.md",
    "SECURITY.md": "report.md",
}


def _pages() -> dict[str, str]:
    """Each Markdown page of the repository, by its path there, and its place in the site."""
    pages = {name: place for name, place in _TOP.items() if (ROOT / name).exists()}
    pages["CHANGELOG.md"] = "changelog.md"
    for path in ROOT.glob("docs/*.md"):
        pages[f"docs/{path.name}"] = path.name
    for kind in ("backends", "runtimes"):
        for path in sorted(ROOT.glob(f"{kind}/*/README.md")):
            pages[path.relative_to(ROOT).as_posix()] = f"{kind}/{path.parent.name}.md"
    return pages


PAGES = _pages()
_REPOSITORY = {place: path for path, place in PAGES.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections of the navigation that the repository's folders and modules make."""
    plugins = [place for place in PAGES.values() if place.startswith(("backends/", "runtimes/"))]
    sections: dict[str, list[Any]] = {
        "Engines and libraries": plugins,
        "Reference": ["api.md", *(f"reference/{name}.md" for name in _modules())],
    }
    assert config.nav is not None
    for section in config.nav:
        for title in section:
            section[title] = sections.get(title, section[title])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are elsewhere."""
    for path, place in PAGES.items():
        if not path.startswith("docs/"):
            text = (ROOT / path).read_text()
            files.append(File.generated(config, place, content=text))
        for linked in sorted(_sources(path)):
            _add_source(files, config, linked)
    for name in _modules():
        text = f"# {name}\n\n::: {name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    path = _REPOSITORY.get(page.file.src_uri)
    if path is None:
        return markdown

    def moved(link: re.Match[str]) -> str:
        before, target, anchor, after = link.groups()
        if target.startswith(_ELSEWHERE):
            return link[0]
        place = _place(_resolved(path, target))
        here = PurePosixPath(page.file.src_uri).parent.as_posix()
        return f"{before}{os.path.relpath(place, here)}{anchor or ''}{after}"

    text = _LINK.sub(moved, markdown)
    if path == "docs/api.md":
        # Each module's heading leads to its reference.
        text = re.sub(r"^## (wasi_nn\S*)$", r"## [\1](reference/\1.md)", text, flags=re.M)
    return text


def _modules() -> list[str]:
    return [name for name, module in _public_modules().items() if module.__all__]


def _resolved(path: str, target: str) -> str:
    """The path in the repository of what a page links to."""
    return os.path.normpath((PurePosixPath(path).parent / target).as_posix())


def _place(path: str) -> str:
    """The page of the site that stands for a file or folder of the repository."""
    readme = f"{path}/README.md"
    return PAGES.get(path) or PAGES.get(readme) or f"source/{path}.md"


def _sources(path: str) -> set[str]:
    """What a page links to that is not a page."""
    found = set()
    for _, target, _, _ in _LINK.findall((ROOT / path).read_text()):
        resolved = _resolved(path, target)
        if not target.startswith(_ELSEWHERE) and _place(resolved).startswith("source/"):
            found.add(resolved)
    return found


def _add_source(files: Files, config: MkDocsConfig, path: str) -> None:
    place = _place(path)
    if files.get_file_from_path(place) is not None:
        return
    file = ROOT / path
    if file.is_dir():
        names = sorted(child.name + "/" * child.is_dir() for child in file.iterdir())
        body = "\n".join(f"- `{name}`" for name in names if not name.startswith(("_", ".")))
    elif file.suffix in (".wasm", ".png", ".gguf"):
        body = f"A file of {file.stat().st_size:,} bytes."
    else:
        fence = "`" * 6
        language = _LANGUAGES.get(file.suffix, "text")
        body = f"{fence}{language}\n{file.read_text()}\n{fence}"
    head = "---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n"
    text = f"{head}\n# {path}\n\n{body}\n"
    files.append(File.generated(config, place, content=text))
