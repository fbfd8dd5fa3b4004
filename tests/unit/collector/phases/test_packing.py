"""Packing loses nothing: a number comes back with the bits it was packed with."""

import math
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.phases.packing import packed, short, unpacked

SQUARABLE = st.floats(-1e300, 1e300)


def bits(numbers: list[float]) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


@given(st.lists(st.floats()))
def test_any_number_comes_back_to_the_bit(numbers: list[float]) -> None:
    assert bits(unpacked(packed(numbers))) == bits(numbers)


@given(st.lists(SQUARABLE))
def test_a_short_number_comes_back_to_the_bit_from_seven_characters(numbers: list[float]) -> None:
    shortened = [short(number) for number in numbers]
    text = packed(shortened, are_short=True)
    assert bits(unpacked(text, are_short=True)) == bits(shortened)
    assert len(text) <= 7 * len(numbers) + 3


@given(SQUARABLE)
def test_a_short_number_has_eight_digits_and_is_not_shortened_again(number: float) -> None:
    once = short(number)
    assert once == pytest.approx(number, rel=2.0**-24, abs=sys.float_info.min)
    assert short(once) == once
    assert short(-number) == -once


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, 2.2e-308, -1e-320, 0.0])
def test_what_is_too_small_to_be_told_from_zero_is_zero_before_and_after(tiny: float) -> None:
    assert unpacked(packed([short(tiny)], are_short=True), are_short=True) == [short(tiny)]


def test_infinities_and_not_a_number_are_numbers_to_a_long_column() -> None:
    back = unpacked(packed([math.inf, -math.inf, math.nan, -0.0]))
    assert back[:2] == [math.inf, -math.inf]
    assert math.isnan(back[2])
    assert math.copysign(1.0, back[3]) == -1.0


def test_nothing_is_packed_as_nothing() -> None:
    assert packed([]) == packed([], are_short=True) == ""
    assert unpacked("") == unpacked("", are_short=True) == []
