"""The Mersenne Twister MT19937 as a linear map over GF(2).

The generator is a sequence of 32-bit words x(0), x(1), ... with::

    x(t+624) = x(t+397) ^ A((x(t) & 0x80000000) | (x(t+1) & 0x7fffffff)),   A(y) = (y >> 1) ^ (y & 1) * 0x9908b0df

Its output j is temper(x(624 + j)) (Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998). Recurrence and
tempering are linear over GF(2), so each output bit is the parity of some bits of the *window* x(0) .. x(623). The low
31 bits of x(0) have no effect; the other 19,937 bits of the window are the state. A window is the key that
``RandomState.get_state()`` returns at position 624, before the first output.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from instahide_nb.core.arrays import Int64, UInt8, UInt32, UInt64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.progress import progress

WINDOW = 624
"""Words of a window."""

STATE_BITS = 19_937
"""Bits of a window that have an effect."""

_SHIFT = 397
_TWIST = 0x9908B0DF
_TOP = 0x80000000
_REST = 0x7FFFFFFF
_SEEDING = 1812433253
_SEEDING_INVERSE = pow(_SEEDING, -1, 2**32)
_PIECE = 1 << 22  # words between two steps of a progress bar


def seeded_window(seed: int) -> UInt32:
    """The window that ``RandomState(seed)`` and ``torch.manual_seed(seed)`` start from (init_genrand).

    Examples
    --------
    >>> seeded_window(5489)[:3]
    array([      5489, 1301868182, 2938499221], dtype=uint32)
    """
    return np.array(np.random.RandomState(seed).get_state()[1], np.uint32)  # type: ignore[index]


def low_bits(window: UInt32, start: int, stop: int) -> UInt8:
    """The lowest bits of outputs start .. stop-1: what ``torch.randint(2)`` draws.

    Examples
    --------
    >>> low_bits(seeded_window(5489), 9_999, 10_000)  # output 10,000 is 4123659995 in the C++ standard (26.6.5)
    array([1], dtype=uint8)
    """
    generator = np.random.MT19937()
    generator.state = {"bit_generator": "MT19937", "state": {"key": window, "pos": WINDOW}}
    generator.random_raw(start, output=False)
    return (generator.random_raw(stop - start) & np.uint64(1)).astype(np.uint8)


def seed_of(window: UInt32) -> int | None:
    """The seed from which init_genrand makes a window, or None; the low 31 bits of its first word are ignored.

    Seeding is x(i) = 1812433253 (x(i-1) ^ x(i-1) >> 30) + i, so x(1) gives x(0), the seed.
    """
    mixed = ((int(window[1]) - 1) * _SEEDING_INVERSE) % 2**32
    seed = mixed ^ (mixed >> 30)
    made = seeded_window(seed)
    same = np.array_equal(made[1:], window[1:]) and not (int(made[0]) ^ int(window[0])) & _TOP
    return seed if same else None


@kernel
def _untwist(twisted: Any) -> Any:
    """A^-1: the top bit of A(y) is y & 1, since the top bit of 0x9908b0df is 1."""
    odd = np.uint32(twisted >> np.uint32(31))
    shifted = np.uint32(twisted ^ np.uint32(np.uint32(np.uint32(0) - odd) & np.uint32(_TWIST)))
    return np.uint32(np.uint32(shifted << np.uint32(1)) | odd)


@kernel
def _step_back(window: Any, head: Any) -> Any:
    """One word back in the ring whose x(0) is window[head]; returns the new head.

    x(623) ^ x(396) = A(x(-1), x(0)) gives the low bits of x(0), and the top bit of x(-1); x(622) ^ x(395) gives the
    low bits of x(-1).
    """
    here = _untwist(np.uint32(window[(head + 623) % WINDOW] ^ window[(head + 396) % WINDOW]))
    before = _untwist(np.uint32(window[(head + 622) % WINDOW] ^ window[(head + 395) % WINDOW]))
    window[head] = np.uint32((window[head] & np.uint32(_TOP)) | (here & np.uint32(_REST)))
    head = (head + WINDOW - 1) % WINDOW
    window[head] = np.uint32((here & np.uint32(_TOP)) | (before & np.uint32(_REST)))
    return head


@nb.njit(inline="always")
def seeding_step(word: Any, i: Any) -> Any:
    """x(i) from x(i-1) in init_genrand."""
    mixed = np.uint32(word ^ np.uint32(word >> np.uint32(30)))
    return np.uint32(np.uint32(mixed * np.uint32(_SEEDING)) + np.uint32(i))


@kernel
def _steps_back(window: Any, head: Any, limit: Any, seek: Any) -> tuple[Any, Any]:
    """Step back `limit` words or, if `seek`, until x(1) -> x(2) is a seeding step; returns the number and the head."""
    for back in range(limit):
        if seek and window[(head + 2) % WINDOW] == seeding_step(window[(head + 1) % WINDOW], 2):
            return back, head
        head = _step_back(window, head)
    return limit, head


def step_back(window: UInt32, count: int) -> UInt32:
    """The window `count` words earlier."""
    ring = np.array(window, np.uint32)
    return np.roll(ring, -_steps_back(ring, 0, count, False)[1])


def rewind(window: UInt32, limit: int = 0) -> tuple[int, int] | None:
    """A generator's seed, and the number of words drawn since; None if these are more than `limit`."""
    ring = np.array(window, np.uint32)
    passed, head = 0, 0
    while passed <= limit:
        back, head = _steps_back(ring, head, limit - passed, True)
        passed += back
        seed = seed_of(np.roll(ring, -head))
        if seed is not None:
            return seed, passed
        head = _step_back(ring, head)  # the step matched by chance
        passed += 1
    return None


def _low_bit_of_temper() -> int:
    """Which bits of x add up to bit 0 of temper(x): the transposed tempering of bit 0, last step first."""
    bits = 1
    bits ^= (bits << 18) & 0xFFFFFFFF
    bits ^= (bits & 0xEFC60000) >> 15
    bits ^= (bits & 0x9D2C5680) >> 7
    return bits ^ ((bits << 11) & 0xFFFFFFFF)


@kernel
def _pull_back(functional: Any, head: Any) -> Any:
    """Turn a functional of the window one word later into one of the window, in a ring; returns the new head.

    The coefficients of x(624) are added to x(397), and their image under the transpose of A to the top bit of x(0) and
    the low bits of x(1).
    """
    head = (head + WINDOW - 1) % WINDOW
    last = functional[head]
    parity = np.uint32(last & np.uint32(_TWIST))
    for shift in (16, 8, 4, 2, 1):
        parity = np.uint32(parity ^ np.uint32(parity >> np.uint32(shift)))
    spread = np.uint32(np.uint32(last << np.uint32(1)) | np.uint32(parity & np.uint32(1)))
    functional[head] = np.uint32(spread & np.uint32(_TOP))
    second, middle = (head + 1) % WINDOW, (head + _SHIFT) % WINDOW
    functional[second] = np.uint32(functional[second] ^ np.uint32(spread & np.uint32(_REST)))
    functional[middle] = np.uint32(functional[middle] ^ last)
    return head


@kernel
def _equations(functional: Any, head: Any, at: Any, positions: Any, stop: Any, out: Any) -> tuple[Any, Any]:
    """Write the rows of those positions that lie in [at, stop); `functional` belongs to output `at`."""
    row = 0
    for word in range(at, stop):
        while row < len(positions) and positions[row] == word:
            for i in range(WINDOW // 2):
                low = np.uint64(functional[(head + 2 * i) % WINDOW])
                high = np.uint64(functional[(head + 2 * i + 1) % WINDOW])
                out[row, i] = low | np.uint64(high << np.uint64(32))
            row += 1
        head = _pull_back(functional, head)
    return head, row


def low_bit_equations(positions: Int64, *, differences: bool = False) -> UInt64:
    """For each position, the bits of the window whose sum is the lowest bit of that output; (m, 312) uint64.

    Positions (m,) ascend. Bit b of x(j) is bit 32*(j % 2) + b of column j // 2. With `differences` it is the sum of the
    lowest bits of the output and the next. The functional of output j + 1 is that of output j, pulled back one step.
    """
    places = np.ascontiguousarray(positions, np.int64)
    if len(places) and (places[0] < 0 or (np.diff(places) < 0).any()):
        raise ValueError("positions: must be increasing, from 0 or more")
    out = np.empty((len(places), WINDOW // 2), np.uint64)
    # Output 0 is the tempered last word of the window one word later.
    functional, head = np.zeros(WINDOW, np.uint32), 1
    functional[0] = _low_bit_of_temper()
    head = int(_pull_back(functional, head))
    if differences:  # the functional of output 1 is that of output 0, pulled back once more
        following = functional.copy()
        following_head = int(_pull_back(following, head))
        functional ^= np.roll(following, head - following_head)
    stop = int(places[-1]) + 1 if len(places) else 0
    row = 0
    with progress(total=stop, desc="writing equations", unit="word") as bar:
        for at in range(0, stop, _PIECE):
            end = min(at + _PIECE, stop)
            head, done = _equations(functional, head, at, places[row:], end, out[row:])
            row += int(done)
            bar.update(end - at)
    return out
