"""What the host and a worker send each other."""

from __future__ import annotations

import socket
import threading

import pytest

from wasi_nn._worker.messages import OK, Channel
from wasi_nn._worker.patience import Patience


@pytest.fixture
def channels():
    ours, theirs = socket.socketpair()
    pair = Channel(ours, endable=True), Channel(theirs)
    yield pair
    for one in pair:
        one.close()


@pytest.mark.skipif(not hasattr(socket, "MSG_DONTWAIT"), reason="nothing looks before it sleeps")
def test_a_wait_looks_less_and_less_often_while_it_looks_in_vain():
    patience = Patience()

    def sleeps() -> int:
        """How many waits sleep at once until one looks, in vain."""
        count = 0
        while not patience.begin():
            count += 1
        while patience.again():
            pass
        return count

    assert [sleeps() for _ in range(5)] == [0, 1, 3, 7, 15]
    for _ in range(4):
        patience.found()
    assert [sleeps() for _ in range(2)] == [31, 3]


def test_a_message_arrives_at_once_or_late(channels):
    channel, other = channels
    for number, delay in enumerate((0, 0.01, 0, 0.1)):
        timer = threading.Timer(delay, other.send, (OK, number, b"text"))
        timer.start()
        kind, subject, body = channel.receive()
        assert (kind, subject, bytes(body)) == (OK, number, b"text")
        timer.join()


def test_messages_of_any_length_arrive_in_order(channels):
    channel, other = channels
    sent = [(number, bytes([number]) * (3**number)) for number in range(13)]

    def send() -> None:
        for number, body in sent:
            other.send(OK, number, body)

    thread = threading.Thread(target=send)
    thread.start()
    got = [channel.receive() for _ in sent]
    thread.join()
    assert [(subject, bytes(body)) for _, subject, body in got] == sent
