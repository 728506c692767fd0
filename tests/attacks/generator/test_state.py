"""Which bits to trust, and the state from them."""

import numpy as np
import pytest
from synthetic_challenge import solver_that_knows

from instahide_nb.attacks.generator import state
from instahide_nb.attacks.generator.state import EQUATIONS, find_state, neighbour_confidence, neighbours
from instahide_nb.scheme.mersenne import low_bits

WINDOW = np.random.default_rng(23).integers(0, 2**32, 624, dtype=np.uint32)


def test_pairs_of_neighbours_are_placed_as_the_mask_is():
    """A pair is as sure as the least value around either of its two."""
    encryption = np.random.default_rng(0).normal(size=(3, 12, 10, 3)).astype(np.float32)
    confidence = neighbour_confidence(encryption)
    assert confidence[1, 5, 4, 2] == np.abs(encryption[1, 4:7, 3:7, 2]).min()
    assert confidence[2, 0, 8, 0] == np.abs(encryption[2, :2, 7:, 0]).min()
    left, right = neighbours(confidence, 50)
    order = np.argsort(-confidence.ravel(), kind="stable")[:50]
    n, y, x, c = np.unravel_index(order, confidence.shape)
    assert left.tolist() == np.ravel_multi_index((n, y, x, c), encryption.shape).tolist()
    assert right.tolist() == np.ravel_multi_index((n, y, x + 1, c), encryption.shape).tolist()


def noisy_bits(wrong: list[int]) -> tuple[np.ndarray, np.ndarray]:
    words = np.random.default_rng(2).permutation(300_000)[:40_000]
    bits = low_bits(WINDOW, 0, 300_000)[words]
    bits[wrong] ^= 1
    return words, bits


@pytest.mark.parametrize("wrong", [[], [7]])
def test_state_is_found_and_proved_on_other_bits(wrong, monkeypatch):
    """A wrong bit among the surest spoils their system; a later draw from more bits misses it."""
    monkeypatch.setattr(state, "_solve", solver_that_knows(WINDOW))
    words, bits = noisy_bits([*wrong, 38_000, 39_999])
    found = find_state(words, bits)
    assert found is not None
    assert (found.attempt > 0) == bool(wrong)
    assert found.checked == 40_000 - EQUATIONS
    assert found.checked - found.agreeing == len(wrong) + 2
    assert found.evidence > 10_000
    np.testing.assert_array_equal(low_bits(found.window, 0, 30_000), low_bits(WINDOW, 0, 30_000))


@pytest.mark.slow
def test_states_that_bits_do_not_prove_are_refused():
    """One percent of the bits is wrong; and a consistent system whose state predicts nothing else."""
    wrong = np.flatnonzero(np.random.default_rng(3).random(40_000) < 0.01)
    assert find_state(*noisy_bits(wrong.tolist()), attempts=range(2)) is None
    words, bits = noisy_bits([])
    bits[EQUATIONS:] = np.random.default_rng(1).integers(0, 2, len(bits) - EQUATIONS)
    assert find_state(words, bits, attempts=range(1)) is None


def test_too_few_bits_are_refused():
    words, bits = noisy_bits([])
    assert find_state(words[:EQUATIONS], bits[:EQUATIONS]) is None
