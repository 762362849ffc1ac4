"""The service of docs/services.md, and what the page says."""

from __future__ import annotations

import importlib.util
import queue
import re
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn import Host, Limits

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/services.md").read_text()
SERVICE = ROOT / "docs/examples/service/service.py"
# A bound against a hang, in seconds.
_HANG = 60


@pytest.fixture
def service(plugins, guests):
    needs("xllamacpp")
    needs("prometheus_client")
    spec = importlib.util.spec_from_file_location("service_of_the_docs", SERVICE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.Handler.log_message = lambda *_: None
    with Host(plugins=plugins, limits=Limits(tokens=3)) as host:
        host.add_model("chat", ROOT / "conformance/graphs/ggml/tiny.gguf")
        with module.Service(0, host, str(guests / "chat/chat.wasm"), jobs=2) as made:
            thread = threading.Thread(target=made.serve_forever)
            thread.start()
            yield made
            made.shutdown()
            thread.join(_HANG)
    assert not made.worker.is_alive()


def ask(service, text=None):
    address = f"http://127.0.0.1:{service.server_address[1]}"
    try:
        with urllib.request.urlopen(address, text, timeout=_HANG) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_service_answers_and_counts(service):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(service, b"once upon"), range(4)))
    assert [status for status, _ in answers] == [200] * 4
    status, metrics = ask(service)
    assert status == 200
    ended = re.findall(r'^wasi_nn_runs_total\{outcome="\w+"\} (\d)', metrics, re.M)
    assert sum(map(int, ended)) == 4


def test_a_full_queue_is_an_answer(service):
    full, kept = queue.Queue(1), service.questions
    full.put(None)
    service.questions = full
    try:
        assert ask(service, b"once") == (503, "busy\n")
    finally:
        service.questions = kept


def test_the_code_of_the_page_is_the_examples():
    text = SERVICE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)
    shown = [block for block in blocks if "self" in block and "Observer" not in block]
    assert len(shown) == 3
    for block in (*shown, re.search(r"^class Question.*?\n\n\n.*?\n(?=```)", PAGE, re.S | re.M)[0]):
        assert block in text, block


def test_the_page_lists_the_metrics(host):
    needs("prometheus_client")
    from wasi_nn.prometheus import Collector

    rows = ["| metric | labels | |", "| --- | --- | --- |"]
    for metric in Collector(host).describe():
        name = metric.name + "_total" * (metric.type == "counter")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames or ())
        rows.append(f"| `{name}` | {labels} | {metric.documentation} |".replace("|  |", "| |"))
    expected = "\n".join(rows)
    found = re.search(r"<!-- metrics -->\n(.*?)\n?<!-- end -->", PAGE, re.S)
    assert found[1] == expected, f"docs/services.md must have:\n{expected}"
