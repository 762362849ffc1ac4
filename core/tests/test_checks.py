"""What a backend gives is checked, its failures carry its name, and text is escaped."""

from __future__ import annotations

import logging

import pytest

from wasi_nn import Host, Tensor, TensorInfo, TensorType, hookimpl
from wasi_nn.backend import Backend, ExecutionContext, Graph
from wasi_nn.errors import GuestTrap, RuntimeFailure
from wasi_nn.escaping import MAX_LINE, MAX_LINES, logger, visible, visible_lines
from wasi_nn.plugins import Plugins

F32 = TensorType.F32
DATA = memoryview(bytes(16))
EVIL = "\x1b[31mEvil\x1b]0;pwned\x07\nwasi-nn: all good"


def leave():
    raise SystemExit(3)


def fail():
    raise ValueError(EVIL)


class Giving(ExecutionContext):
    def __init__(self, give):
        self.give = give

    def set_input(self, key, tensor): ...

    def compute(self): ...

    def get_output(self, key):
        return self.give()


class GivingGraph(Graph):
    def __init__(self, give):
        self.give = give

    @property
    def outputs(self):
        return [TensorInfo("y", F32, (1, 4))]

    def init_execution_context(self, reserve):
        return Giving(self.give)


class GivingBackend(Backend):
    name = "giving"
    encodings = ("giving",)

    def __init__(self, give, load=GivingGraph):
        self.give, self.loads = give, load

    def load(self, builders, options):
        return self.loads(self.give)


class Plugin:
    def __init__(self, *backends):
        self.backends = backends

    @hookimpl
    def wasi_nn_backends(self):
        return list(self.backends)


def host(backend) -> Host:
    made = Host()
    made.plugins.register(Plugin(backend), "giving", "wasi-nn-giving", "0.1")
    return made


def output(give):
    with host(GivingBackend(give)).load(b"x", encoding="giving").init_execution_context() as made:
        return made.get_output(0)


def test_a_correct_output_passes():
    assert output(lambda: Tensor(F32, (1, 4), DATA)).shape == (1, 4)


def test_other_dimensions_than_described_pass_if_the_length_fits():
    assert output(lambda: Tensor(F32, (2, 2), DATA)).shape == (2, 2)


@pytest.mark.parametrize(
    ("give", "says"),
    [
        (lambda: Tensor(TensorType.I32, (1, 4), DATA), "has type i32"),
        (lambda: Tensor(F32, (7, 7), DATA), "takes 196 bytes, not 16"),
        (lambda: Tensor(F32, (1, 4), DATA[:8]), "takes 16 bytes, not 8"),
        (lambda: Tensor("f32", (1, 4), DATA), "must be a TensorType"),
        (lambda: Tensor(F32, (-1, -4), DATA), "must be a tuple of whole numbers"),
        (lambda: Tensor(F32, [1, 4], DATA), "must be a tuple of whole numbers"),
        (lambda: Tensor(F32, (1, 4), bytes(16)), "must be a memoryview"),
        (lambda: Tensor(F32, (1, 4), DATA.cast("f")), "items of 4 bytes"),
        (lambda: Tensor(F32, (2, 2), memoryview(bytes(32))[::2]), "contiguous"),
        (lambda: bytes(16), "must be a Tensor"),
        (lambda: None, "is None"),
        (leave, "SystemExit: 3"),
    ],
)
def test_a_wrong_output_is_blamed_on_the_backend(give, says):
    with pytest.raises(RuntimeFailure) as caught:
        output(give)
    assert "backend giving (wasi-nn-giving 0.1)" in str(caught.value)
    assert says in str(caught.value)


def test_an_output_that_turns_wrong_later_is_refused():
    gifts = iter([Tensor(F32, (1, 4), DATA), Tensor(F32, (1, 4), DATA[:4])])
    made = host(GivingBackend(lambda: next(gifts))).load(b"x", encoding="giving")
    with made.init_execution_context() as context:
        context.get_output(0)
        with pytest.raises(RuntimeFailure, match="takes 16 bytes, not 4"):
            context.get_output(0)


def test_ctrl_c_passes_through_a_backend():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        output(interrupt)


def test_a_load_that_returns_no_graph_is_blamed_on_the_backend():
    with pytest.raises(RuntimeFailure, match=r"giving \(wasi-nn-giving 0.1\): load gave None, "):
        host(GivingBackend(None, lambda give: None)).load(b"x", encoding="giving")


def test_a_failing_load_keeps_its_traceback_and_cannot_forge_a_line(caplog):
    def load(give):
        fail()

    with caplog.at_level(logging.ERROR, "wasi_nn"), pytest.raises(RuntimeFailure) as caught:
        host(GivingBackend(None, load)).load(b"x", encoding="giving")
    assert "\x1b" not in caplog.text + str(caught.value)
    assert "in fail" in caplog.text
    assert "\\x1b[31mEvil" in str(caught.value)
    assert not any(line.startswith("wasi-nn:") for line in caplog.text.splitlines())


def test_two_backends_of_one_name_in_one_plugin_are_refused():
    plugins = Plugins()
    plugins.register(Plugin(GivingBackend(None), GivingBackend(None)), "twice")
    assert "two backends named 'giving'" in str(plugins.records[0].error)
    assert not plugins.backends


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, "\\x1b[31mEvil\\x1b]0;pwned\\x07; wasi-nn: all good"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("half \udc80", "half \\udc80"),
        ("a\u2028b", "a\\u2028b"),
        ("Check failed:\r\n  why", "Check failed: why"),
        ("ü 😀 C:\\new\u00a0x", "ü 😀 C:\\new\u00a0x"),
        ("", ""),
        ("\n", ""),
        ("a\tb", "a\\tb"),
        ("  a\x1b", "  a\\x1b"),
        ("a\u200b\u200c\u200db\ufe0fc", "a\\u200b\\u200c\\u200db\\ufe0fc"),
        # Letters to Python, and nothing to the eye.
        ("a\u115fb\u3164", "a\\u115fb\\u3164"),
        ("a\U000e0041", "a\\U000e0041"),
        ("x" * 3000, "x" * 1482 + "  … (3000 characters) … " + "x" * 494),
    ],
)
def test_text_from_outside_is_one_visible_line(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown
    assert str(RuntimeFailure(text)) == shown


def test_a_traps_lines_are_kept_and_indented():
    assert str(GuestTrap("stack\nwasi-nn: ok\x1b")) == "stack\n  wasi-nn: ok\\x1b"
    assert visible_lines("a\n\n  b\n") == "a\n  b"


@pytest.mark.parametrize("text", ["\x1b" * 100_000, "a\n" * 100_000, "\x1b\n" * 30_000])
def test_a_long_text_is_shortened_once(text):
    for show, most in ((visible, MAX_LINE), (visible_lines, MAX_LINES)):
        shown = show(text)
        assert len(shown) <= most
        assert f"({len(text)} characters)" in shown
        assert show(shown) == shown


def test_a_log_is_escaped_for_every_handler(caplog):
    log = logger("wasi_nn")
    assert logger("wasi_nn") is log
    with caplog.at_level(logging.INFO, "wasi_nn"):
        log.info("a name: %s", EVIL)
        log.info("%d calls", 3)
        try:
            fail()
        except ValueError:
            log.exception("it failed: %s", EVIL)
    assert caplog.messages[0] == "a name: \\x1b[31mEvil\\x1b]0;pwned\\x07\n  wasi-nn: all good"
    assert caplog.records[1].args == (3,)
    assert "in fail" in caplog.messages[2]
    assert "\x1b" not in caplog.text
    assert "\nwasi-nn:" not in caplog.text
    assert len(log.filters) == 1
