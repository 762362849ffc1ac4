"""A guest that serves a language model over HTTP."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import needs

from wasi_nn import Guest, Host, Policy, RunResult
from wasi_nn_conformance.engine_tests.common import together

needs("xllamacpp")
needs("wasmtime")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
_HANG = 60
_HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


class Server:
    """The guest in a thread, with the tiny model."""

    def __init__(self, host: Host, guest: Path) -> None:
        lines: queue.Queue[bytes] = queue.Queue()
        guests: list[Guest] = []
        self.results: list[RunResult] = []

        def run() -> None:
            policy = Policy(listen=("127.0.0.1:0",))
            arguments = ["127.0.0.1", "0", "tiny"]
            self.results.append(
                host.run(guest, arguments, policy=policy, stdout=lines.put, on_start=guests.append)
            )

        self._thread = threading.Thread(target=run)
        self._thread.start()
        self.port = int(lines.get(timeout=_HANG).split(b":")[1])
        self._guests = guests

    def end(self) -> RunResult:
        self._guests[0].interrupt()
        self._thread.join(_HANG)
        return self.results[0]

    def ask(self, **more: Any) -> tuple[int, bytes]:
        """The status and the body of the response to a question."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=_HANG)) as peer:
            peer.request("POST", "/v1/chat/completions", json.dumps({**_HELLO, **more}))
            with peer.getresponse() as response:
                return response.status, response.read()

    def answer(self, **more: Any) -> dict[str, Any]:
        status, body = self.ask(**more)
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def events(self, **more: Any) -> list[Any]:
        """The events of a stream, without the last one."""
        texts = self.ask(stream=True, **more)[1].decode().split("\n\n")
        assert texts[-2:] == ["data: [DONE]", ""]
        return [json.loads(text.removeprefix("data: ")) for text in texts[:-2]]


@pytest.fixture
def server(host: Host, guests: Path) -> Iterator[Server]:
    config = {"temp": 0.0, "threads": 1, "ctx-size": 1500}
    host.add_model("tiny", TINY, config=config)
    made = Server(host, guests / "chat-server" / "chat-server.wasm")
    yield made
    made.end()


def test_an_answer_and_a_stream_have_the_same_text(server):
    answer = server.answer()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8 > 8
    events = server.events()
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == choice["message"]["content"]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_several_ask_at_the_same_time(server):
    expected = server.answer()["choices"]
    answers: list[Any] = []

    def ask() -> None:
        for _ in range(5):
            answers.append(server.answer()["choices"])
            assert len(server.events()) > 2

    together([ask] * 4)
    assert answers == [expected] * 20


def test_a_request_has_its_own_temperature(server):
    cold, *hot = (server.answer(temperature=t)["choices"] for t in (0.0, *[1.5] * 8))
    # One of them may be the cold text by chance.
    assert any(choices != cold for choices in hot)
    assert server.answer()["choices"] == cold


def test_a_peer_that_goes_frees_the_model(server):
    """In the middle of its stream, and before its answer."""
    for stream in (True, False):
        body = json.dumps({**_HELLO, "stream": stream, "max_tokens": 10_000})
        with socket.create_connection(("127.0.0.1", server.port), timeout=_HANG) as peer:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            peer.sendall(f"{head}{body}".encode())
            if stream:
                assert peer.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
        assert server.answer()["usage"]["completion_tokens"] == 8
    done = server.end().generation
    # Each of their texts would have had more than a thousand.
    assert done.tokens < 1000


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({"messages": []}, 400),
        ({"messages": None}, 400),
        ({"messages": "Hello"}, 400),
        ({"messages": [{"role": "user", "content": "Hello " * 2000}]}, 400),
        ({"temperature": "hot"}, 400),
    ],
)
def test_a_request_that_cannot_be_answered(server, request_of, status):
    found, body = server.ask(**request_of)
    assert found == status
    assert json.loads(body)["error"]["message"]
    assert server.answer()["usage"]["completion_tokens"] == 8


def test_a_long_answer_ends_at_the_context(server):
    answer = server.answer(max_tokens=100_000)
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")
    assert 1000 < answer["usage"]["total_tokens"] < 1600
