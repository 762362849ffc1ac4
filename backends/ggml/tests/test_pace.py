"""How much of a prompt is read beside guests that write, on machines of different speeds."""

from __future__ import annotations

import pytest

from wasi_nn_ggml.room.pace import Pace

PLAIN = 20.0


def _steps(pace, token, count, most=512):
    """The durations of so many steps beside one text, where each token of a prompt adds so much,
    and the number of tokens that they read."""
    seconds, read = [], 0
    for _ in range(count):
        reading = pace.most(most, 1)
        seconds.append(PLAIN + token * reading)
        pace.note(seconds[-1], 1, reading)
        read += reading
    return seconds, read


@pytest.fixture
def pace():
    """One that has seen a short prompt and the text after it."""
    pace = Pace()
    pace.note(PLAIN, 1, 0)
    return pace


@pytest.mark.parametrize("token", [0.02, 0.2, 2.0, 13.0, 19.0, 30.0])
def test_a_step_with_a_prompt_is_never_much_slower(pace, token):
    seconds, read = _steps(pace, token, 200)
    assert max(seconds) <= max(2.1 * PLAIN, PLAIN + token)
    # It takes what it may: about a plain step for the prompt.
    assert read >= 180 * min(512, max(1, int(PLAIN / token)))


def test_the_first_step_beside_others_knows_what_a_prompt_alone_took():
    pace = Pace()
    pace.note(80.0, 0, 10)
    pace.note(PLAIN, 1, 0)
    assert _steps(pace, 8.0, 1) == ([PLAIN + 2 * 8.0], 2)


def test_dearer_tokens_are_noticed_within_a_few_steps(pace):
    _steps(pace, 1.0, 50)
    seconds, _ = _steps(pace, 10.0, 10)
    assert max(seconds[5:]) <= 3 * PLAIN


def test_a_step_that_was_disturbed_once_counts_little(pace):
    _steps(pace, 1.0, 50)
    before = pace.most(512, 1)
    pace.note(100 * PLAIN, 1, before)
    _steps(pace, 1.0, 4)
    assert pace.most(512, 1) > 0.9 * before


def test_a_prompt_that_is_read_for_long_leaves_steps_without_it(pace):
    _steps(pace, 13.0, 100)
    # The text has become slower by itself.
    for _ in range(600):
        reading = pace.most(512, 1)
        pace.note(2 * PLAIN + 13.0 * reading, 1, reading)
    assert pace.most(512, 1) == int(2 * PLAIN / 13.0)
