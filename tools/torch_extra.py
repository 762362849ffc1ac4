"""Prints the extra of pyproject.toml that installs torch, or nothing if that would take gigabytes.

Some indexes have only torch's build for CUDA, which brings NVIDIA's libraries. Without torch, the
tests of pytorch are skipped, and the file that is named says why. TORCH=1 installs it anyway.

    python tools/torch_extra.py .venv/.no-torch
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

_REASON = "the index has torch for CUDA only, which takes gigabytes; TORCH=1 installs it"


def brings_cuda(requirement: str) -> bool:
    """Ask pip what it would install. (If pip can't say, its own install will tell why.)"""
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    report = subprocess.run([*pip, "-qq", "--report", "-", requirement], stdout=subprocess.PIPE)
    if report.returncode:
        return False
    packages = json.loads(report.stdout)["install"]
    return any(re.match("nvidia[-_.]", package["metadata"]["name"], re.I) for package in packages)


def main(marker: Path) -> None:
    marker.unlink(missing_ok=True)
    found = re.search(r'^dev-pytorch = \["(.+)"\]$', Path("pyproject.toml").read_text(), re.M)
    assert found is not None
    if not os.environ.get("TORCH") and brings_cuda(found[1]):
        marker.write_text(_REASON)
        print(f"The tests of pytorch will be skipped: {_REASON}.", file=sys.stderr)
    else:
        print(",dev-pytorch")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
