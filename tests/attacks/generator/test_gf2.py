"""The solver over GF(2): small systems against elimination by hand, and the state of a Mersenne Twister."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from instahide_nb.attacks.generator.gf2 import factorise
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


@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([0.02, 0.1, 0.5]), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_rank_and_solution(equations, unknowns, density, seed):
    """A consistent system is solved; one wrong right-hand side is noticed if its equation depends on others."""
    rng = np.random.default_rng(seed)
    matrix = (rng.random((equations, unknowns)) < density).astype(np.uint8)
    right = (matrix @ rng.integers(0, 2, unknowns) % 2).astype(np.uint8)
    system = factorise(pack(matrix))
    rank = rank_by_hand(matrix)
    assert system.rank == rank
    assert sorted(system.order.tolist()) == list(range(equations))
    solution = np.unpackbits(system.solve(right).view(np.uint8), bitorder="little")[:unknowns]
    np.testing.assert_array_equal(matrix @ solution % 2, right)
    wrong = int(rng.integers(equations))
    depends = rank_by_hand(np.delete(matrix, wrong, axis=0)) == rank
    right[wrong] ^= 1
    assert (system.solve(right) is None) == depends


def test_state_of_a_mersenne_twister():
    window = np.random.default_rng(17).integers(0, 2**32, 624, dtype=np.uint32)
    places = np.sort(np.random.default_rng(1).choice(15_600_000, 20_000, replace=False))
    bits = low_bits(window, 0, int(places[-1]) + 1)[places]
    system = factorise(low_bit_equations(places))
    assert system.rank == STATE_BITS
    found = system.solve(bits).view(np.uint32)[:624]
    assert not (found[0] ^ window[0]) >> np.uint32(31)  # the other bits of the first word have no effect
    np.testing.assert_array_equal(found[1:], window[1:])
    bits[567] ^= 1
    assert system.solve(bits) is None
