"""The demo: a WebAssembly guest detects the types of real files, entirely in its sandbox.

It runs the command from the README, prints the guest's output, and compares every answer with the
Python package `magika`, which runs the same model without Wasm.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GUEST = "conformance/guests/magika/magika.wasm"
MODEL = "models/standard_v3_3/model.onnx"
CONFIG = "models/standard_v3_3/config.min.json"
KNOWLEDGE = "config/content_types_kb.min.json"
# Files of this repository, in addition to the samples.
OWN = ["README.md", "LICENSE", "Makefile", "pyproject.toml", "core/wasi_nn/_host/host.py"]
OWN += ["conformance/guests/magika/magika.c", "conformance/guests/include/wasi_nn.h", GUEST]
# The largest allowed difference of the scores: the guest prints three decimals.
TOLERANCE = 0.0011


def main() -> int:
    package = find_spec("magika")
    if package is None or package.origin is None:
        print('the demo needs the model: pip install "wasi-nn[demo]"', file=sys.stderr)
        return 2
    samples = sorted(path.relative_to(ROOT) for path in (HERE / "samples").iterdir())
    files = [path.as_posix() for path in (*samples, *map(Path, OWN))]
    command = [
        *("wasi-nn", "run"),
        *("--graph", f"magika=package:magika/{MODEL}"),
        *("--dir", f"{os.path.relpath(Path(package.origin).parent, ROOT)}::/magika"),
        *("--dir", "."),
        *("--stats", GUEST),
        *("--config", f"/magika/{CONFIG}"),
        *("--kb", f"/magika/{KNOWLEDGE}"),
    ]
    print(f"$ {shlex.join(command)} FILE...\n", flush=True)
    os.chdir(ROOT)
    run = subprocess.run(
        [sys.executable, "-m", "wasi_nn", *command[1:], *files], capture_output=True, text=True
    )
    if run.returncode != 0:
        print(run.stderr, file=sys.stderr)
        return run.returncode
    answers = {}
    for line in run.stdout.splitlines():
        label, score, path = line.split("\t")
        answers[path] = (label, float(score))
        print(f"  {label:<12} {score}  {path}")
    print(f"\n{run.stderr}")
    return compare(answers)


def compare(answers: dict[str, tuple[str, float]]) -> int:
    """Compare with the package's own answers and return the exit code."""
    from magika import Magika

    native = Magika()
    agree = 0
    for path, (label, score) in answers.items():
        expected = native.identify_path(Path(path))
        if expected.output.label == label and abs(expected.score - score) < TOLERANCE:
            agree += 1
        else:
            print(f"{path}: magika says {expected.output.label} {expected.score:.3f}")
    kinds = len({label for label, _ in answers.values()})
    print(f"The guest agrees with the magika package on {agree} of {len(answers)} files", end="")
    print(f" ({kinds} different types).")
    return 0 if agree == len(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
