"""The model of MT19937 against numpy's generator and PyTorch's recorded draws."""

import json
from pathlib import Path

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
    tempered_words,
)

SEEDS = st.integers(0, 2**32 - 1)


def numpy_words(generator: np.random.RandomState, count: int) -> np.ndarray:
    return generator.randint(0, 2**32, size=count, dtype=np.uint32)


def pack(window: np.ndarray) -> np.ndarray:
    return window[0::2].astype(np.uint64) | (window[1::2].astype(np.uint64) << np.uint64(32))


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_words_are_those_of_numpy(seed):
    words = numpy_words(np.random.RandomState(seed), 1500)
    np.testing.assert_array_equal(tempered_words(seeded_window(seed), 1500), words)
    np.testing.assert_array_equal(low_bits(seeded_window(seed), 700, 1500), words[700:] & 1)


def test_low_bits_are_the_draws_of_torch_randint():
    entries = json.loads((Path(__file__).with_name("torch_vectors.json")).read_text())["seeds"]
    assert [entry["seed"] for entry in entries] == [0, 42, 2**32 - 1]
    for entry in entries:
        at = 0
        for draw in entry["draws"]:
            if draw["draw"] == "randint2":
                bits = low_bits(seeded_window(entry["seed"]), at, at + draw["size"])
                assert bits.tolist() == draw["numbers"]
            at += draw["size"] - (draw["draw"] == "randperm")


def test_window_of_entropy_is_the_key_before_the_first_word():
    window = np.random.default_rng(3).integers(0, 2**32, WINDOW, dtype=np.uint32)
    generator = np.random.RandomState()
    generator.set_state(("MT19937", window, WINDOW, 0, 0.0))
    np.testing.assert_array_equal(tempered_words(window, 2000), numpy_words(generator, 2000))


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_seed_is_read_from_the_window_without_its_dead_bits(seed):
    window = seeded_window(seed)
    window[0] ^= np.uint32(0x12345678)  # 31 bits that no word depends on
    assert seed_of(window) == seed


@pytest.mark.parametrize("place", [0, 1, 2, 300, WINDOW - 1])
def test_a_window_that_no_seed_makes_has_no_seed(place):
    window = seeded_window(11)
    window[place] ^= np.uint32(0x80000000)
    assert seed_of(window) is None


@pytest.mark.parametrize("drawn", [0, 1, 2, 623, 624, 625, 5000])
def test_rewinding_finds_seed_and_number_of_words(drawn):
    """A window `drawn` words later: the sequence x(drawn) .. x(drawn + 623)."""
    sequence = np.concatenate([seeded_window(99), np.empty(drawn, np.uint32)])
    for t in range(drawn):
        joined = (int(sequence[t]) & 0x80000000) | (int(sequence[t + 1]) & 0x7FFFFFFF)
        sequence[t + WINDOW] = sequence[t + 397] ^ (joined >> 1) ^ (0x9908B0DF if joined & 1 else 0)
    later = sequence[drawn:]
    np.testing.assert_array_equal(
        tempered_words(later, 50), tempered_words(seeded_window(99), drawn + 50)[drawn:]
    )
    later[0] &= np.uint32(0x80000000)
    assert rewind(later, limit=drawn) == (99, drawn)
    if drawn:
        assert rewind(later, limit=drawn - 1) is None


def test_rewinding_an_unseeded_generator_finds_nothing():
    window = np.random.default_rng(5).integers(0, 2**32, WINDOW, dtype=np.uint32)
    assert rewind(window, limit=200_000) is None


def test_equations_give_the_low_bits():
    rng = np.random.default_rng(0)
    positions = np.unique(np.concatenate([[0, 1, 623, 624], rng.integers(0, 300_000, 400)]))
    rows = low_bit_equations(positions)
    for window in (seeded_window(8), rng.integers(0, 2**32, WINDOW, dtype=np.uint32)):
        parity = np.bitwise_count(rows & pack(window)).sum(axis=1) % 2
        np.testing.assert_array_equal(parity, low_bits(window, 0, positions[-1] + 1)[positions])


def test_differences_are_sums_of_two_equations():
    places = np.array([0, 1, 5, 622, 623, 624, 9_999])
    both = low_bit_equations(np.unique(np.concatenate([places, places + 1])))
    at = np.searchsorted(np.unique(np.concatenate([places, places + 1])), places)
    np.testing.assert_array_equal(low_bit_equations(places, differences=True), both[at] ^ both[at + 1])


def test_no_equation_uses_a_dead_bit():
    rows = low_bit_equations(np.arange(0, 200_000, 100))
    assert not (rows[:, 0] & np.uint64(0x7FFFFFFF)).any()
    assert int(np.bitwise_count(np.bitwise_or.reduce(rows, axis=0)).sum()) == STATE_BITS


def test_positions_must_ascend():
    with pytest.raises(ValueError, match="ascend"):
        low_bit_equations(np.array([3, 2]))
    with pytest.raises(ValueError, match="ascend"):
        low_bit_equations(np.array([-1, 2]))
    assert low_bit_equations(np.empty(0, np.int64)).shape == (0, WINDOW // 2)
