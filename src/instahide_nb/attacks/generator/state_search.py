"""The state of the Mersenne Twister from bits that are probably right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.generator.gf2 import factorise, find_errors
from instahide_nb.scheme.mersenne import STATE_BITS, low_bit_equations, low_bits

__all__ = ["EQUATIONS", "FoundState", "find_state"]

EQUATIONS = 20_400
"""Bits that a system is made of: 19,937 and some hundred more that tell whether any of them is wrong."""

_MOST_CHECKS = 400_000
_FEWEST_CHECKS = 2_000
_AGREEING = 0.75  # of the bits that were not used; a wrong state predicts half of them

Int64 = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FoundState:
    """A state, and what speaks for it.

    Attributes
    ----------
    window : (624,) uint32 array
        The generator before word 0; the low 31 bits of its first word are zero.
    used, corrected : int
        Bits of the system that was solved, and how many of them were found wrong.
    checked, agreeing : int
        Bits that were not used, and how many of them the state predicts.
    attempt : int
        The number of the system that gave it, see :func:`find_state`.
    """

    window: npt.NDArray[np.uint32]
    used: int
    corrected: int
    checked: int
    agreeing: int
    attempt: int

    @property
    def evidence(self) -> float:
        """Bits of evidence: a state that has nothing to do with the bits does so well with a chance of 2**-evidence.

        Hoeffding's bound: 2 n (share - 1/2)**2 / ln 2.
        """
        share = self.agreeing / self.checked
        return 2 * self.checked * (share - 0.5) ** 2 / 0.6931471805599453


def find_state(
    words: Int64, bits: Bits, *, attempts: range = range(4), differences: bool = False
) -> FoundState | None:
    """Solve for the state, correct up to three wrong bits, and prove the solution on bits that were not used.

    Parameters
    ----------
    words : (m,) int64 array
        Which words the bits are the lowest bits of, the surest first.
    bits : (m,) uint8 array
        The estimated bits.
    attempts : range
        Which systems to try. Number 0 is made of the surest bits; each further one is a random draw from a larger pool
        of them, so that a few wrong bits among the surest do not spoil all.
    differences : bool
        Each bit is the sum of the lowest bits of its word and the next.

    Returns
    -------
    FoundState or None
        None when no attempt ended with a state that predicts other bits, or there are too few bits.
    """
    if len(words) < EQUATIONS + _FEWEST_CHECKS:
        return None
    for attempt in attempts:
        pool = min(EQUATIONS + attempt * EQUATIONS // 2, len(words) - _FEWEST_CHECKS)
        order = np.arange(pool) if attempt == 0 else np.random.default_rng(attempt).permutation(pool)
        chosen = order[:EQUATIONS]
        chosen = chosen[np.argsort(words[chosen], kind="stable")]
        window, corrected = _solve(words[chosen], bits[chosen], differences)
        if window is None:
            continue
        rest = np.ones(min(len(words), EQUATIONS + _MOST_CHECKS), np.bool_)
        rest[chosen[chosen < len(rest)]] = False
        others = np.flatnonzero(rest)
        low = low_bits(window, 0, int(words[others].max()) + 2)
        predicted = low[words[others]]
        if differences:
            predicted = predicted ^ low[words[others] + 1]
        agreeing = int((predicted == bits[others]).sum())
        if agreeing >= _AGREEING * len(others):
            return FoundState(window, EQUATIONS, corrected, len(others), agreeing, attempt)
    return None


def _solve(words: Int64, bits: Bits, differences: bool) -> tuple[npt.NDArray[np.uint32] | None, int]:
    """The window that gives these bits but for up to three, and how many that are."""
    system = factorise(low_bit_equations(words, differences=differences))
    if system.rank < STATE_BITS:
        return None, 0
    wrong = find_errors(system, bits)
    if wrong is None:
        return None, 0
    right = bits.copy()
    right[wrong] ^= 1
    solution = system.solve(right)
    halves = np.stack([solution & np.uint64(0xFFFFFFFF), solution >> np.uint64(32)], axis=1)
    return halves.astype(np.uint32).ravel(), len(wrong)
