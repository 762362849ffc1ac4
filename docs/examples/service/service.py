"""A small service: each POST asks a language model, in a guest of its own. GET gives metrics."""

from __future__ import annotations

import queue
import sys
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest

from wasi_nn import Host, Limits, Outcome, RunInput
from wasi_nn.prometheus import Collector


class Question(NamedTuple):
    text: bytes
    answer: Future[Outcome[Question]]


def ask(question: Question) -> RunInput:
    """How the guest is run for a question: the chat reads standard input."""
    return {"stdin": question.text + b"\n"}


class Service(ThreadingHTTPServer):
    def __init__(self, port: int, host: Host, guest: str, jobs: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.questions: queue.Queue[Question | None] = queue.Queue(2 * jobs)
        self.metrics = CollectorRegistry()
        self.metrics.register(Collector(host))
        self.program = host.compile(guest)
        self.worker = Thread(target=self.work, args=(jobs,))
        self.worker.start()

    def work(self, jobs: int) -> None:
        questions = iter(self.questions.get, None)
        args = ["--config", '{"n-predict": 200}', "chat"]
        with self.program.run_many(questions, ask, args=args, jobs=jobs) as runs:
            for outcome in runs:
                outcome.input.answer.set_result(outcome)

    def server_close(self) -> None:
        self.questions.put(None)  # answers what waits, and ends the loop over the runs
        self.worker.join()
        super().server_close()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        question = Question(text, Future())
        try:
            self.server.questions.put_nowait(question)
        except queue.Full:
            return self.reply(503, b"busy\n")
        outcome = question.answer.result()
        if outcome.error is not None or outcome.result is None:
            return self.reply(500, f"{outcome.error}\n".encode())
        return self.reply(200, outcome.result.stdout)

    def do_GET(self) -> None:
        self.reply(200, generate_latest(self.server.metrics))

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    guest, model = sys.argv[1:]
    with Host(limits=Limits(timeout=60, tokens=1000)) as host:
        host.add_model("chat", model)
        with Service(8080, host, guest, jobs=16) as service, suppress(KeyboardInterrupt):
            service.serve_forever()
