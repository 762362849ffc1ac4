"""The server demo: a WebAssembly guest of 24 KB serves a language model over HTTP.

It runs the command from the README with a tiny model that is in this repository, waits for the
guest's first line, and asks the server as any client would.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GUEST = "conformance/guests/chat-server/chat-server.wasm"
MODEL = "conformance/graphs/ggml/tiny.gguf"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Serve a language model from a WebAssembly guest, and ask it.",
        epilog="examples:\n  python demo.py\n  python demo.py --graph default=model.gguf",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--graph", default=f"default={MODEL}", help="the model to serve")
    command = [
        *("wasi-nn", "run", "--listen", "127.0.0.1:0"),
        *("--graph", parser.parse_args().graph),
        *(GUEST, "--requests", "4", "127.0.0.1", "0"),
    ]
    print(f"$ {shlex.join(command)}", flush=True)
    os.chdir(ROOT)
    with subprocess.Popen(
        [sys.executable, "-m", "wasi_nn", *command[1:]], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        print(line, end="", flush=True)
        _, _, port = line.strip().rpartition(":")
        if port.isdigit():
            ask_everything(int(port))
        return server.wait()


def ask_everything(port: int) -> None:
    question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
    for method, path, body in (
        ("GET", "/v1/models", None),
        ("POST", "/echo", "the same bytes"),
        ("POST", "/v1/chat/completions", json.dumps(question)),
        ("POST", "/v1/chat/completions", json.dumps({**question, "stream": True})),
    ):
        print(f"\n> {method} {path} {body or ''}", flush=True)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, body)
        answer = connection.getresponse()
        print(answer.read().decode(errors="replace").strip(), flush=True)
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
