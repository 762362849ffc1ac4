"""The worker of a language model dies: the guests that did not end it go on with their texts."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn import Host
from wasi_nn.errors import EndOfSequence, RuntimeFailure
from wasi_nn.types import Tensor, TensorType

needs("xllamacpp")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
GREEDY = {"temp": 0.0, "threads": 1, "ctx-size": 512, "ignore-eos": True, "n-predict": 60}


def tensor(text: str) -> Tensor:
    data = text.encode()
    return Tensor(TensorType.U8, (len(data),), memoryview(data))


class Guest:
    def __init__(self, host: Host, prompt: str) -> None:
        self.session = host.open_session()
        graph = self.session.load_by_name("tiny")
        self.context = self.session.contexts[self.session.init_execution_context(graph)]
        self.context.set_input(0, tensor(prompt))
        self.text = b""

    @property
    def process(self) -> int:
        return self.session.graphs[0].worker.process

    def stream(self, count: int, pause: float = 0.0) -> bytes:
        for _ in range(count):
            try:
                self.context.compute_single()
            except EndOfSequence:
                break
            self.text += bytes(self.context.get_output_single(0).data)
            time.sleep(pause)
        return self.text

    def compute(self) -> bytes:
        self.context.compute()
        return bytes(self.context.get_output(0).data)


@pytest.fixture
def host():
    with Host() as host:
        host.add_model("tiny", TINY, config=GREEDY)
        yield host


@pytest.fixture
def guest(host):
    made = []

    def guest(prompt: str) -> Guest:
        made.append(Guest(host, prompt))
        return made[-1]

    yield guest
    for one in made:
        one.session.close()


def kill(guest: Guest) -> None:
    worker = guest.session.graphs[0].worker
    os.kill(worker.process, signal.SIGKILL)
    while not worker.lost:
        time.sleep(0.001)


def started(*work) -> list[threading.Thread]:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    return threads


PROMPTS = ["once upon a time", "the cat", "a b c d e f", "numbers: 1 2 3"]


def test_four_streams_are_the_same_with_and_without_a_death(guest):
    expected = [guest(prompt).stream(60) for prompt in PROMPTS]
    four = [guest(prompt) for prompt in PROMPTS]
    process = four[0].process
    threads = started(*(lambda one=one: one.stream(60, 0.002) for one in four))
    while not all(len(one.text) > 5 for one in four):
        time.sleep(0.001)
    kill(four[0])
    for thread in threads:
        thread.join()
    assert [one.text for one in four] == expected
    assert {one.process for one in four} != {process}


def test_a_guest_between_two_turns_goes_on(guest):
    other = guest("the cat")
    first = other.compute()
    other.context.set_input(0, tensor("the cat sat"))
    second = other.compute()

    one = guest("the cat")
    assert one.compute() == first
    kill(one)
    assert bytes(one.context.get_output(0).data) == first
    one.context.set_input(0, tensor("the cat sat"))
    assert one.compute() == second


def test_the_config_of_a_context_holds_after_the_death(guest):
    one = guest("the cat")
    one.context.set_input(1, tensor(json.dumps({"n-predict": 5})))
    short = one.compute()
    about = bytes(one.context.get_output(1).data)
    kill(one)
    assert one.compute() == short
    assert bytes(one.context.get_output(1).data) == about
    assert json.loads(about)["output_tokens"] == 5


def test_only_the_guest_in_whose_step_the_worker_dies_twice_gets_the_errno(guest):
    culprit, *others = (guest(prompt) for prompt in PROMPTS)
    for one in others:
        one.stream(5)
    expected = [guest(prompt).stream(60) for prompt in PROMPTS[1:]]
    culprit.context.set_input(1, tensor(json.dumps({"n-predict": -1, "ctx-size": 100_000})))
    ended = []

    def compute() -> None:
        try:
            while True:
                culprit.context.compute()
        except RuntimeFailure as error:
            ended.append(error)

    (thread,) = started(compute)
    seat = culprit.context.context._seat
    killed = None
    while thread.is_alive():
        worker = seat.worker
        if worker is not killed and seat._ready and worker.steps.at_work(seat._step):
            killed = worker
            os.kill(worker.process, signal.SIGKILL)
        time.sleep(0.0005)
    thread.join()
    assert "This guest has ended it" in str(ended[0])
    assert [one.stream(55) for one in others] == expected
