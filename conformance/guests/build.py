"""Build the guests from their C sources, with the compiler of the `ziglang` wheel.

Every folder NAME with a NAME.c gives NAME/NAME.wasm. The result is the same, byte for byte, on
every machine: the compiler is pinned, paths are relative, and nothing of the build is recorded.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / "build" / "zig-cache"
# The least that every engine has: no bulk memory, no SIMD.
FLAGS = [
    "-target",
    "wasm32-wasi",
    "-mcpu=mvp",
    "-std=gnu11",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Iinclude",
    "-Wl,--strip-all",
]


def sources() -> list[Path]:
    """The guests' sources, relative to this folder."""
    return sorted(
        path.relative_to(HERE) for path in HERE.glob("*/*.c") if path.stem == path.parent.name
    )


def build(source: Path, output: Path) -> None:
    """Compile one guest. Raises ``CalledProcessError``; the compiler says why."""
    environment = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(CACHE),
        "ZIG_LOCAL_CACHE_DIR": str(CACHE),
    }
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(output), str(source)]
    subprocess.run(command, cwd=HERE, env=environment, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python build.py\n  python build.py --check\n  python build.py echo",
    )
    parser.add_argument("names", nargs="*", help="the guests to build (all by default)")
    parser.add_argument(
        "--check", action="store_true", help="compare with the checked-in files and change nothing"
    )
    options = parser.parse_args()
    if importlib.util.find_spec("ziglang") is None:
        print('build.py: ziglang is not installed; pip install "wasi-nn[dev]"', file=sys.stderr)
        return 2
    unknown = set(options.names) - {source.stem for source in sources()}
    if unknown:
        parser.error(f"no such guest: {', '.join(sorted(unknown))}")
    wanted = [s for s in sources() if not options.names or s.stem in options.names]
    different: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in wanted:
            target = source.with_suffix(".wasm")
            output = Path(scratch) / target.name
            try:
                build(source, output)
            except subprocess.CalledProcessError:
                print(f"build.py: {source} does not compile; see above", file=sys.stderr)
                return 1
            data = output.read_bytes()
            if not options.check:
                (HERE / target).write_bytes(data)
                print(f"{target}: {len(data)} bytes")
            elif not (HERE / target).exists() or (HERE / target).read_bytes() != data:
                different.append(str(target))
    if different:
        print(f"build.py: not what the sources give: {', '.join(different)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
