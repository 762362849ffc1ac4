"""`python -m fuzz models`: hostile models of every encoding, each tried as a guest's own."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz import chance, reporting
from fuzz.hosting import TrialHost
from fuzz.trial import LOST, Trial, Verdict

#: The libraries of the encodings, by their package.
LIBRARIES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "tensorflowlite": "ai_edge_litert",
    "pytorch": "torch",
    "ggml": "xllamacpp",
}
_GIB = 1 << 30


def make(encoding: str, seed: int, number: int) -> Trial:
    """The model of a number. The same arguments give the same bytes, with the same libraries."""
    module = importlib.import_module(f"fuzz.models.{encoding}")
    trial: Trial = module.make(chance.of(seed, encoding, number))
    return trial


class Tally:
    """What came of an encoding's models."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.counts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        #: What should not have happened, and workers that ended, each with the number that makes it
        #: again.
        self.findings: list[dict[str, Any]] = []

    def add(self, number: int, made: str, verdict: Verdict) -> None:
        """Count a verdict."""
        counts = self.counts
        counts["models"] += 1
        counts[verdict.outcome] += 1
        counts["late"] += verdict.late
        counts["unknown"] += bool(verdict.unknown)
        counts["unforeseen"] += bool(verdict.unforeseen)
        counts["large"] += verdict.peak > _GIB
        lost = LOST.search(verdict.reason)
        if lost:
            counts["worker"] += 1
            self.lost[lost[1][:120]] += 1
        bad = verdict.outcome in ("died", "hung") or verdict.unknown or verdict.unforeseen
        if bad or lost or verdict.late or verdict.peak > _GIB:
            found = {key: value for key, value in verdict._asdict().items() if value}
            self.findings.append({"number": number, "made": made, **found})

    def row(self) -> dict[str, Any]:
        """A row of the table."""
        counts = self.counts
        return {
            "encoding": self.encoding,
            "models": counts["models"],
            "computed": counts["computed"],
            "refused": counts["refused"],
            "host deaths": counts["died"],
            "host hangs": counts["hung"],
            "ended late": counts["late"],
            "unknown errnos": counts["unknown"],
            "unforeseen": counts["unforeseen"],
            "host > 1 GiB": counts["large"],
            "worker deaths": counts["worker"],
        }


def attempt(
    encoding: str, seed: int, numbers: range, seconds: float, isolation: str = "guest"
) -> Tally:
    """Try the models of these numbers."""
    tally = Tally(encoding)
    started = time.monotonic()
    with TrialHost(seconds, isolation) as host:
        for number in numbers:
            trial = make(encoding, seed, number)
            tally.add(number, trial.made, host.attempt(trial))
            counts = tally.counts
            reporting.progress(
                f"{encoding} {counts['models']}/{len(numbers)}, {counts['died']} deaths, "
                f"{counts['hung']} hangs, {time.monotonic() - started:.0f} s"
            )
    reporting.progress("")
    return tally


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200, help="models of each encoding")
    parser.add_argument("--only", choices=sorted(LIBRARIES), action="append", metavar="ENCODING")
    parser.add_argument("--number", type=int, help="try one model again, and say what came of it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write its files (--number)")
    parser.add_argument("--seconds", type=float, default=5.0, help="deadline of each model")
    parser.add_argument(
        "--isolation",
        choices=("guest", "none"),
        default="guest",
        help="where the models run: in a worker of the guest, or in the host's process",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")


def main(options: argparse.Namespace) -> int:
    """Run the command. The exit code is 1 if a host died or hung, or gave an unknown errno."""
    rows, report = [], {}
    for encoding in options.only or LIBRARIES:
        package = LIBRARIES[encoding]
        if importlib.util.find_spec(package) is None:
            print(f"{encoding} is not tried: {package} is not installed")
            continue
        if options.number is not None:
            _again(encoding, options)
            continue
        tally = attempt(
            encoding, options.seed, range(options.count), options.seconds, options.isolation
        )
        rows.append(tally.row())
        report[encoding] = {**tally.row(), "workers": tally.lost, "findings": tally.findings}
        # (After each encoding: a long run may be ended.)
        reporting.save(options.json, {"seed": options.seed, "encodings": report})
    if rows:
        reporting.table(f"models of seed {options.seed}", rows)
        for encoding, found in report.items():
            for reason, count in found["workers"].items():
                print(f"{encoding}: {count} workers ended: {reason}")
    bad = ("host deaths", "host hangs", "unknown errnos")
    return int(any(row[key] for row in rows for key in bad))


def _again(encoding: str, options: argparse.Namespace) -> None:
    trial = make(encoding, options.seed, options.number)
    print(f"{encoding} {options.number}: {trial.made}")
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        for index, data in enumerate(trial.builders):
            (options.keep / f"{encoding}-{options.number}.{index}").write_bytes(data)
    with TrialHost(options.seconds, options.isolation) as host:
        for name, value in host.attempt(trial)._asdict().items():
            if value:
                print(f"  {name}: {value}")
