"""A backend's config is read with the types and ranges that its keys need."""

from __future__ import annotations

import enum

import numpy as np
import pytest

from wasi_nn.backend import config
from wasi_nn.errors import InvalidArgument


def test_a_missing_key_has_its_default_even_out_of_range():
    assert config.whole_number({}, "n", -1, 0, 9) == -1
    assert config.number({}, "x", 0.5) == 0.5
    assert config.flag({}, "f", True) is True
    assert config.text({}, "t") == ""
    assert config.choice({}, "c", ["first", "second"]) == "first"


def test_values_of_the_right_type_are_given_back():
    given = {"n": 7, "x": 2, "f": False, "t": "text", "c": 3}
    assert config.whole_number(given, "n", 0) == 7
    assert config.number(given, "x", 0.5) == 2.0
    assert config.flag(given, "f", True) is False
    assert config.text(given, "t") == "text"
    assert config.choice(given, "c", (1, 3)) == 3


def test_values_of_a_program_may_have_a_subclass_of_their_type():
    class Number(enum.IntEnum):
        THREE = 3

    class Text(str, enum.Enum):
        ON = "on"

    given = {"n": Number.THREE, "x": np.float64(0.5), "t": Text.ON}
    assert config.whole_number(given, "n", 0) == config.choice(given, "n", (1, 3)) == 3
    assert config.number(given, "x", 0.0) == 0.5
    assert config.text(given, "t") == config.choice(given, "t", ("off", "on")) == "on"


@pytest.mark.parametrize("value", [None, True, 1.0, "1", [1], 10**400, -1, 8])
def test_a_whole_number_is_an_integer_in_its_range(value):
    with pytest.raises(InvalidArgument, match="config 'n' must be a whole number"):
        config.whole_number({"n": value}, "n", 0, 0, 7)


@pytest.mark.parametrize("value", [None, True, "1", 10**400, float("inf"), float("nan"), -1])
def test_a_number_is_finite_and_in_its_range(value):
    with pytest.raises(InvalidArgument, match="config 'x' must be a number"):
        config.number({"x": value}, "x", 0.5, 0)


@pytest.mark.parametrize("value", [1, "half \ud800", "a\0b"])
def test_a_text_is_unicode_without_nul(value):
    with pytest.raises(InvalidArgument, match="config 't'"):
        config.text({"t": value}, "t")


@pytest.mark.parametrize("value", [True, 1.0, "1", 2, [1]])
def test_a_choice_has_the_type_of_the_choices(value):
    with pytest.raises(InvalidArgument, match="config 'c' must be one of 1, 3"):
        config.choice({"c": value}, "c", (1, 3))


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(InvalidArgument) as raised:
        config.flag({"f": "x" * 100_000}, "f", True)
    assert len(str(raised.value)) < 100
