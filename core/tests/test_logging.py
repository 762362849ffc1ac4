"""``wasi:logging/logging``, with which guests for WasmEdge log."""

from __future__ import annotations

import re

import pytest

GUEST = """(module
  (import "wasi:logging/logging" "log" (func $log (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "stdout")
  (data (i32.const 16) "stderr")
  (data (i32.const 32) "guest/../file")
  (data (i32.const 64) "hello")
  (func (export "_start") CALL))"""


def logged(host, wat, *numbers):
    call = "(call $log " + " ".join(f"(i32.const {number})" for number in numbers) + ")"
    result = host.run(wat(GUEST.replace("CALL", call))).check()
    return result.stdout.decode(), result.stderr.decode()


@pytest.mark.parametrize(
    ("level", "name"), [(0, "trace"), (2, "info"), (3, "warning"), (5, "critical"), (77, "77")]
)
def test_a_line_has_the_time_and_the_level(host, wat, level, name):
    out, err = logged(host, wat, level, 0, 6, 64, 5)
    assert re.fullmatch(rf"\[\d{{4}}-\d\d-\d\d [\d:]+\.\d{{3}}\] \[{name}\] hello\n", out)
    assert err == ""


def test_the_context_says_where_it_goes(host, wat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, err = logged(host, wat, 2, 16, 6, 64, 5)
    assert (out, err.endswith("[info] hello\n")) == ("", True)
    out, _ = logged(host, wat, 2, 0, 0, 64, 5)
    assert out.endswith("[info] hello\n")
    # WasmEdge would write to a file of this name.
    out, _ = logged(host, wat, 2, 32, 13, 64, 5)
    assert out.endswith("[info] guest/../file: hello\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("at", [(0, 6, 65536, 1), (65536, 6, 64, 5), (0, 0xFFFFFFFF, 64, 5)])
def test_texts_outside_the_memory_are_not_written(host, wat, caplog, at):
    assert logged(host, wat, 2, *at) == ("", "")
    assert "log: " in caplog.text
