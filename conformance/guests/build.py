"""Build the guests from their sources.

For every folder NAME with a NAME.c, the compiler of the `ziglang` wheel builds NAME/NAME.wasm. If
NAME ends with -wit, `jco` on Node.js makes a component of it. The result is the same, byte for
byte, on every machine: the tools are pinned, paths are relative, and the build records nothing. The
components in Python and JavaScript contain a whole language (12 to 18 MB), so they are not checked
in and go to build/guests.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
CACHE = BUILD / "zig-cache"
COMPONENTS = HERE / "components"
# npm's packages go where no wheel includes them.
NODE = BUILD / "components"
LARGE = {"ask": COMPONENTS / "python" / "ask.py", "infer": COMPONENTS / "js" / "infer.js"}
# Only features that every engine has: no bulk memory, no SIMD.
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
    if is_component(source):
        componentize("program", output, output)


def is_component(source: Path) -> bool:
    """Whether a C source is that of a component."""
    return source.stem.endswith("-wit")


def componentize(world: str, source: Path, output: Path) -> None:
    """Make a component from a core module or a JavaScript source, in a world of components/wit."""
    shutil.copy(COMPONENTS / "componentize.mjs", NODE)
    files = [str(source), str(output)]
    command = ["node", "componentize.mjs", str(COMPONENTS / "wit"), world, *files]
    subprocess.run(command, cwd=NODE, check=True)


def build_large(source: Path, output: Path) -> None:
    """Make a component from a program in Python or JavaScript. Raises ``CalledProcessError``."""
    if source.suffix == ".js":
        componentize("guest-with-arguments", source, output)
        return
    # pip installs it beside this interpreter.
    tool = [str(Path(sys.executable).parent / "componentize-py"), "-d", "../wit", "-w", "guest"]
    command = [*tool, "componentize", source.stem, "-o", str(output)]
    subprocess.run(command, cwd=source.parent, check=True, stdout=subprocess.DEVNULL)


def lacks_node(as_it_is: bool) -> str | None:
    """Why components cannot be built here, or None. Installs what they need from npm, once, unless
    ``as_it_is``."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Node.js and npm are not installed"
    wanted, installed = COMPONENTS / "package.json", NODE / "package.json"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        if as_it_is:
            return "jco is not installed; build.py without --check installs it"
        print("Installing jco and componentize-js (once) ...", flush=True)
        NODE.mkdir(parents=True, exist_ok=True)
        shutil.copy(wanted, installed)
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run(["npm", "install", *options], cwd=NODE).returncode:
            installed.unlink()
            return "npm install failed"
    return None


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
    names = {source.stem for source in sources()}
    unknown = set(options.names) - names - LARGE.keys()
    if unknown:
        parser.error(f"no such guest: {', '.join(sorted(unknown))}")
    wanted = [s for s in sources() if not options.names or s.stem in options.names]
    large = [] if options.check else [n for n in LARGE if not options.names or n in options.names]
    reason = lacks_node(options.check) if large or any(map(is_component, wanted)) else None
    if reason is not None:
        print(f"build.py: components are left as they are: {reason}", file=sys.stderr)
        wanted = [source for source in wanted if not is_component(source)]
        large = [name for name in large if LARGE[name].suffix != ".js"]
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
    for name in large:
        output = BUILD / "guests" / f"{name}.wasm"
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            build_large(LARGE[name], output)
        except subprocess.CalledProcessError:
            print(f"build.py: {LARGE[name].name} is not a component; see above", file=sys.stderr)
            return 1
        print(f"build/guests/{output.name}: {output.stat().st_size} bytes")
    if different:
        print(f"build.py: not what the sources give: {', '.join(different)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
