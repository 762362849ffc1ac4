"""How a process is confined: without one part, with privileges, with a parent that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from wasi_nn._cli.status import sandbox_lines
from wasi_nn._sandbox import Offered, library_paths, offered
from wasi_nn_onnx.backend import OnnxBackend
from wasi_nn_pytorch.backend import PytorchBackend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines a process")
needs_all = pytest.mark.skipif(not offered().complete, reason="; ".join(filter(None, offered())))

# A bound against a hang, in seconds.
_HANG = 60
START = """
import os, signal, socket, sys, threading
from pathlib import Path
from wasi_nn._sandbox import Confinement, confine, landlock, library_paths, syscalls

def attempt(work):
    try:
        return str(work())
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"

def child(*works):
    pid = os.fork()
    if not pid:
        try:
            confine(Confinement(library_paths()))
            print(*map(attempt, works), sep="\\n", flush=True)
        except (OSError, RuntimeError) as error:
            print(f"not confined: {error}", flush=True)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

secret = Path("secret")
secret.write_text("secret")
"""


def run(script: str, folder: Path) -> list[str]:
    """The lines that a program prints, which confines a child with ``child(work, …)``."""
    ended = subprocess.run(
        [sys.executable, "-c", START + script],
        capture_output=True,
        text=True,
        timeout=_HANG,
        cwd=folder,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


@needs_all
def test_without_landlock_the_system_calls_are_refused_all_the_same(tmp_path: Path) -> None:
    script = """
landlock.missing = lambda: "no"
child(secret.read_text, lambda: secret.write_text("x"), socket.socket, os.fork, secret.unlink)
print(secret.read_text())
"""
    refused = "PermissionError: [Errno 1] Operation not permitted"
    file = f"{refused}: 'secret'"
    assert run(script, tmp_path) == ["secret", file, refused, refused, file, "secret"]


@needs_all
def test_without_seccomp_files_signals_and_tcp_are_refused_all_the_same(tmp_path: Path) -> None:
    script = """
syscalls.missing = lambda: "no"
server = socket.create_server(("127.0.0.1", 0))
address = server.getsockname()
server.close()
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0" + os.getcwd())
abstract.listen()
name = abstract.getsockname()
parent = os.getpid()
child(
    secret.read_text,
    lambda: secret.write_text("x"),
    secret.unlink,
    lambda: socket.socket().connect(address),
    lambda: socket.socket(socket.AF_UNIX).connect(name),
    lambda: os.kill(parent, 0),
    lambda: os.execv(sys.executable, ["python"]),
)
"""
    found = run(script, tmp_path)
    assert [line.split(":")[0] for line in found] == ["PermissionError"] * 7


def test_a_process_with_threads_is_not_confined(tmp_path: Path) -> None:
    script = """
done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
print(attempt(lambda: confine(Confinement(()))))
print(secret.read_text())
done.set()
"""
    error, text = run(script, tmp_path)
    assert error.startswith("RuntimeError: a process with 2 threads cannot be confined")
    assert text == "secret"


@pytest.mark.parametrize(
    "opened",
    [
        'open("secret", "r+")',
        "socket.socket()",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    ],
)
def test_a_process_with_a_descriptor_that_leads_out_is_not_confined(
    tmp_path: Path, opened: str
) -> None:
    (line,) = run(f"kept = {opened}\nchild()", tmp_path)
    assert line.startswith("not confined: descriptor 3 (")
    assert line.endswith("close it before the process is confined")


@needs_all
def test_a_confined_process_has_no_privileges_and_cannot_get_any(tmp_path: Path) -> None:
    script = """
ready, go = os.pipe()
pid = os.fork()
if not pid:
    confine(Confinement(()))
    os.write(go, b"x")
    signal.pause()
os.read(ready, 1)
status = Path(f"/proc/{pid}/status").read_text()
os.kill(pid, signal.SIGKILL)
print(*[line for line in status.splitlines() if line.startswith(("Cap", "NoNew", "Seccomp:"))])
"""
    (line,) = run(script, tmp_path)
    fields = dict(zip(line.split()[::2], line.split()[1::2], strict=True))
    assert (fields.pop("NoNewPrivs:"), fields.pop("Seccomp:")) == ("1", "2")
    if os.getuid():
        fields.pop("CapBnd:")  # Only root can drop it; nothing can be gained without it.
    assert {int(value, 16) for value in fields.values()} == {0}


@needs_all
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="this machine has one processor")
def test_a_confined_process_cannot_bind_others_to_a_processor(tmp_path: Path) -> None:
    script = """
parent = os.getpid()
before = os.sched_getaffinity(0)
child(lambda: os.sched_setaffinity(parent, {min(before)}))
print(os.sched_getaffinity(0) == before)
"""
    assert run(script, tmp_path) == ["None", "True"]


@needs_all
def test_a_confined_process_still_ends_with_its_parent(tmp_path: Path) -> None:
    script = """
import ctypes
alive, held = os.pipe()
ready, go = os.pipe()
middle = os.fork()
if not middle:
    if not os.fork():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        confine(Confinement(()))
        os.write(go, b"x")
        signal.pause()
    os.read(ready, 1)
    os._exit(0)
os.close(held)
signal.alarm(20)
print(os.read(alive, 1))
"""
    assert run(script, tmp_path) == ["b''"]


def test_the_libraries_paths_hold_nothing_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "homes" / "me"
    project = home / "project"
    (project / "package").mkdir(parents=True)
    (project / "package" / "__init__.py").touch()
    (project / "module.py").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(project)
    for folder in ("", "/", str(home), str(home.parent), str(project)):
        monkeypatch.syspath_prepend(folder)
    for name in ("package", "module"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # (So that it is undone.)
        del sys.modules[name]
        __import__(name)
    paths = set(library_paths())
    assert {str(project / "package"), str(project / "module.py")} <= paths
    assert not {"", "/", str(home), str(home.parent), str(project)} & paths
    assert all(map(os.path.isabs, paths))


def test_other_systems_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = offered.__wrapped__()
    assert not found.complete
    assert found.files == (
        "this system (darwin) has no Landlock: run wasi-nn on Linux 5.13 or newer for it"
    )
    assert all(found)


def test_doctor_says_what_holds_for_workers_and_what_follows_if_a_part_is_missing() -> None:
    backends = [OnnxBackend(), PytorchBackend()]
    complete = sandbox_lines(Offered("", "", "", ""), backends)
    assert [line[:9] for line in complete] == ["[ok]     "] * 4
    files, network, calls, memory, refused = sandbox_lines(Offered("no", "", "", ""), backends)
    assert files == "[missing] sandbox files: no"
    assert [network, calls, memory] == complete[1:]
    assert "guests may not bring models of pytorch, which are programs" in refused
