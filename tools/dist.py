"""Build the distributions, and try them in empty environments.

    python tools/dist.py [FOLDER]    (make dist; FOLDER is dist unless it is named)

Each Python from 3.10 to 3.14 that this machine has gets a virtual environment with the wheel. The
newest gets another with the source distribution, and one with the conformance suite alone. What is
tried runs outside of the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
_GUEST = "package:wasi_nn_conformance/data/guests/hello/hello.wasm"
_CASES = "--encoding onnx --dialect witx --case set_input/*"
#: What a new user does first, and what its output holds.
_HOST = (
    ("wasi-nn --version", "wasi-nn"),
    (f"wasi-nn run {_GUEST}", "hello, wasi-nn"),
    (f"wasi-nn inspect {_GUEST}", "on wasmtime"),
    ("wasi-nn plugins", "wasmtime"),
    (f"wasi-nn conformance --host wasmtime {_CASES}", " 0 failed, 0 unexpected"),
)
_SUITE = ((f"wasi-nn-conformance --list {_CASES}", "set_input/"),)


def main(folder: Path) -> int:
    """Build into the folder, which is emptied first, and return an exit code."""
    shutil.rmtree(folder, ignore_errors=True)
    for project in (ROOT, ROOT / "conformance"):
        _run(sys.executable, "-m", "build", "--outdir", str(folder), str(project))
    _run(sys.executable, "-m", "twine", "check", "--strict", *map(str, folder.iterdir()))
    (wheel,) = folder.glob("wasi_nn-*.whl")
    (source,) = folder.glob("wasi_nn-*.tar.gz")
    (suite,) = folder.glob("wasi_nn_conformance-*.whl")
    pythons = dict(_pythons())
    newest = list(pythons)[-1]
    extras = "[wasmtime,onnx]"
    for version, python in pythons.items():
        _try(python, f"{wheel}{extras}", _HOST)
        print(f"Python {version}: {wheel.name} works", flush=True)
    _try(pythons[newest], f"{source}{extras}", _HOST)
    print(f"Python {newest}: {source.name} works", flush=True)
    _try(pythons[newest], str(suite), _SUITE)
    print(f"Python {newest}: {suite.name} works, without wasi-nn")
    missing = [version for version in _VERSIONS if version not in pythons]
    if missing:
        print(f"not tried, since this machine has none: Python {', '.join(missing)}")
    return 0


def _pythons() -> Iterator[tuple[str, str]]:
    """The Pythons of this machine, by version: on the path, or of pyenv."""
    for version in _VERSIONS:
        pyenv = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
        for python in (shutil.which(f"python{version}"), *map(str, pyenv)):
            # (pyenv puts a program on the path for Pythons that are not chosen, which fails.)
            if (
                python
                and subprocess.run([python, "-m", "venv", "-h"], capture_output=True).returncode
                == 0
            ):
                yield version, python
                break


def _try(python: str, distribution: str, steps: Sequence[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "venv")
        _run(python, "-m", "venv", str(environment))
        pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet"]
        _run(*pip, "--disable-pip-version-check", distribution)
        for line, wanted in steps:
            program, *arguments = line.split()
            said = _run(str(environment / "bin" / program), *arguments, cwd=folder)
            if wanted not in said:
                sys.exit(f"{line}: {wanted!r} is not in:\n{said}")


def _run(*command: str, cwd: str | None = None) -> str:
    """What a command prints. Ends this program if the command fails."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WASI_NN"))}
    done = subprocess.run(
        command, cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"))
