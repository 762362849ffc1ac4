"""Compiled code is cached only where no other user can change it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import needs_engine

needs_engine("wasmtime")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
AS_ROOT = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root gives files away"
)
OTHER = 12345

# argv: the runtime.
PROGRAM = """
import logging, sys
import wasmtime
from wasi_nn import Host

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
wasm = bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1) (func (export "f")))'))
for runtime in sys.argv[1], sys.argv[1]:
    with Host(runtime=runtime) as host, host.compile(wasm).instantiate() as guest:
        guest.call("f")
"""


@pytest.fixture(params=["wasmtime", "wasmtime@"])
def run(request, tmp_path):
    """Compile a module in a process of its own, and return what it logged."""

    def run(**options: Any) -> str:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("HOME", "XDG_CACHE_HOME", "WASI_NN_CACHE")
        }
        environment.update(options.pop("env", {"HOME": str(tmp_path)}))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, request.param],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            **options,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / ".cache" / "wasi-nn" / "wasmtime"
    made.mkdir(parents=True, mode=0o700)
    for parent in (made.parent, made.parent.parent):
        parent.chmod(0o755)
    return made


def code(directory: Path) -> dict[Path, int]:
    """The files of compiled code, with the inode of each."""
    found = directory.glob("modules/*/*")
    return {path: path.stat().st_ino for path in found if not path.suffix}


def test_the_cache_is_made_for_the_user_alone(run, tmp_path):
    before = os.umask(0)
    try:
        assert run() == ""
    finally:
        os.umask(before)
    directory = tmp_path / ".cache" / "wasi-nn" / "wasmtime"
    for made in (directory, directory.parent, directory.parent.parent):
        assert made.stat().st_mode & 0o777 == 0o700
    assert code(directory)


def test_a_second_process_uses_the_cached_code(run, directory):
    run()
    first = code(directory)
    assert len(first) == 1
    run()
    assert code(directory) == first
    # What stands in the cache is what is compiled: a broken entry is made anew.
    (path,) = first
    path.write_bytes(b"broken")
    run()
    assert path.read_bytes() != b"broken"


@pytest.mark.parametrize("place", ["wasi-nn", ".cache", "home"])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_parent_that_others_can_write_to_is_not_safe(run, directory, place, mode):
    path = directory.parents[["wasi-nn", ".cache", "home"].index(place)]
    path.chmod(mode)
    said = run()
    path.chmod(0o700)
    assert said.startswith("WARNING ")
    assert f"other users can write to {path} (mode 0{mode:o}); chmod go-w {path} " in said
    assert said.count("\n") == 1  # Once for both hosts.
    assert code(directory) == {}


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777, 0o1777])
def test_a_directory_that_others_can_enter_is_not_used(run, directory, mode):
    """Not to read it either: what wasmtime makes in it is made with the umask."""
    directory.chmod(mode)
    said = run()
    assert said.startswith("WARNING ")
    assert f"other users can enter {directory} (mode {mode:04o}); " in said
    assert f"then chmod 700 {directory} " in said
    assert said.count("\n") == 1
    assert code(directory) == {}


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_others_may_read_the_parents_or_share_a_sticky_one(run, directory, mode):
    directory.parent.chmod(mode)
    assert run() == ""
    assert code(directory)


@AS_ROOT
@pytest.mark.parametrize("place", ["wasmtime", "wasi-nn", ".cache"])
def test_a_directory_of_another_user_is_not_used(run, directory, place):
    path = next(path for path in (directory, *directory.parents) if path.name == place)
    os.chown(path, OTHER, OTHER)
    said = run()
    assert said.startswith("WARNING ")
    assert f"{path} belongs to user {OTHER}, not to user {os.geteuid()}" in said
    assert code(directory) == {}


@AS_ROOT
def test_root_may_own_the_parents_but_not_the_cache(tmp_path, directory):
    """(A user who is not root cannot enter the folders of the tests, so only the checks run.)"""
    program = f"""
import os
from wasi_nn_wasmtime.cache import _Unsafe, _check
os.seteuid({OTHER})
_check("/", os.lstat("/"), is_parent=True)
try:
    _check("/", os.lstat("/"), is_parent=False)
except _Unsafe as unsafe:
    print(unsafe)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith(f"/ belongs to user 0, not to user {OTHER}"), done.stderr


def test_a_link_is_not_used_as_the_cache(run, directory, tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir(mode=0o700)
    directory.rmdir()
    directory.symlink_to(target)
    assert f"{directory} is a symbolic link, not a directory; remove it" in run()
    assert list(target.iterdir()) == []


def test_a_file_is_not_used_as_the_cache(run, directory):
    directory.rmdir()
    directory.touch()
    assert f"{directory} is a file, not a directory; remove it" in run()


def test_a_link_among_the_parents_is_followed_and_its_target_checked(run, tmp_path):
    target = tmp_path / "disk" / "caches"
    target.mkdir(parents=True, mode=0o700)
    (tmp_path / ".cache").symlink_to(target)
    assert run() == ""
    assert code(target / "wasi-nn" / "wasmtime")
    target.parent.chmod(0o777)
    assert f"other users can write to {target.parent} (mode 0777)" in run()


@pytest.mark.skipif(sys.platform != "linux", reason="the homes are Linux's")
@pytest.mark.parametrize("home", ["/proc/self", "/dev/null", "/proc/nobody"])
def test_a_home_that_cannot_be_written_to_costs_only_time(run, home):
    # (Root can write to a directory of mode 0555, but not to these.)
    said = run(env={"HOME": home})
    assert said.count("INFO compiled code is not cached: ") == len(said.splitlines())


@AS_ROOT
def test_a_user_without_a_home_has_no_cache(tmp_path):
    program = f"""
import os
from wasi_nn_wasmtime import cache
os.setuid({OTHER})
try:
    cache._directory()
except FileNotFoundError as error:
    print(error)
"""
    environment = {key: value for key, value in os.environ.items() if key != "HOME"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "this user has no home directory\n", done.stderr


def test_the_cache_can_be_turned_off(run, directory, tmp_path):
    directory.chmod(0o777)
    assert run(env={"HOME": str(tmp_path), "WASI_NN_CACHE": "off"}) == ""
    assert code(directory) == {}


def test_the_cache_can_be_moved(run, tmp_path):
    odd = tmp_path / 'my "own" \\ folder é'
    assert run(env={"HOME": str(tmp_path), "WASI_NN_CACHE": str(odd)}) == ""
    assert code(odd)
    assert run(env={"XDG_CACHE_HOME": str(tmp_path / "xdg")}) == ""
    assert code(tmp_path / "xdg" / "wasi-nn" / "wasmtime")
    assert not (tmp_path / ".cache").exists()


def test_an_own_setting_of_wasmtime_does_not_move_the_cache(run, directory, tmp_path):
    shared = tmp_path / "shared"
    settings = tmp_path / ".config" / "wasmtime" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[cache]\ndirectory = "{shared}"\n')
    assert run() == ""
    assert code(directory)
    assert not shared.exists()


@pytest.mark.parametrize("runtime", ["wasmtime", "wasmtime@"])
def test_another_value_is_an_error_that_says_what_is_expected(runtime):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, runtime],
        capture_output=True,
        text=True,
        env={**os.environ, "WASI_NN_CACHE": "0"},
    )
    assert "UsageError" in done.stderr
    assert "WASI_NN_CACHE must be off or an absolute path, not '0'" in done.stderr
