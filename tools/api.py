"""Print docs/api.md: every public name of wasi_nn, with the first sentence of its documentation."""

from __future__ import annotations

import inspect
import pkgutil
import re
from importlib import import_module
from types import ModuleType

import wasi_nn

HEAD = """# API reference

Everything that a program or a plugin may import. A name that is not here may change in any release,
and so may a module whose path has a part that begins with an underscore. The docstrings have the
rest: `python -m pydoc wasi_nn.backend`. `make api` writes this page.
"""


def public_modules() -> dict[str, ModuleType]:
    """The modules whose path has no underscore, by name."""
    found = pkgutil.walk_packages(wasi_nn.__path__, "wasi_nn.")
    names = ["wasi_nn", *sorted(module.name for module in found if "._" not in module.name)]
    return {name: import_module(name) for name in names}


def page() -> str:
    """The text of docs/api.md."""
    lines = [HEAD]
    modules = public_modules()
    sources = [inspect.getsource(module) for module in modules.values()]
    for (name, module), source in zip(modules.items(), sources, strict=True):
        if module.__all__:
            lines.append(f"## {name}\n\n{_first_sentence(module.__doc__ or '')}\n")
            for public in module.__all__:
                # A name of another module has its comment there.
                text = _documentation(getattr(module, public), public, [source, *sources])
                lines.append(f"- `{public}`: {_first_sentence(text)}")
            lines.append("")
    return "\n".join(lines)


def _documentation(value: object, name: str, sources: list[str]) -> str:
    """The ``#:`` comment of an assignment, or the docstring, or a constant's value."""
    assignment = rf"((?:^#: .*\n)+)(?:[A-Z0-9_]+, )*{name}\b[A-Z0-9_, ]*(?:: .*)? = "
    for source in sources:
        comment = re.search(assignment, source, re.M)
        if comment:
            return comment[1].replace("#: ", "")
    if isinstance(value, (str, int, tuple)):
        return f"`{value!r}`"
    return inspect.getdoc(value) or ""


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s(?=[A-Z`])", paragraph)[0].replace("``", "`")


if __name__ == "__main__":
    print(page(), end="")
