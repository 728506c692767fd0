"""The solver over GF(2): small systems against brute force, and the state of a Mersenne Twister."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instahide_nb.attacks.generator.gf2 import Factorisation, factorise, find_errors, parities
from instahide_nb.scheme.mersenne import STATE_BITS, low_bit_equations, low_bits


def pack(matrix: np.ndarray) -> np.ndarray:
    """Rows of 0 and 1 as 64-bit words, column c at bit c % 64."""
    padded = np.zeros((len(matrix), -(-matrix.shape[1] // 64) * 64), np.uint8)
    padded[:, : matrix.shape[1]] = matrix
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def rank_by_hand(matrix: np.ndarray) -> int:
    rows = [int("".join(map(str, row)), 2) for row in matrix.tolist()]
    rank = 0
    while rows:
        row = rows.pop()
        if row:
            rank += 1
            top = row.bit_length()
            rows = [other ^ row if other >> (top - 1) & 1 else other for other in rows]
    return rank


@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.sampled_from([0.02, 0.1, 0.5]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_rank_solution_and_checks(equations, unknowns, density, seed):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((equations, unknowns)) < density).astype(np.uint8)
    right = (matrix @ rng.integers(0, 2, unknowns) % 2).astype(np.uint8)
    packed = pack(matrix)
    system = factorise(packed.copy())
    assert system.rank == rank_by_hand(matrix)
    assert sorted(system.order.tolist()) == list(range(equations))
    assert not system.reduce(right)[1].any()
    np.testing.assert_array_equal(parities(packed, system.solve(right)), right)
    assert find_errors(system, right).size == 0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_every_syndrome_is_that_of_its_equations(seed):
    """The syndrome is linear: that of several wrong equations is the sum of their columns."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 2, (120, 70), dtype=np.uint8)
    system = factorise(pack(matrix))
    column = system.check_columns()
    wrong = rng.choice(120, 5, replace=False)
    right = (matrix @ rng.integers(0, 2, 70) % 2).astype(np.uint8)
    right[wrong] ^= 1
    np.testing.assert_array_equal(system.syndrome(right), np.bitwise_xor.reduce(column[wrong], axis=0))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_wrong_equations_are_located_wherever_they_are(count):
    rng = np.random.default_rng(count)
    matrix = rng.integers(0, 2, (300, 200), dtype=np.uint8)
    system = factorise(pack(matrix))
    right = (matrix @ rng.integers(0, 2, 200) % 2).astype(np.uint8)
    for _ in range(10):
        wrong = np.sort(rng.choice(300, count, replace=False))
        spoilt = right.copy()
        spoilt[wrong] ^= 1
        assert find_errors(system, spoilt).tolist() == wrong.tolist()


@pytest.mark.parametrize("count", [4, 5, 30])
def test_more_than_three_wrong_equations_are_refused(count):
    rng = np.random.default_rng(count)
    matrix = rng.integers(0, 2, (300, 200), dtype=np.uint8)
    right = (matrix @ rng.integers(0, 2, 200) % 2).astype(np.uint8)
    right[rng.choice(300, count, replace=False)] ^= 1
    assert find_errors(factorise(pack(matrix)), right) is None


def test_an_equation_without_a_check_is_never_accused():
    """Unknown 2 is in one equation only: a wrong right-hand side there cannot be seen, and nothing is invented."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], np.uint8)
    system = factorise(pack(matrix))
    assert not system.check_columns()[3].any()
    assert find_errors(system, np.array([1, 0, 1, 1], np.uint8)).size == 0


def test_all_pairs_of_a_small_code():
    """Errors are reported as they are when no other set of so few explains the checks."""
    rng = np.random.default_rng(9)
    matrix = rng.integers(0, 2, (40, 12), dtype=np.uint8)
    system = factorise(pack(matrix))
    for pair in itertools.combinations(range(0, 40, 3), 2):
        right = np.zeros(40, np.uint8)
        right[list(pair)] = 1
        assert find_errors(system, right).tolist() == list(pair)


WINDOW_OF_ENTROPY = np.random.default_rng(17).integers(0, 2**32, 624, dtype=np.uint32)
DEAD_BITS = np.uint32(0x7FFFFFFF)


@pytest.fixture(scope="module")
def scattered() -> tuple[Factorisation, np.ndarray, np.ndarray]:
    """20,000 places among the fifteen million words of a challenge, and their true low bits."""
    positions = np.sort(np.random.default_rng(1).choice(15_600_000, 20_000, replace=False))
    bits = low_bits(WINDOW_OF_ENTROPY, 0, int(positions[-1]) + 1)[positions]
    return factorise(low_bit_equations(positions)), positions, bits


def window_of(solution: np.ndarray) -> np.ndarray:
    halves = np.stack([solution & np.uint64(0xFFFFFFFF), solution >> np.uint64(32)], axis=1)
    return halves.astype(np.uint32).ravel()


def assert_is_the_state(solution: np.ndarray) -> None:
    window = window_of(solution)
    assert not (window[0] ^ WINDOW_OF_ENTROPY[0]) >> np.uint32(31)
    np.testing.assert_array_equal(window[1:], WINDOW_OF_ENTROPY[1:])
    np.testing.assert_array_equal(low_bits(window, 0, 3000), low_bits(WINDOW_OF_ENTROPY, 0, 3000))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_state_from_scattered_bits_with_wrong_ones(scattered, count):
    system, positions, bits = scattered
    assert system.rank == STATE_BITS
    wrong = np.sort(np.random.default_rng(count).choice(len(positions), count, replace=False))
    right = bits.copy()
    right[wrong] ^= 1
    assert bool(count) == system.reduce(right)[1].any()
    found = find_errors(system, right)
    assert found.tolist() == wrong.tolist()
    right[found] ^= 1
    assert_is_the_state(system.solve(right))


@pytest.mark.parametrize("rate", [0.01, 0.001])
def test_state_is_refused_when_too_many_bits_are_wrong(scattered, rate):
    system, positions, bits = scattered
    wrong = np.random.default_rng(4).random(len(positions)) < rate
    assert wrong.sum() > 10
    assert find_errors(system, bits ^ wrong.astype(np.uint8)) is None


def test_state_from_consecutive_bits():
    bits = low_bits(WINDOW_OF_ENTROPY, 0, 25_000)
    system = factorise(low_bit_equations(np.arange(25_000)))
    assert system.rank == STATE_BITS
    wrong = [566, 16_768, 24_990]
    bits[wrong] ^= 1
    found = find_errors(system, bits)
    assert found.tolist() == wrong
    bits[found] ^= 1
    assert_is_the_state(system.solve(bits))
