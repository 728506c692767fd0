"""The state of the Mersenne Twister, from mask bits that are almost certain.

A mask bit is the lowest bit of one word of the mask generator, at a known place in its stream, and MT19937 is linear
over GF(2). Some 20,000 known bits, or known sums of two, therefore give its 19,937 bits of state. Two rankings select
bits:

* Large neighbouring values nearly always have the same sign. Then the sum of their mask bits is known.
* The signs that `unmask` infers have log-odds 2 m |x| s / v, with m the predicted value, |x| s the encryption with its
  expected mask removed and v the residual variance. A sign is as certain as the least certain one around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from instahide_nb.attacks.generator.gf2 import factorise
from instahide_nb.attacks.generator.replay import Layout
from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import Bool, Float32, Int64, UInt8, UInt32
from instahide_nb.scheme.mersenne import (
    STATE_BITS,
    WINDOW,
    low_bit_equations,
    low_bits,
    rewind,
    seeded_window,
    step_back,
)

EQUATIONS = 20_400
"""Equations of a system: 19,937, and several hundred more that show whether any of them is wrong."""

_RANKED = 1_000_000  # bits that may serve as equations or checks
_MOST_CHECKS = 400_000
_FEWEST_CHECKS = 2_000
_AGREEING = 0.75  # least share of unused bits that a state must predict; a wrong one predicts half of them
_SYSTEMS = 4  # systems tried with bits of all epochs, each with other bits
_SINGLE_EPOCHS = 3  # epochs tried alone, in case they are not at their expected distance
_EXTRA_WORDS = 1 << 21  # words that may have been drawn besides the expected ones
_BLOCK = 250  # encryptions at a time


def sign_confidence(signed: Float32, predicted: Float32, variance: Float32) -> Float32:
    """The smallest ``predicted * signed / variance`` in a 3x3 window, or 0 where signs in the 5x5 window differ.

    `signed` is |x| times the expected sign, `predicted` the mean prediction, both (n, h, w, 3) like the result,
    `variance` (n,) the residual variance. Windows are within a colour channel.

    Examples
    --------
    >>> flat = np.full((1, 7, 7, 3), 0.5, np.float32)
    >>> sign_confidence(flat, flat, np.array([0.5], np.float32))[0, 3, 3, 0]
    np.float32(0.5)
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    out = np.empty_like(signed)
    for low in range(0, len(signed), _BLOCK):
        rows = slice(low, low + _BLOCK)
        odds = np.maximum(predicted[rows] * signed[rows], 0) / variance[rows, None, None, None]
        least = minimum_filter(odds, size=(1, 3, 3, 1), mode="nearest")
        positive = (signed[rows] > 0).view(np.uint8)
        some, every = (f(positive, size=(1, 5, 5, 1), mode="nearest") for f in (maximum_filter, minimum_filter))
        out[rows] = least * (some == every)
    return out


def neighbour_confidence(encryption: Float32) -> Float32:
    """The smallest |x| in the 3x3 windows around a value and around the one to its right, (n, h, w - 1, 3)."""
    from scipy.ndimage import minimum_filter

    n, height, width, channels = encryption.shape
    out = np.empty((n, height, width - 1, channels), np.float32)
    for low in range(0, n, _BLOCK):
        rows = slice(low, low + _BLOCK)
        least = minimum_filter(np.abs(encryption[rows]), size=(1, 3, 3, 1), mode="nearest")
        out[rows] = np.minimum(least[:, :, :-1], least[:, :, 1:])
    return out


def by_confidence(confidence: Float32, count: int) -> Int64:
    """Flat places of the `count` largest values above zero, in descending and stable order.

    Examples
    --------
    >>> by_confidence(np.array([[0.2, 0.9], [0.9, 0.0]], np.float32), 3)
    array([1, 2, 0])
    """
    flat = confidence.ravel()
    count = min(count, flat.size)
    least = np.partition(flat, flat.size - count)[flat.size - count] if count else np.float32(np.inf)
    chosen = np.flatnonzero((flat >= least) & (flat > 0))
    order = np.argsort(-flat[chosen], kind="stable")[:count]
    return chosen[order]


def error_curve(wrong: Bool, confidence: Float32) -> list[list[int]]:
    """The number of wrong bits among the most certain ones, as a list of [bits, wrong]."""
    ordered = wrong.ravel()[by_confidence(confidence, confidence.size)]
    steps = [10**d * m for d in range(3, 9) for m in (1, 2, 5)]
    curve = [[count, int(np.count_nonzero(ordered[:count]))] for count in steps if count <= len(ordered)]
    return [*curve, [int(wrong.size), int(wrong.sum())]]


@dataclass(frozen=True)
class FoundState:
    """A state, and the evidence for it."""

    window: UInt32  # (624,): words of the mask generator's state before the first word of `epoch`
    checked: int  # number of bits that were not used to find it
    agreeing: int  # how many of these the state predicts
    attempt: int  # number of the system, see :func:`find_state`
    epoch: int = 0
    found_in: str = "all epochs"  # where the bits come from

    @property
    def evidence(self) -> float:
        """Bits of evidence, 2 n (share - 1/2)^2 / ln 2.

        By Hoeffding's bound, an unrelated state predicts as many of the n checks with probability at most 2^-evidence.
        """
        share = self.agreeing / self.checked
        return 2 * self.checked * (share - 0.5) ** 2 / 0.6931471805599453


def find_state(
    words: Int64, bits: UInt8, *, attempts: range = range(_SYSTEMS), differences: bool = False
) -> FoundState | None:
    """Solve for the state, and check the solution on bits that were not used.

    `bits` (m,) estimate the lowest bits of `words` (m,), the most certain first; with `differences`, the sums of the
    lowest bits of a word and the next. System number 0 consists of the most certain bits; each further one of
    `attempts` is a random draw from a larger pool, since one wrong bit spoils a system.
    """
    if len(words) < EQUATIONS + _FEWEST_CHECKS:
        return None
    for attempt in attempts:
        pool = min(EQUATIONS + attempt * EQUATIONS // 2, len(words) - _FEWEST_CHECKS)
        order = np.arange(pool) if attempt == 0 else np.random.default_rng(attempt).permutation(pool)
        chosen = order[:EQUATIONS]
        chosen = chosen[np.argsort(words[chosen], kind="stable")]
        window = _solve(words[chosen], bits[chosen], differences)
        if window is None:
            continue
        others = np.setdiff1d(np.arange(min(len(words), EQUATIONS + _MOST_CHECKS)), chosen)
        low = low_bits(window, 0, int(words[others].max()) + 2)
        predicted = low[words[others]]
        if differences:
            predicted = predicted ^ low[words[others] + 1]
        agreeing = int((predicted == bits[others]).sum())
        if agreeing >= _AGREEING * len(others):
            return FoundState(window, len(others), agreeing, attempt)
    return None


def _solve(words: Int64, bits: UInt8, differences: bool) -> UInt32 | None:
    system = factorise(low_bit_equations(words, differences=differences))
    solution = system.solve(bits) if system.rank == STATE_BITS else None
    return None if solution is None else solution.astype("<u8").view("<u4")[:WINDOW].astype(np.uint32)


def state_from_neighbours(release: Release, confidence: Float32) -> FoundState | None:
    """The state of the mask generator from :func:`neighbour_confidence`."""
    left, right = neighbours(confidence, _RANKED)
    sign = release.encryption.ravel() > 0
    return _search(release, left, (sign[left] != sign[right]).astype(np.uint8), differences=True)


def state_from_signs(release: Release, signed: Float32, confidence: Float32) -> FoundState | None:
    """The state of the mask generator from :func:`sign_confidence` of inferred signs."""
    ranked = by_confidence(confidence, _RANKED)
    bits = ((signed.ravel()[ranked] > 0) == (release.encryption.ravel()[ranked] > 0)).astype(np.uint8)
    return _search(release, ranked, bits)


def neighbours(confidence: Float32, count: int) -> tuple[Int64, Int64]:
    """Flat places of both values of the most certain pairs."""
    _, _, pairs, channels = confidence.shape
    line, within = np.divmod(by_confidence(confidence, count), pairs * channels)
    left = line * ((pairs + 1) * channels) + within
    return left, left + channels


def _search(release: Release, ranked: Int64, bits: UInt8, *, differences: bool = False) -> FoundState | None:
    for epoch, words, ranks, attempts, found_in in _hypotheses(release, ranked):
        if differences and attempts.start > 0:
            break  # signs of `unmask` are more certain than further pairs
        state = find_state(words, bits[ranks], attempts=attempts, differences=differences)
        if state is not None:
            return replace(state, epoch=epoch, found_in=found_in)
    return None


def _hypotheses(release: Release, ranked: Int64) -> Iterator[tuple[int, Int64, Int64, range, str]]:
    """Possible places of ranked bits in the stream: epoch, words counted from its start, ranks, attempts, a name.

    First come all epochs at their expected distances, then the single epochs with the most certain bits (within an
    epoch no other words are drawn), then all epochs again, with other bits.
    """
    info, layout = release.info, Layout.of(release)
    encryption, value = np.divmod(ranked, layout.size)
    words = layout.mask_word(encryption, value)
    everything = np.arange(len(ranked))
    known = info.scheme != "cross" or info.n_public > 0 or layout.epochs == 1
    if known:
        yield 0, words, everything, range(1), "all epochs"
    epoch = encryption // layout.rows
    last = np.full(layout.epochs, len(ranked), np.int64)  # the rank of each epoch's EQUATIONS-th bit
    for e in range(layout.epochs if layout.epochs > 1 else 0):
        own = np.flatnonzero(epoch == e)
        if len(own) > EQUATIONS:
            last[e] = own[EQUATIONS]
    for e in np.argsort(last, kind="stable")[:_SINGLE_EPOCHS].tolist():
        own = np.flatnonzero(epoch == e)
        if last[e] < len(ranked):
            yield e, words[own] - e * layout.epoch, own, range(1), f"epoch {e} alone"
    if known:
        yield 0, words, everything, range(1, _SYSTEMS), "all epochs"


def start_of(release: Release, state: FoundState) -> tuple[UInt32, int | None, int]:
    """The window to replay from, the seed if there was one, and the number of words before the first epoch."""
    expected = state.epoch * Layout.of(release).epoch
    found = rewind(state.window, limit=expected + _EXTRA_WORDS)
    if found is not None:
        seed, words = found
        return seeded_window(seed), seed, words - expected
    if state.epoch == 0:
        return state.window, None, 0
    return step_back(state.window, expected + _EXTRA_WORDS), None, _EXTRA_WORDS
