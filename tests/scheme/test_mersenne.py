"""The Mersenne Twister's algebra against numpy's generator and PyTorch's recorded draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instahide_nb.scheme.mersenne import (
    STATE_BITS,
    WINDOW,
    low_bit_equations,
    low_bits,
    rewind,
    seed_of,
    seeded_window,
    step_back,
)

SEEDS = st.integers(0, 2**32 - 1)


def random_window(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, WINDOW, dtype=np.uint32)


def later(window: np.ndarray, count: int) -> np.ndarray:
    """The window `count` words later by the recurrence, in Python's integers."""
    x = window.tolist()
    for t in range(count):
        y = x[t] & 0x80000000 | x[t + 1] & 0x7FFFFFFF
        x.append(x[t + 397] ^ y >> 1 ^ (0x9908B0DF if y & 1 else 0))
    return np.array(x[count:], np.uint32)


@given(SEEDS)
@settings(max_examples=15)
def test_low_bits_are_those_of_a_seeded_generator(seed: int) -> None:
    words = np.random.RandomState(seed).randint(0, 2**32, size=1500, dtype=np.uint32)
    assert (low_bits(seeded_window(seed), 0, 1500) == words & 1).all()
    assert (low_bits(seeded_window(seed), 700, 1500) == words[700:] & 1).all()


@given(SEEDS)
@settings(max_examples=15)
def test_the_seed_is_read_from_a_window_without_its_dead_bits(seed: int) -> None:
    window = seeded_window(seed)
    window[0] ^= np.uint32(0x12345678)  # 31 bits that no output depends on
    assert seed_of(window) == seed
    for place in (0, 1, 2, 300, WINDOW - 1):
        changed = window.copy()
        changed[place] ^= np.uint32(0x80000000)
        assert seed_of(changed) is None


@pytest.mark.parametrize("drawn", [0, 1, 2, 623, 624, 625, 5000])
def test_rewinding_finds_the_seed_and_the_number_of_words(drawn: int) -> None:
    window = later(seeded_window(99), drawn)
    assert (low_bits(window, 0, 50) == low_bits(seeded_window(99), drawn, drawn + 50)).all()
    assert (step_back(window, drawn)[1:] == seeded_window(99)[1:]).all()
    window[0] &= np.uint32(0x80000000)
    assert rewind(window, limit=drawn) == (99, drawn)
    assert not drawn or rewind(window, limit=drawn - 1) is None
    assert rewind(random_window(drawn), limit=50_000) is None, "no seed started it"


def test_equations_give_the_low_bits() -> None:
    positions = np.unique([0, 1, 623, 624, *np.random.default_rng(0).integers(0, 300_000, 400)])
    rows, sums = low_bit_equations(positions), low_bit_equations(positions, differences=True)
    for window in (seeded_window(8), random_window(0)):
        bits = low_bits(window, 0, positions[-1] + 2)
        for equations, expected in ((rows, bits[positions]), (sums, bits[positions] ^ bits[positions + 1])):
            parity = np.bitwise_count(equations & window.view(np.uint64)).sum(axis=1) % 2
            assert (parity == expected).all()


def test_no_equation_uses_a_dead_bit() -> None:
    rows = low_bit_equations(np.arange(0, 200_000, 100))
    assert not (rows[:, 0] & np.uint64(0x7FFFFFFF)).any()
    assert int(np.bitwise_count(np.bitwise_or.reduce(rows, axis=0)).sum()) == STATE_BITS
