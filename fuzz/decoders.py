"""`python -m fuzz decoders`: bytes for whatever of the host reads bytes of strangers.

With atheris (libFuzzer for Python) the bytes follow what the code does with them. Without it they
are sound inputs with changes by chance. Each target runs in a process of its own. A reader may
raise what its docstring says; anything else, and an input that takes longer than a second, is a
finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from fuzz import chance as chances
from fuzz import reporting
from fuzz.hosting import ROOT, environment

#: What one input may take.
_SLOW_SECONDS = 1.0
_UNITS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def by_chance(target: str, seed: int, seconds: float, count: int | None = None) -> dict[str, Any]:
    """Give a target sound inputs and changed ones, for so long, or so many."""
    from fuzz import targets

    read = targets.TARGETS[target]
    sound = read.seeds()
    chance = chances.of("decoders", target, seed)
    made, findings = 0, []
    end = time.monotonic() + seconds
    while (time.monotonic() < end) if count is None else (made < count):
        changed = made >= len(sound)
        data = chance.flipped(chance.choice(sound), 12) if changed else sound[made]
        made += 1
        started = time.perf_counter()
        try:
            read(data)
        except Exception:
            findings.append({"input": data.hex()[:4000], "what": traceback.format_exc()[-600:]})
        if time.perf_counter() - started > _SLOW_SECONDS:
            findings.append({"input": data.hex()[:4000], "what": "it took more than a second"})
        if len(findings) >= 10:
            break
    return {"target": target, "inputs": made, "findings": findings}


def with_atheris(target: str, seed: int, seconds: float, folder: Path) -> None:
    """Let atheris choose the bytes. It ends the process."""
    import atheris

    with atheris.instrument_imports(include=["wasi_nn", "wasi_nn_ggml", "wasi_nn_tflite"]):
        from fuzz import targets

        read = targets.TARGETS[target]
        read.prepare()
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(read.seeds()):
        (corpus / str(number)).write_bytes(data)
    options = [
        f"-max_total_time={int(seconds)}",
        f"-seed={seed}",
        "-timeout=10",
        "-max_len=8192",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([target, *options, str(corpus)], read)
    atheris.Fuzz()


def _driven(target: str, seed: int, seconds: float) -> dict[str, Any]:
    """A target's process with atheris."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-m", "fuzz.decoders", target, str(seed), str(seconds), folder],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 120,
        )
        units = _UNITS.search(run.stderr)
        findings = []
        if run.returncode or units is None:
            kept = [path for path in Path(folder).iterdir() if path.is_file()]
            data = kept[0].read_bytes().hex()[:4000] if kept else ""
            findings.append({"input": data, "what": (run.stdout + run.stderr)[-3000:]})
    return {"target": target, "inputs": int(units[1]) if units else 0, "findings": findings}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target")
    parser.add_argument("--only", action="append", metavar="TARGET")
    parser.add_argument("--json", type=Path, metavar="FILE")


def main(options: argparse.Namespace) -> int:
    """Run the command. The exit code is 1 if a reader did what it must not do."""
    from fuzz import targets

    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print("atheris is not installed: the bytes are changed by chance (pip install atheris)")
    results = []
    for target in options.only or targets.TARGETS:
        reporting.progress(target)
        why = targets.TARGETS[target].missing()
        if why:
            print(f"{target} is not tried: {why}")
            continue
        run = _driven if guided else by_chance
        results.append(run(target, options.seed, options.seconds))
    reporting.progress("")
    rows = [{**result, "findings": len(result["findings"])} for result in results]
    reporting.table(f"decoders, {'atheris' if guided else 'by chance'}, seed {options.seed}", rows)
    for result in results:
        for found in result["findings"]:
            print(f"{result['target']}: {json.dumps(found)[:2000]}")
    reporting.save(options.json, {"seed": options.seed, "atheris": guided, "targets": results})
    return int(any(row["findings"] for row in rows))


if __name__ == "__main__":
    with_atheris(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
