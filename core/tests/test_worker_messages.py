"""What the host and a worker send each other."""

from __future__ import annotations

import socket
import threading

import pytest

from wasi_nn._session.ledger import Ledger, Reservation
from wasi_nn._worker import asking
from wasi_nn._worker.asking import BLOCK, Account
from wasi_nn._worker.messages import ERROR, I64, OK, Channel, as_json
from wasi_nn._worker.patience import Patience
from wasi_nn.errors import QuotaExceeded, RuntimeFailure
from wasi_nn.limits import Limits


@pytest.fixture
def channels():
    ours, theirs = socket.socketpair()
    pair = Channel(ours, endable=True), Channel(theirs)
    yield pair
    for one in pair:
        one.close()


def test_a_wait_looks_less_and_less_often_while_it_looks_in_vain():
    patience = Patience()

    def sleeps(found: bool = False) -> int:
        """How many waits sleep at once until one looks."""
        looks: list[int] = []

        def ready(wait: int) -> bool:
            looks.append(wait)
            return found

        for count in range(2000):
            patience.look(ready)
            if looks:
                return count
        raise AssertionError("no wait looks any more")

    # (The first messages load a graph and open a context.)
    assert [sleeps() for _ in range(5)] == [2, 1, 3, 7, 15]
    assert [sleeps(found=True) for _ in range(4)] == [31, 0, 0, 0]
    assert [sleeps() for _ in range(2)] == [0, 3]


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


class _Counting:
    """A host that counts what a worker's context reserves, and how often it is asked."""

    def __init__(self, channel: Channel, limit: int) -> None:
        self.ledger = Ledger(Limits(host_memory=limit))
        self.asked = 0
        self._channel = channel
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        reservation = Reservation(self.ledger, self)
        while True:
            try:
                _, _, body = self._channel.receive()
            except EOFError:
                return
            self.asked += 1
            try:
                reservation.reserve(*I64.unpack(body))
            except QuotaExceeded as error:
                self._channel.send(ERROR, 0, as_json(str(error)))
            else:
                self._channel.send(OK)


@pytest.fixture
def counting(channels, monkeypatch):
    channel, other = channels
    monkeypatch.setattr(asking.here, "channel", other)
    return lambda limit: _Counting(channel, limit)


def test_a_context_asks_once_for_many_small_reservations(counting):
    host, account = counting(1 << 30), Account()
    for _ in range(BLOCK):
        account.reserve(1)
    assert host.asked == 1
    assert BLOCK <= host.ledger.reserved <= 2 * BLOCK


def test_a_context_takes_every_byte_below_the_limit_and_none_above(counting):
    limit = 3 * BLOCK + 7
    host, account = counting(limit), Account()
    for taken in range(100, limit, 100):
        account.reserve(100)
        assert taken <= host.ledger.reserved <= limit
    with pytest.raises(RuntimeFailure, match="host holds"):
        account.reserve(100)
    account.reserve(limit % 100)
    with pytest.raises(RuntimeFailure, match="host holds"):
        account.reserve(1)
    assert host.ledger.reserved == limit


def test_what_a_context_gives_back_is_the_guests_again(counting):
    host, account = counting(1 << 30), Account()
    for size in (50 * BLOCK, BLOCK // 2, 9 * BLOCK):
        account.reserve(size)
        account.reserve(-size)
        assert host.ledger.reserved <= 2 * BLOCK
