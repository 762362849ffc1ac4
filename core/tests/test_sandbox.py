"""What a confined process can and cannot do.

This file is also the program that forks the confined children: pytest has threads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from wasi_nn._sandbox import Confinement, confine, library_paths, offered

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux confines a process")

# A refusal, a limit on what a file may hold, and limits on descriptors and memory.
_REFUSALS = {errno.EPERM, errno.EACCES, errno.EFBIG, errno.EMFILE, errno.ENOMEM}
# A bound against a hang, in seconds.
_HANG = 60
_MEMORY = 256 << 20


class Room(NamedTuple):
    """What an attempt finds: a folder that may be read with a file ``model`` and a ``link`` out of
    it, a file ``secret`` beside it, and descriptors that were open before."""

    path: Path
    peer: socket.socket
    memory: int
    log: int

    @property
    def open(self) -> Path:
        return self.path / "open"

    @property
    def model(self) -> Path:
        return self.path / "open" / "model"

    @property
    def secret(self) -> Path:
        return self.path / "secret"


def libc(name: str, *arguments: Any) -> int:
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def syscall(number: int, *arguments: Any) -> int:
    return libc("syscall", ctypes.c_long(number), *arguments)


def fork() -> object:
    pid = os.fork()
    if not pid:
        os._exit(0)
    return os.waitpid(pid, 0)


def threads() -> object:
    found: list[int] = []
    started = [threading.Thread(target=found.append, args=(number,)) for number in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(_HANG)
    return sorted(found)


def send_a_descriptor(room: Room) -> object:
    return socket.send_fds(room.peer, [b"file"], [0])


def take_a_descriptor(room: Room) -> object:
    _, descriptors, _, _ = socket.recv_fds(room.peer, 4, 1)
    return os.read(descriptors[0], 99).decode()


def ping(room: Room) -> object:
    room.peer.sendall(b"ping")
    return room.peer.recv(4).decode()


def numpy() -> object:
    import numpy

    return float((numpy.ones((64, 64)) @ numpy.ones((64, 64))).sum())


ANON, PRIVATE = mmap.MAP_ANONYMOUS, mmap.MAP_PRIVATE
ME = os.getpid
Attempt = Callable[[Room], object]
#: What fails with an errno in a confined process, and is possible in another one.
REFUSED: dict[str, Attempt] = {
    "read a file": lambda room: room.secret.read_bytes(),
    "read a file through a symlink": lambda room: (room.open / "link").read_bytes(),
    "read a file beside a folder": lambda room: (room.open / "../secret").read_bytes(),
    "read a file of the system": lambda room: Path("/etc/passwd").read_bytes(),
    "list a folder": lambda room: os.listdir(room.path),
    "read an environment": lambda room: os.open("/proc/self/environ", os.O_RDONLY),
    "create a file": lambda room: os.open(room.open / "new", os.O_CREAT | os.O_WRONLY),
    "create a file without a name": lambda room: os.open(room.path, os.O_TMPFILE | os.O_RDWR),
    "overwrite a file": lambda room: os.open(room.model, os.O_WRONLY),
    "truncate a file": lambda room: os.truncate(room.secret, 1),
    "append to an open file": lambda room: os.write(room.log, b"x"),
    "delete a file": lambda room: os.unlink(room.model),
    "rename a file": lambda room: os.rename(room.model, room.open / "other"),
    "link a file": lambda room: os.link(room.model, room.open / "other"),
    "make a symlink": lambda room: os.symlink("x", room.open / "other"),
    "make a folder": lambda room: os.mkdir(room.open / "folder"),
    "send a descriptor": send_a_descriptor,
    "make a fifo": lambda room: os.mkfifo(room.open / "fifo"),
    "change a mode": lambda room: os.chmod(room.model, 0o600),
    "change an owner": lambda room: os.chown(room.model, os.getuid(), os.getgid()),
    "change a time": lambda room: os.utime(room.model, (1, 1)),
    "lock a file": lambda room: fcntl.flock(os.open(room.model, os.O_RDONLY), fcntl.LOCK_EX),
    "change the folder": lambda room: os.chdir(room.path),
    "make a socket": lambda room: socket.socket(),
    "make a local socket": lambda room: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": lambda room: socket.socketpair(),
    "bind": lambda room: socket.socket(socket.AF_UNIX).bind("\0" + str(room.path)),
    "send to an abstract socket": lambda room: socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM
    ).sendto(b"x", f"\0{room.path}/abstract"),
    "send out of band": lambda room: room.peer.send(b"x", socket.MSG_OOB),
    "run a program": lambda room: subprocess.run([sys.executable, "-S", "-c", ""], check=True),
    "become a program": lambda room: os.execv(sys.executable, [sys.executable, "-S", "-c", ""]),
    "fork": lambda room: fork(),
    "signal the parent": lambda room: os.kill(os.getppid(), 0),
    "signal every process": lambda room: os.kill(-1, 0),
    "signal the group": lambda room: os.killpg(0, 0),
    "open another process": lambda room: syscall(434, os.getppid(), 0),  # pidfd_open
    "own a socket's signals": lambda room: fcntl.fcntl(room.peer.fileno(), fcntl.F_SETOWN, ME()),
    "be traced": lambda room: libc("ptrace", 0, 0, 0, 0),
    "read a process": lambda room: libc("process_vm_readv", ME(), None, 0, None, 0, 0),
    "be less important": lambda room: os.setpriority(os.PRIO_PROCESS, 0, 19),
    "set a limit": lambda room: resource.prlimit(
        0, resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)
    ),
    "open many descriptors": lambda room: [os.dup(room.peer.fileno()) for _ in range(300)],
    "allocate much": lambda room: len(bytearray(2 * _MEMORY)),
    "allocate much in pieces": lambda room: len(
        [mmap.mmap(-1, 1 << 20, PRIVATE | ANON) for _ in range(2 * _MEMORY >> 20)]
    ),
    "allocate a stack": lambda room: len(mmap.mmap(-1, 4096, PRIVATE | ANON | 0x100)),
    "allocate shared memory": lambda room: len(mmap.mmap(-1, 4096)),
    "make a file in memory": lambda room: os.memfd_create("x"),
    "make a shared segment": lambda room: libc("shmctl", libc("shmget", 0, 4096, 0o1600), 0, 0),
    "become dumpable": lambda room: libc("prctl", 4, 1, 0, 0, 0),
    "outlive the parent": lambda room: libc("prctl", 1, 0, 0, 0, 0),
}
#: What may be refused without a confinement too, if the user is not root.
REFUSED_TO_ROOT: dict[str, Attempt] = {
    "read the parent's memory": lambda room: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
    "make a namespace": lambda room: libc("unshare", 0x10000000),
    "mount": lambda room: libc("mount", b"x", bytes(room.open), b"tmpfs", 0, None),
    "change the root": lambda room: os.chroot(room.path),
    "become another user": lambda room: os.setuid(12345),
    "make a device": lambda room: os.mknod(room.open / "null", 0o20666, os.makedev(1, 3)),
    "name the host": lambda room: libc("sethostname", os.uname().nodename.encode(), 2),
    "use a key": lambda room: syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3, 1),
    "make a ring": lambda room: syscall(425, 1, (ctypes.c_char * 120)()),  # io_uring_setup
    "load a program of the kernel": lambda room: syscall(
        321 if os.uname().machine == "x86_64" else 280, 5, (ctypes.c_char * 72)(), 72
    ),
    "count events": lambda room: syscall(
        298 if os.uname().machine == "x86_64" else 241, (ctypes.c_char * 120)(), 0, -1, -1, 0
    ),
}
#: What is possible, with its result.
ALLOWED: dict[str, tuple[Attempt, object]] = {
    "read a file": (lambda room: room.model.read_text(), "model"),
    "map a file": (
        lambda room: mmap.mmap(os.open(room.model, 0), 0, access=mmap.ACCESS_READ)[:].decode(),
        "model",
    ),
    "list a folder": (lambda room: sorted(os.listdir(room.open)), ["link", "model"]),
    "open a file in memory again": (
        lambda room: Path(f"/proc/self/fd/{room.memory}").read_text(),
        "memory",
    ),
    "map a file in memory": (lambda room: mmap.mmap(room.memory, 6)[:].decode(), "memory"),
    "import a module": (lambda room: __import__("colorsys").__name__, "colorsys"),
    "start threads": (lambda room: threads(), [0, 1, 2, 3]),
    "use numpy": (lambda room: numpy(), 64.0**3),
    "send and receive": (ping, "ping"),
    "take a descriptor": (take_a_descriptor, "model"),
    "allocate a little": (lambda room: len(bytearray(_MEMORY // 2)), _MEMORY // 2),
    "read a limit": (lambda room: resource.getrlimit(resource.RLIMIT_NOFILE)[0], 256),
    "signal itself": (lambda room: os.kill(os.getpid(), 0), None),
}
#: What ends the process, with the signal.
ENDS: dict[str, tuple[Attempt, int]] = {
    "abort": (lambda room: os.abort(), signal.SIGABRT),
    "crash": (lambda room: ctypes.string_at(8), signal.SIGSEGV),
    # Such a number means a call of x32, whose calls are others.
    **(
        {"call in another ABI": (lambda room: syscall(0x40000000 + 39), signal.SIGSYS)}
        if os.uname().machine == "x86_64"
        else {}
    ),
    "compute for long": (lambda room: sum(iter(lambda: 1, 0)), signal.SIGXCPU),
}


def child(attempt: Attempt, how: str, room: Room, answer: int) -> None:
    """Try it, and answer with the result, or an errno, in JSON."""
    found: dict[str, object]
    try:
        if how == "confined":
            confine(Confinement((*library_paths(), str(room.open)), _MEMORY, 1))
        found = {"result": attempt(room)}
    except OSError as error:
        found = {"errno": error.errno}
    except MemoryError:
        found = {"errno": errno.ENOMEM}
    except BaseException as error:  # The loop that forked this child must not go on in it.
        found = {"failed": repr(error)}
    try:
        os.write(answer, json.dumps(found, default=str).encode())
    finally:
        os._exit(0)


def outcome(attempt: Attempt, how: str, folder: Path) -> dict[str, object]:
    """What an attempt in a child of its own led to, and how the child ended."""
    (folder / "open").mkdir()
    (folder / "open" / "model").write_text("model")
    (folder / "secret").write_text("secret")
    (folder / "open" / "link").symlink_to(folder / "secret")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(f"\0{folder}/abstract")
    ours, theirs = socket.socketpair()
    memory = os.memfd_create("model")
    os.write(memory, b"memory")
    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY)
    answers, answer = os.pipe()
    pid = os.fork()
    if not pid:
        ours.close()
        listener.close()
        child(attempt, how, Room(folder, theirs, memory, log), answer)
    os.close(answer)
    theirs.close()
    if attempt is ping:
        ours.sendall(ours.recv(4))
    if attempt is take_a_descriptor:
        with open(folder / "open" / "model", "rb") as model:
            socket.send_fds(ours, [b"file"], [model.fileno()])
    with ours, listener, open(answers) as file:
        found = json.loads(file.read() or "{}")
    os.close(memory)
    os.close(log)
    return {**found, "status": os.waitpid(pid, 0)[1]}


def program(how: str) -> None:
    """Try everything, and print the outcomes, in JSON."""
    offered()
    attempts = {("refused", name): attempt for name, attempt in REFUSED.items()}
    if how == "confined":
        attempts |= {("refused", name): attempt for name, attempt in REFUSED_TO_ROOT.items()}
        attempts |= {("allowed", name): attempt for name, (attempt, _) in ALLOWED.items()}
        attempts |= {("ends", name): attempt for name, (attempt, _) in ENDS.items()}
    found = {}
    for (kind, name), attempt in attempts.items():
        with tempfile.TemporaryDirectory() as folder:
            found[f"{kind}: {name}"] = outcome(attempt, how, Path(folder))
    print(json.dumps(found))


@functools.cache
def outcomes(how: str) -> dict[str, dict[str, object]]:
    ended = subprocess.run(
        [sys.executable, __file__, how], capture_output=True, text=True, timeout=_HANG
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    found: dict[str, dict[str, object]] = json.loads(ended.stdout)
    return found


needs_all = pytest.mark.skipif(not offered().complete, reason="; ".join(filter(None, offered())))


@needs_all
@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_TO_ROOT])
def test_a_confined_process_cannot(name: str) -> None:
    found = outcomes("confined")[f"refused: {name}"]
    assert found.get("errno") in _REFUSALS
    assert found["status"] == 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_process_that_is_not_confined_can(name: str) -> None:
    """Otherwise the test above would show nothing."""
    found = outcomes("free")[f"refused: {name}"]
    assert "errno" not in found
    assert found["status"] == 0


@needs_all
@pytest.mark.parametrize("name", ALLOWED)
def test_a_confined_process_can(name: str) -> None:
    assert outcomes("confined")[f"allowed: {name}"] == {"result": ALLOWED[name][1], "status": 0}


@needs_all
@pytest.mark.parametrize("name", ENDS)
def test_a_confined_process_ends_with_its_signal(name: str) -> None:
    assert outcomes("confined")[f"ends: {name}"] == {"status": ENDS[name][1]}


if __name__ == "__main__":
    program(sys.argv[1])
