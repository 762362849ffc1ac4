"""A worker that several guests share dies: those that did not end it go on.

The model says its prompt again, word by word (plugins/parrot.py). The word ``abort`` ends its
process."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from wasi_nn import Host, Limits, Policy
from wasi_nn._worker import messages, remote, seat
from wasi_nn._worker.steps import AT_WORK, WAITING, Mark
from wasi_nn.errors import (
    EndOfSequence,
    InvalidArgument,
    RuntimeFailure,
)
from wasi_nn.types import Tensor, TensorType

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="workers run on Linux: os.memfd_create is missing"
)


@pytest.fixture(scope="module")
def parrot():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "plugins")
        yield importlib.import_module("parrot")


@pytest.fixture
def host(parrot, tmp_path):
    with parrot.new_host(tmp_path) as host:
        yield host


def text(data: str) -> Tensor:
    raw = data.encode()
    return Tensor(TensorType.U8, (len(raw),), memoryview(raw))


class Bird:
    """A guest with one context."""

    def __init__(self, parrot, host: Host, limits: Limits | None = None) -> None:
        self.session = host.open_session(limits)
        self.context = parrot.opened(self.session)
        self.printed: list[bytes] = []
        self.context.context.stdout = self.printed.append

    @property
    def process(self) -> int:
        return next(iter(self.session.graphs.values())).worker.process

    def kill(self) -> None:
        worker = next(iter(self.session.graphs.values())).worker
        os.kill(worker.process, signal.SIGKILL)
        while not worker.lost:
            time.sleep(0.001)

    def prompt(self, words: str) -> None:
        self.context.set_input(0, text(words))

    def whole(self) -> str:
        self.context.compute()
        return self.read()

    def read(self) -> str:
        return bytes(self.context.get_output(0).data).decode()

    def piece(self) -> str:
        self.context.compute_single()
        return bytes(self.context.get_output_single(0).data).decode()

    def stream(self) -> str:
        pieces = []
        try:
            while True:
                pieces.append(self.piece())
        except EndOfSequence:
            return "".join(pieces)


@pytest.fixture
def birds(parrot, host):
    """Makes guests of one model."""
    made = []

    def bird(limits: Limits | None = None) -> Bird:
        made.append(Bird(parrot, host, limits))
        return made[-1]

    yield bird
    for one in made:
        one.session.close()


def together(*work) -> list:
    """The results of functions that run at the same time, or what they raise."""
    results = [None] * len(work)

    def run(index: int) -> None:
        try:
            results[index] = work[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def words(count: int, name: str = "w") -> str:
    return " ".join(f"{name}{number}" for number in range(count))


def test_a_guest_between_two_texts_does_not_notice_that_the_worker_has_died(birds):
    bird = birds()
    bird.prompt("a b c")
    assert bird.whole() == "a b c "
    before = bird.process
    bird.kill()
    bird.prompt("d e")
    assert bird.whole() == "d e "
    assert bird.process != before


def test_a_text_that_was_computed_can_be_read_after_the_death(birds):
    bird = birds()
    bird.prompt("a b c")
    bird.context.compute()
    bird.kill()
    assert bird.read() == "a b c "
    bird.kill()
    assert bird.read() == "a b c "
    assert bird.whole() == "a b c "


def test_a_stream_goes_on_where_it_was(birds):
    bird = birds()
    bird.prompt("a b c d e")
    assert [bird.piece(), bird.piece()] == ["a ", "b "]
    bird.kill()
    assert bird.piece() == "c "
    bird.kill()
    assert bird.stream() == "d e "
    assert bird.read() == "a b c d e "
    with pytest.raises(EndOfSequence):
        bird.context.compute_single()


def test_a_new_text_begins_after_a_stream_that_was_ended(birds):
    bird = birds()
    bird.prompt("a b c")
    bird.piece()
    bird.context.fini_single()
    bird.kill()
    assert bird.stream() == "a b c "


def test_configs_have_their_effect_again_in_order(birds):
    bird = birds()
    bird.context.set_input(1, text('{"before": "<", "after": ">"}'))
    bird.context.set_input(1, text('{"after": "] "}'))
    bird.prompt("a b " + "x" * 5000)
    assert bird.piece() == "<a] "
    bird.kill()
    assert bird.piece() == "<b] "
    bird.context.set_input(1, text('{"before": "("}'))
    bird.kill()
    assert bird.piece() == "(" + "x" * 5000 + "] "


def test_a_refused_input_is_not_set_again(birds):
    bird = birds()
    bird.prompt("a b")
    with pytest.raises(InvalidArgument):
        bird.prompt("")
    bird.kill()
    assert bird.whole() == "a b "


def test_four_texts_are_the_same_with_and_without_a_death(birds):
    four = [birds() for _ in range(4)]
    for number, bird in enumerate(four):
        bird.prompt(words(60, f"g{number}w"))
    process = four[0].process

    def kill() -> None:
        while not four[0].context.context._seat.journal.text:
            time.sleep(0.001)
        time.sleep(0.03)
        os.kill(process, signal.SIGKILL)

    *texts, _ = together(*(bird.stream for bird in four), kill)
    assert texts == [words(60, f"g{number}w") + " " for number in range(4)]
    assert {bird.process for bird in four} != {process}
    assert len({bird.process for bird in four}) == 1


def test_a_computation_that_is_made_again_prints_nothing_twice(birds):
    bird, other = birds(), birds()
    bird.prompt(words(60))

    def kill() -> None:
        while len(bird.printed) < 10:
            time.sleep(0.001)
        other.kill()

    text, _ = together(bird.whole, kill)
    assert text == b"".join(bird.printed).decode() == words(60) + " "


def test_the_guest_whose_text_ends_the_worker_gets_the_errno_and_the_others_go_on(birds, caplog):
    culprit, *others = (birds() for _ in range(4))
    for bird in others:
        bird.prompt(words(40))
    culprit.prompt("a b abort c")
    error, *texts = together(culprit.stream, *(bird.stream for bird in others))
    assert isinstance(error, RuntimeFailure)
    assert "SIGABRT" in str(error)
    assert "This guest has ended it" in str(error)
    assert texts == [words(40) + " "] * 3
    # It stays so, and costs nobody another worker.
    process = others[0].process
    with pytest.raises(RuntimeFailure, match="This guest has ended it"):
        culprit.context.compute_single()
    assert others[0].process == process
    assert "goes on in another worker" in caplog.text


def test_a_guest_whose_input_ends_the_worker_gets_the_errno(birds):
    culprit, other = birds(), birds()
    other.prompt("a b")
    assert other.piece() == "a "
    with pytest.raises(RuntimeFailure, match="This guest has ended it"):
        culprit.prompt("abort-set")
    assert other.piece() == "b "


def test_a_guest_that_ends_workers_again_and_again_gets_no_further_context(parrot, birds):
    culprit, other = birds(), birds()
    other.prompt(words(3))
    for _ in range(3):
        with pytest.raises(RuntimeFailure, match="This guest has ended it"):
            culprit.prompt("abort-set")
        culprit.session.finalize_execution_context(next(iter(culprit.session.contexts)))
        if _ < 2:
            handle = culprit.session.init_execution_context(0)
            culprit.context = culprit.session.contexts[handle]
    with pytest.raises(RuntimeFailure, match="has ended a worker 3 times"):
        culprit.session.init_execution_context(0)
    with pytest.raises(RuntimeFailure, match="has ended a worker 3 times"):
        culprit.session.load_by_name("bird")
    assert other.stream() == words(3) + " "


def test_a_guest_whose_config_ends_the_worker_at_the_load_gets_the_errno(birds):
    culprit, other = birds(), birds()
    other.prompt("a b")
    for _ in range(3):
        with pytest.raises(RuntimeFailure, match="SIGABRT"):
            culprit.session.load_by_name("bird", {"abort": True})
    with pytest.raises(RuntimeFailure, match="has ended a worker 3 times"):
        culprit.session.load_by_name("bird", {"abort": True})
    assert other.stream() == "a b "


def test_a_model_that_ends_the_worker_at_its_load_is_not_loaded_without_end(birds, monkeypatch):
    bird = birds()
    bird.prompt("a b")
    graph = next(iter(bird.session.graphs.values())).home
    monkeypatch.setattr(graph, "_options", graph._options._replace(config={"abort": True}))
    started = []
    restart = graph._restart
    monkeypatch.setattr(graph, "_restart", lambda stopped: started.append(1) or restart(stopped))
    bird.kill()
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="cannot be loaded again"):
            bird.piece()
    assert len(started) == remote._MAX_LOADS
    # The next guest tries it anew.
    assert graph.lost
    new = birds()
    new.prompt("a")
    assert new.whole() == "a "


def test_a_model_whose_files_have_changed_does_not_go_on_with_the_new_ones(birds, tmp_path):
    bird = birds()
    bird.prompt("a b")
    bird.piece()
    bird.kill()
    (tmp_path / "model.parrot").write_bytes(b"another")
    with pytest.raises(RuntimeFailure, match="files have changed"):
        bird.piece()


def test_a_new_guest_and_an_old_one_share_the_graph_that_was_loaded_again(birds):
    old = birds()
    old.prompt("a b")
    old.piece()
    old.kill()
    new = birds()
    new.prompt("c")
    assert new.whole() == "c "
    assert old.piece() == "b "
    assert old.process == new.process
    assert new.session.graphs[0] is old.session.graphs[0]


def test_a_cancelled_guest_is_not_made_again(birds):
    bird, other = birds(), birds()
    bird.prompt("a b")
    bird.piece()
    bird.session.cancel()
    bird.kill()
    with pytest.raises(RuntimeFailure, match="has ended: SIGKILL"):
        bird.context.context.compute_single()
    other.prompt("a")
    assert other.whole() == "a "


def test_a_guest_that_is_cancelled_while_another_loads_the_model_again_ends_at_once(
    birds, monkeypatch
):
    bird = birds()
    bird.prompt("a b")
    bird.piece()
    graph = next(iter(bird.session.graphs.values())).home
    bird.kill()
    with graph._lock:
        waiting = threading.Thread(target=together, args=(bird.piece,))
        waiting.start()
        bird.session.cancel()
        waiting.join(5)
        assert not waiting.is_alive()


def test_a_guest_that_is_cancelled_while_its_context_is_made_again_computes_nothing(
    birds, monkeypatch
):
    bird = birds()
    bird.prompt(words(10_000))
    bird.piece()
    bird.kill()
    graph = bird.session.graphs[0].home
    renew = graph.renew

    def cancelled(ended, stopped):
        renew(ended, stopped)
        bird.session.cancel()

    monkeypatch.setattr(graph, "renew", cancelled)
    with pytest.raises(RuntimeFailure, match="stopped"):
        bird.context.context.compute()
    assert not graph.worker.lost


def test_what_a_lost_context_has_reserved_is_given_back(birds):
    bird = birds()
    bird.prompt(words(5))
    bird.stream()
    reserved = bird.session.ledger.reserved
    for _ in range(3):
        bird.kill()
        assert bird.whole() == words(5) + " "
    assert bird.session.ledger.reserved == reserved
    bird.session.finalize_execution_context(0)
    assert bird.session.ledger.reserved < reserved


def test_tokens_are_counted_once(birds):
    bird = birds(Limits(tokens=5))
    bird.prompt(words(9))
    for _ in range(3):
        bird.piece()
    bird.kill()
    bird.piece()
    assert bird.session.generation.tokens == 4
    assert bird.session.meter.tokens == 1


def test_a_text_above_the_guests_limit_is_forgotten_and_goes_on(birds):
    bird = birds(Limits(host_memory=1000 + len(words(30)) + 20))
    bird.prompt(words(30))
    for number in range(30):
        assert bird.piece() == f"w{number} "
    assert not bird.context.context._seat.journal.whole
    bird.kill()
    with pytest.raises(RuntimeFailure, match="has ended: SIGKILL"):
        bird.piece()


def test_configs_without_end_are_forgotten(birds, monkeypatch):
    monkeypatch.setattr("wasi_nn._worker.journal._MAX_TENSORS", 5)
    bird = birds()
    for number in range(5):
        for _ in range(3):
            bird.context.set_input(1, text(f'{{"before": "{number}"}}'))
    assert bird.context.context._seat.journal.whole
    bird.context.set_input(1, text('{"before": "5"}'))
    assert not bird.context.context._seat.journal.whole


def test_what_is_remembered_counts_against_the_guests_limit(birds):
    bird = birds()
    start = bird.session.ledger.reserved
    bird.context.set_input(1, text('{"before": "1"}'))
    one = bird.session.ledger.reserved - start
    bird.context.set_input(1, text('{"before": "2"}'))
    assert bird.session.ledger.reserved - start == 2 * one
    bird.prompt(words(20))
    before = bird.session.ledger.reserved
    bird.stream()
    assert bird.session.ledger.reserved - before == 20


def test_neighbours_that_were_at_work_are_tried_one_after_the_other(birds, monkeypatch):
    """All of a step's contexts are suspects. Only the one that ends a worker alone is guilty."""
    guilty = []
    add = seat.Offences.add
    monkeypatch.setattr(seat.Offences, "add", lambda one: guilty.append(one) or add(one))
    many = [birds() for _ in range(8)]
    for bird in many[1:]:
        bird.prompt(words(20))
    many[0].prompt("a b c abort")
    error, *texts = together(*(bird.stream for bird in many))
    assert isinstance(error, RuntimeFailure)
    assert texts == [words(20) + " "] * 7
    assert guilty == [many[0].session._offences]


@pytest.fixture
def adding():
    """A context that adds two tensors, in a worker that guests share."""
    pytest.importorskip("numpy")
    pytest.importorskip("onnxruntime")
    path = Path(__file__).parents[2] / "conformance/graphs/onnx/add.onnx"
    with Host(policy=Policy(isolation="shared")) as host:
        host.add_model("add", path)
        with host.model("add").init_execution_context() as context:
            yield context


def test_tensors_of_a_graph_without_a_journal_are_set_and_computed_again(adding):
    import numpy as np

    worker = adding._loaded.worker
    for number in range(3):
        adding.set_input(0, np.full((1, 4), number, np.float32))
        adding.set_input(1, np.full((1, 4), 10, np.float32))
        adding.compute()
    os.kill(worker.process, signal.SIGKILL)
    assert adding.get_output(0).tolist() == [[12] * 4]
    adding.set_input(0, np.full((1, 4), 5, np.float32))
    adding.compute()
    assert adding.get_output(0).tolist() == [[15] * 4]
    assert adding._loaded.worker is not worker


def test_an_output_that_nobody_has_read_is_computed_again(adding):
    import numpy as np

    for key in (0, 1):
        adding.set_input(key, np.full((1, 4), 2, np.float32))
    adding.compute()
    os.kill(adding._loaded.worker.process, signal.SIGKILL)
    assert adding.get_output(0).tolist() == [[4] * 4]


def test_a_worker_that_tells_journals_without_end_is_ended(birds):
    bird, other = birds(), birds()
    other.prompt("a b")
    other.piece()
    bird.prompt("chatter")
    with pytest.raises(RuntimeFailure, match="what no worker sends"):
        bird.piece()
    assert other.piece() == "b "


def test_a_text_of_a_backend_without_a_journal_does_not_begin_again(birds, monkeypatch):
    bird = birds()
    # The worker says so when it opens the context.
    graph = bird.session.graphs[0].home
    bird.kill()
    bird.prompt("a")
    worker = graph.worker
    call = worker.call

    def without_journal(kind, *arguments, **options):
        answer = call(kind, *arguments, **options)
        if kind == messages.OPEN:
            return memoryview(bytes(answer).replace(b'"journals": true', b'"journals": false'))
        return answer

    monkeypatch.setattr(worker, "call", without_journal)
    other = birds()
    other.prompt("a b")
    other.piece()
    other.kill()
    with pytest.raises(RuntimeFailure, match="has ended: SIGKILL"):
        other.piece()


def test_a_graph_counts_nothing_until_a_guest_uses_it_again(birds, caplog):
    bird = birds()
    bird.prompt("a b")
    bird.piece()
    graph = bird.session.graphs[0]
    assert graph.statistics()["steps"] == 1
    bird.kill()
    assert graph.statistics() == {}
    assert "does not count" not in caplog.text
    bird.piece()
    assert graph.statistics()["steps"] == 1


def test_a_guests_own_model_is_not_loaded_again(parrot, tmp_path):
    with parrot.new_host(tmp_path, isolation="guest") as host, host.open_session() as session:
        context = parrot.opened(session)
        context.set_input(0, text("a b"))
        os.kill(session.graphs[0].worker.process, signal.SIGKILL)
        with pytest.raises(RuntimeFailure, match="has ended: SIGKILL"):
            context.compute()
        with pytest.raises(RuntimeFailure, match="has ended: SIGKILL"):
            context.compute()


def test_a_step_that_computes_ahead_outlasts_its_request():
    byte = memoryview(bytearray(1))
    mark = Mark(byte, 0, alone=False)
    mark.request(True)
    mark(False)
    assert byte[0] == WAITING
    mark(True)
    mark.request(False)
    assert byte[0] == AT_WORK
    mark(False)
    assert byte[0] == WAITING
