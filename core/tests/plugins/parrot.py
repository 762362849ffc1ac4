"""A plugin for tests: a language model that says its prompt again, word by word.

All contexts of a graph are computed together, by one thread, as a real one's decode loop does. Some
words end the process: ``abort`` when it is said, ``abort-set`` when it is set. The config (input 1)
is JSON; its keys accumulate: ``before`` and ``after`` come around each word."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from wasi_nn import Host
from wasi_nn._worker import asking
from wasi_nn.backend import Backend, ExecutionContext, Generation, Graph, Journal, StreamingContext
from wasi_nn.errors import EndOfSequence, InvalidArgument
from wasi_nn.hookspecs import hookimpl
from wasi_nn.types import Tensor, TensorInfo, TensorType

_STEP_SECONDS = 0.002


class Loop(threading.Thread):
    """Says a word of each context that waits, all in one step."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.waiting: list[Parrot] = []
        self.changed = threading.Condition()
        self.steps = self.sequences = 0

    def run(self) -> None:
        while True:
            with self.changed:
                while not self.waiting:
                    self.changed.wait()
                alone = [context for context in self.waiting if context.alone][:1]
                step = alone or self.waiting[:]
                self.waiting = [context for context in self.waiting if context not in step]
            for context in step:
                context.stepping(True)
            time.sleep(_STEP_SECONDS)
            for context in step:
                if context.words[context.said] == "abort":
                    os.abort()
            self.steps += 1
            self.sequences += len(step)
            with self.changed:
                for context in step:
                    context.stepping(False)
                    context.alone = False
                    context.next = context.words[context.said]
                self.changed.notify_all()


class Parrot(StreamingContext):
    def __init__(self, graph: ParrotGraph, reserve) -> None:
        self.graph, self.reserve = graph, reserve
        self.config: dict[str, str] = {}
        self.words: list[str] = []
        self.said = self.kept = self.tokens = 0
        self.begins = True
        self.alone = False
        self.next: str | None = None
        self.text = self.piece = b""
        reserve(1000)

    def set_input(self, key, tensor):
        text = bytes(tensor.data).decode()
        if "abort-set" in text:
            os.abort()
        if key == 1:
            self.config.update(json.loads(text))
            return
        if not text:
            raise InvalidArgument("the prompt is empty")
        self.words = text.split()
        self._begin()

    def _begin(self):
        self.said = self.kept = 0
        self.begins = True
        self.text = self.piece = b""

    def accumulates(self, key):
        return key == 1

    def _say(self):
        loop = self.graph.loop
        self.next = None
        self.stepping(False)
        with loop.changed:
            loop.waiting.append(self)
            loop.changed.notify_all()
            while self.next is None:
                loop.changed.wait()
        self._said()
        self.tokens += 1

    def _said(self):
        word = self.words[self.said]
        self.piece = (self.config.get("before", "") + word + self.config.get("after", " ")).encode()
        self.text += self.piece
        self.said += 1

    def compute(self):
        self._begin()
        while self.said < len(self.words):
            self._say()
            self.stdout(self.piece)

    def compute_single(self):
        if self.words[self.said : self.said + 1] == ["chatter"]:
            for _ in range(2):
                asking.tell_journal(Journal(b"x"))
        if self.said == len(self.words):
            raise EndOfSequence("that was the last word")
        self._say()

    def get_output(self, key):
        if key == 1:
            about = {"schedule": self.schedule, "process": os.getpid()}
            return _tensor(json.dumps(about).encode())
        return _tensor(self.text)

    def get_output_single(self, key):
        return _tensor(self.piece)

    def fini_single(self):
        self._begin()

    def generation(self):
        return Generation(tokens=self.tokens)

    def journal(self):
        new, begins = b"." * (self.said - self.kept), self.begins
        self.kept, self.begins = self.said, False
        return Journal(new, begins)

    def resume(self, journal, alone):
        self.alone = alone
        for _ in journal:
            self._said()
        self.kept = self.said


class ParrotGraph(Graph):
    untyped_bytes = True
    inputs = (
        TensorInfo("prompt", TensorType.U8, (-1,)),
        TensorInfo("config", TensorType.U8, (-1,)),
    )
    outputs = (TensorInfo("text", TensorType.U8, (-1,)), TensorInfo("about", TensorType.U8, (-1,)))

    def __init__(self) -> None:
        self.loop = Loop()
        self.loop.start()

    def init_execution_context(self, reserve) -> ExecutionContext:
        return Parrot(self, reserve)

    def statistics(self):
        return {"steps": self.loop.steps, "sequences": self.loop.sequences}


class ParrotBackend(Backend):
    name = "parrot"
    encodings = ("parrot",)
    always_in_worker = True
    config_keys = None

    def load(self, builders, options):
        model = builders[0].read_bytes()
        if model == b"abort" or options.config.get("abort"):
            os.abort()
        return ParrotGraph()


def new_host(folder, policy=None, isolation="shared") -> Host:
    """A host with the model ``bird``, which guests may load."""
    model = folder / "model.parrot"
    model.write_bytes(b"parrot")
    host = Host(policy=policy)
    host.plugins.register(sys.modules[__name__], "parrot")
    host.plugins.backend_for("parrot").plugin = "parrot"
    host.add_model("bird", model, encoding="parrot", isolation=isolation)
    return host


def opened(session):
    """A context of the bird."""
    return session.contexts[session.init_execution_context(session.load_by_name("bird"))]


def about(context) -> dict:
    """The context's schedule and process."""
    return json.loads(bytes(context.get_output(1).data))


def _tensor(data: bytes) -> Tensor:
    return Tensor(TensorType.U8, (len(data),), memoryview(data))


@hookimpl
def wasi_nn_backends():
    return [ParrotBackend()]
