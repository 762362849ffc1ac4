"""`make audit`: look up the installed packages in the database of known vulnerabilities.

It fails if a package has one. Where the database cannot be reached, it says so and does not fail.
"""

from __future__ import annotations

import json
import subprocess
import sys

_SECONDS = 300


def main() -> int:
    """Run pip-audit, and print what it finds."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off"]
    try:
        ran = subprocess.run(
            [*command, "--timeout", "10", "--format", "json"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError, subprocess.TimeoutExpired):
        packages = []
    looked_up = [package for package in packages if "skip_reason" not in package]
    if not looked_up:
        # A mirror of the index may have the packages, and nothing about them.
        print("audit: not done, because pip-audit does not reach its database from here")
        return 0
    known = [package for package in packages if package.get("vulns")]
    for package in known:
        for one in package["vulns"]:
            fixed = ", ".join(one["fix_versions"]) or "no version"
            print(f"audit: {package['name']} {package['version']}: {one['id']}, fixed in {fixed}")
    print(f"audit: {len(looked_up)} packages, {len(known)} of them vulnerable")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
