"""Check the prose of this repository for the few patterns that a tool can see.

Reads Markdown pages, and the comments, docstrings, texts and names of Python files::

    python tools/prose.py [PATH ...]     # files or folders; default: this repository

Prints ``FILE:LINE: what was seen: what to write instead``, and exits with 1 if it found anything.
A line that must keep such words (a quotation, a third party's name) says ``prose: allow`` in a
comment. For a text of several lines, the comment is on its last line. CONTRIBUTING.md says how we
write.
"""

from __future__ import annotations

import io
import keyword
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MARKER = "prose: allow"
#: Patterns of what is wrong, and what to write instead. A space stands for any white space. Only
#: what the group matches is wrong; the alternatives before it are good English.
RULES = [
    (
        r"there (?:is|are) no|(?:is|are) no (?:longer|more|less|other|one|\w+er than)"
        r"|\b((?:is|are) no [a-z]\w*)",
        'write "is not a …" or "are not …"',
    ),
    (r"\b((?:is|are) to be)\b", 'write "must be"'),
    (r"\b((?-i:persons?))\b", 'write "you", "the user" or "the operator"'),
    (r"\b(somebody)\b", "say who"),
    (r"\b(for ever)\b", 'write "forever", or say when it ends'),
    (r"\b(inside of)\b", 'write "inside"'),
    (
        r"lora adapters?|wasi-testsuite.s adapters|--adapter\b|(\w*adapters?)",
        'write "runtime" (our plugin) or "engine" (the library)',
    ),
]
PATTERNS = [(re.compile(rule.replace(" ", r"\s+"), re.I), advice) for rule, advice in RULES]


def prose_of(source: str) -> tuple[str, set[int]]:
    """The prose of a Python file, each word at its place and NULs for the rest, and the numbers of
    the lines that may say anything."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    prose = ["\n" if character == "\n" else "\0" for character in source]
    allowed: set[int] = set()
    text_lines = range(0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (first, column), (last, end_column) = token.start, token.end
        start, end = starts[first - 1] + column, starts[last - 1] + end_column
        text = source[start:end]
        if token.type == tokenize.NAME and not keyword.iskeyword(text):
            text = text.replace("_", " ")
        elif token.type == tokenize.COMMENT:
            if MARKER in text:
                allowed |= {first} | (set(text_lines) if text_lines.stop == first + 1 else set())
            text = text.replace("#", " ")
        elif token.type == tokenize.STRING:
            text_lines = range(first, last + 1)
            text = re.sub("^[a-zA-Z]+|['\"]", lambda mark: " " * len(mark[0]), text)
        elif tokenize.tok_name[token.type] != "FSTRING_MIDDLE":
            continue
        prose[start:end] = text
    # Comments and texts go on in the next line, behind its indentation.
    return re.sub("\n\0+", lambda gap: "\n".ljust(len(gap[0])), "".join(prose)), allowed


def findings(path: Path) -> Iterator[str]:
    """A message for each pattern in ``path``."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        prose, allowed = prose_of(source)
    else:
        lines = source.split("\n")
        prose, allowed = source, {n for n, line in enumerate(lines, 1) if MARKER in line}
    for pattern, advice in PATTERNS:
        for match in pattern.finditer(prose):
            line = source.count("\n", 0, match.start()) + 1
            if match[1] and line not in allowed:
                yield f'{path}:{line}: "{" ".join(match[1].split())}": {advice}'


def files(paths: list[str]) -> Iterator[Path]:
    """The Markdown and Python files that git knows in ``paths``, but for this one, which lists the
    patterns."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    for name in subprocess.check_output(listing, text=True).splitlines():
        path = Path(name)
        if path.suffix in {".md", ".py"} and path.exists() and not path.samefile(__file__):
            yield path


def main() -> int:
    found = [message for path in files(sys.argv[1:]) for message in findings(path)]
    print("\n".join(found) or "prose: nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
