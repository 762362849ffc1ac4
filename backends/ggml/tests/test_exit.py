"""Native memory at the end of a stream, of a cycle of objects, and of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
START = f"""
import atexit, gc, threading
later = []
atexit.register(lambda: [next(stream) for stream in later])  # runs after the library's own
from wasi_nn import Host
host = Host()

path = {str(TINY)!r}

def start(**config):
    context = host.load(path, config=config).init_execution_context()
    context.set_input("prompt", "x")
    stream = context.stream()
    next(stream)
    return context, stream
"""
PROGRAMS = {
    "a stream": "kept = start()",
    "only the stream": "kept = start()[1]",
    "a grammar": "kept = start(grammar='root ::= \"a\"*')",
    "an exit handler": "later.append(start()[1])",
    "a finalizer": """
class Reader:
    def __del__(self):
        next(self.stream)
reader = Reader()
reader.context, reader.stream = start()
""",
    "a cycle": """
for _ in range(20):
    context, stream = start()
    context.stream = stream
    del context, stream
    gc.collect()
""",
    "a thread": """
def write():
    while True:
        with host.load(path).init_execution_context() as context:
            context.set_input("prompt", "x")
            writing.set()
            context.compute()
writing = threading.Event()
threading.Thread(target=write, daemon=True).start()
writing.wait()
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_python_exits_cleanly(program):
    ended = subprocess.run(
        [sys.executable, "-c", START + program + "\nprint('done')"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"done\n", b"")
