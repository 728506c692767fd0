"""The Mersenne Twister MT19937 as what it is: a linear map over GF(2).

The generator is one sequence of 32-bit words x(0), x(1), ... with x(t+624) = x(t+397) ^ M(x(t), x(t+1)), where M takes
the top bit of the one and the other 31 of the other; what it hands out is the tempered word temper(x(t)), t >= 624
(Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8(1), 1998). Recurrence and tempering are linear over GF(2), so
every bit that it ever hands out is the parity of some bits of the *window* x(0) .. x(623). Of the window's 19,968 bits
the low 31 of x(0) have no effect; the other 19,937 are the state.

Words are counted from 0: word j is temper(x(624 + j)). A window is what ``RandomState.get_state()`` calls the key at
position 624: before the first word has been drawn.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.core.progress import progress

__all__ = [
    "STATE_BITS",
    "WINDOW",
    "low_bit_equations",
    "low_bits",
    "rewind",
    "seed_of",
    "seeded_window",
    "step_back",
    "tempered_words",
]

WINDOW = 624
"""Words of a window."""

STATE_BITS = 19_937
"""Bits of the state: those of the window that have an effect."""

_SHIFT = 397
_TWIST = 0x9908B0DF
_TOP = 0x80000000
_REST = 0x7FFFFFFF
_SEEDING = 1812433253
_SEEDING_INVERSE = pow(_SEEDING, -1, 2**32)
_PIECE = 1 << 22  # words handled between two steps of a progress bar

Words = npt.NDArray[np.uint32]


def _low_bit_of_temper() -> int:
    """Which bits of x add up to bit 0 of temper(x): the transposed tempering of bit 0, last step first."""
    bits = 1
    bits ^= (bits << 18) & 0xFFFFFFFF
    bits ^= (bits & 0xEFC60000) >> 15
    bits ^= (bits & 0x9D2C5680) >> 7
    return bits ^ ((bits << 11) & 0xFFFFFFFF)


_LOW_BIT_OF_TEMPER = _low_bit_of_temper()


@nb.njit(cache=True)  # pragma: no cover - compiled
def seed_window(seed: Any, window: Any) -> None:
    """init_genrand of the reference implementation of 2002."""
    word = np.uint32(seed)
    window[0] = word
    for i in range(1, WINDOW):
        mixed = np.uint32(word ^ np.uint32(word >> np.uint32(30)))
        word = np.uint32(np.uint32(mixed * np.uint32(_SEEDING)) + np.uint32(i))
        window[i] = word


@nb.njit(cache=True)  # pragma: no cover - compiled
def _twist(first: Any, second: Any) -> Any:
    joined = np.uint32((first & np.uint32(_TOP)) | (second & np.uint32(_REST)))
    odd = np.uint32(np.uint32(0) - np.uint32(joined & np.uint32(1)))
    return np.uint32(np.uint32(joined >> np.uint32(1)) ^ np.uint32(odd & np.uint32(_TWIST)))


@nb.njit(cache=True)  # pragma: no cover - compiled
def temper(x: Any) -> Any:
    x = np.uint32(x ^ np.uint32(x >> np.uint32(11)))
    x = np.uint32(x ^ np.uint32(np.uint32(x << np.uint32(7)) & np.uint32(0x9D2C5680)))
    x = np.uint32(x ^ np.uint32(np.uint32(x << np.uint32(15)) & np.uint32(0xEFC60000)))
    return np.uint32(x ^ np.uint32(x >> np.uint32(18)))


@nb.njit(cache=True)  # pragma: no cover - compiled
def advance(window: Any) -> None:
    """The window 624 words later, in place."""
    for i in range(WINDOW):
        new = _twist(window[i], window[(i + 1) % WINDOW])
        window[i] = np.uint32(window[(i + _SHIFT) % WINDOW] ^ new)


@nb.njit(cache=True)  # pragma: no cover - compiled
def _draw(window: Any, out: Any) -> None:
    window = window.copy()
    for j in range(len(out)):
        if j % WINDOW == 0:
            advance(window)
        out[j] = temper(window[j % WINDOW])


@nb.njit(cache=True)  # pragma: no cover - compiled
def _draw_low_bits(window: Any, start: Any, out: Any) -> None:
    window = window.copy()
    stop = start + len(out)
    for j in range(stop):
        if j % WINDOW == 0:
            advance(window)
        if j >= start:
            out[j - start] = np.uint8(temper(window[j % WINDOW]) & np.uint32(1))


def seeded_window(seed: int) -> Words:
    """The window that ``RandomState(seed)`` and ``torch.manual_seed(seed)`` start from (init_genrand).

    Parameters
    ----------
    seed : int
        0 .. 2**32 - 1.

    Returns
    -------
    (624,) uint32 array

    Examples
    --------
    >>> seeded_window(5489)[:3]
    array([      5489, 1301868182, 2938499221], dtype=uint32)
    """
    window = np.empty(WINDOW, np.uint32)
    seed_window(np.uint32(seed), window)
    return window


def tempered_words(window: Words, count: int) -> Words:
    """Words 0 .. count-1 that a generator hands out.

    Examples
    --------
    The 10,000th word of a generator seeded with 5489, as the C++ standard (26.6.5) prescribes it:

    >>> tempered_words(seeded_window(5489), 10_000)[-1]
    np.uint32(4123659995)
    """
    out = np.empty(count, np.uint32)
    _draw(np.ascontiguousarray(window, np.uint32), out)
    return out


def low_bits(window: Words, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """The lowest bits of the words start .. stop-1: what ``torch.randint(2)`` makes of them.

    Examples
    --------
    >>> low_bits(seeded_window(5489), 9_999, 10_000)
    array([1], dtype=uint8)
    """
    out = np.empty(stop - start, np.uint8)
    _draw_low_bits(np.ascontiguousarray(window, np.uint32), start, out)
    return out


def seed_of(window: Words) -> int | None:
    """The seed that a window was made from by init_genrand, or None when no seed makes it.

    The low 31 bits of the first word are not used: no output depends on them.

    Examples
    --------
    >>> seed_of(seeded_window(42))
    42
    >>> seed_of(tempered_words(seeded_window(42), 624)) is None
    True
    """
    mixed = ((int(window[1]) - 1) * _SEEDING_INVERSE) % 2**32
    seed = mixed ^ (mixed >> 30)
    made = seeded_window(seed)
    same = np.array_equal(made[1:], window[1:]) and not (int(made[0]) ^ int(window[0])) & _TOP
    return seed if same else None


@nb.njit(cache=True)  # pragma: no cover - compiled
def _untwist(twisted: Any) -> Any:
    """The joined word y of y -> (y >> 1) ^ (y & 1) * _TWIST; the top bit of _TWIST tells y's lowest bit."""
    odd = np.uint32(twisted >> np.uint32(31))
    shifted = np.uint32(twisted ^ np.uint32(np.uint32(np.uint32(0) - odd) & np.uint32(_TWIST)))
    return np.uint32(np.uint32(shifted << np.uint32(1)) | odd)


@nb.njit(cache=True)  # pragma: no cover - compiled
def _step_back(window: Any, head: Any) -> Any:
    """One word back in the ring whose x(0) is window[head]; returns the new head.

    x(623) and x(396) hold the twist of x(-1) and x(0); x(622) and x(395) that of x(-2) and x(-1).
    """
    here = _untwist(np.uint32(window[(head + 623) % WINDOW] ^ window[(head + 396) % WINDOW]))
    before = _untwist(np.uint32(window[(head + 622) % WINDOW] ^ window[(head + 395) % WINDOW]))
    window[head] = np.uint32((window[head] & np.uint32(_TOP)) | (here & np.uint32(_REST)))
    head = (head + WINDOW - 1) % WINDOW
    window[head] = np.uint32((here & np.uint32(_TOP)) | (before & np.uint32(_REST)))
    return head


@nb.njit(cache=True)  # pragma: no cover - compiled
def _steps_back(window: Any, count: Any) -> Any:
    head = 0
    for _ in range(count):
        head = _step_back(window, head)
    return head


def step_back(window: Words, count: int) -> Words:
    """The window `count` words earlier.

    Examples
    --------
    >>> window = seeded_window(1)
    >>> bool((tempered_words(step_back(window, 3), 5)[3:] == tempered_words(window, 2)).all())
    True
    """
    ring = np.ascontiguousarray(window, np.uint32).copy()
    head = int(_steps_back(ring, count))
    return np.roll(ring, -head)


@nb.njit(cache=True)  # pragma: no cover - compiled
def _seek_seeding(window: Any, head: Any, limit: Any) -> tuple[Any, Any]:
    """Step back up to `limit` words until x(1) -> x(2) is a step of the seeding; -1 when none is."""
    for back in range(limit + 1):
        second = window[(head + 1) % WINDOW]
        mixed = np.uint32(second ^ np.uint32(second >> np.uint32(30)))
        if window[(head + 2) % WINDOW] == np.uint32(np.uint32(mixed * np.uint32(_SEEDING)) + np.uint32(2)):
            return back, head
        if back < limit:
            head = _step_back(window, head)
    return -1, head


def rewind(window: Words, limit: int = 0) -> tuple[int, int] | None:
    """Step a generator back, word by word, until it stands where a seed started it.

    Parameters
    ----------
    window : (624,) uint32 array
        See the module; the low 31 bits of its first word are not used.
    limit : int
        How many words to go back at most.

    Returns
    -------
    (seed, words) or None
        The seed, and how many words had been drawn since; None when no start was found.

    Examples
    --------
    >>> later = seeded_window(7)
    >>> words = tempered_words(later, 700)
    >>> state = np.random.RandomState(7)
    >>> _ = state.randint(0, 2**32, size=624, dtype=np.uint32)
    >>> rewind(state.get_state()[1], limit=10_000)
    (7, 624)
    """
    ring = np.ascontiguousarray(window, np.uint32).copy()
    passed, head = 0, 0
    while passed <= limit:
        back, head = _seek_seeding(ring, head, limit - passed)
        if back < 0:
            return None
        seed = seed_of(np.roll(ring, -head))
        if seed is not None:
            return seed, passed + back
        head = _step_back(ring, head)  # one step matched by chance
        passed += back + 1
    return None


@nb.njit(cache=True)  # pragma: no cover - compiled
def _pull_back(functional: Any, head: Any) -> Any:
    """Pull a functional of the window one word later back to the window, in a ring; returns the new head.

    All words move up by one place, except the last, x(624) = x(397) ^ M(x(0), x(1)), whose part is spread.
    """
    head = (head + WINDOW - 1) % WINDOW
    last = functional[head]
    # The transpose of y -> (y >> 1) ^ (y & 1) * _TWIST.
    parity = np.uint32(last & np.uint32(_TWIST))
    for shift in (16, 8, 4, 2, 1):
        parity = np.uint32(parity ^ np.uint32(parity >> np.uint32(shift)))
    spread = np.uint32(np.uint32(last << np.uint32(1)) | np.uint32(parity & np.uint32(1)))
    functional[head] = np.uint32(spread & np.uint32(_TOP))
    second, middle = (head + 1) % WINDOW, (head + _SHIFT) % WINDOW
    functional[second] = np.uint32(functional[second] ^ np.uint32(spread & np.uint32(_REST)))
    functional[middle] = np.uint32(functional[middle] ^ last)
    return head


@nb.njit(cache=True)  # pragma: no cover - compiled
def _equations(functional: Any, head: Any, at: Any, positions: Any, stop: Any, out: Any) -> tuple[Any, Any]:
    """Write the rows of those positions that lie in [at, stop); `functional` belongs to word `at`."""
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


def low_bit_equations(
    positions: npt.NDArray[np.int64], *, differences: bool = False
) -> npt.NDArray[np.uint64]:
    """For each position, which bits of the window add up to the lowest bit of that word.

    The functional of word j + 1 is that of word j pulled back by one more step of the recurrence, which in a ring of
    624 words changes three of them: 15 million words take a fraction of a second.

    Parameters
    ----------
    positions : (m,) int64 array
        Which words, ascending.
    differences : bool
        Equations of the lowest bits of that word and the next, added.

    Returns
    -------
    (m, 312) uint64 array
        Row i holds bit b of window word j at bit 32*(j % 2) + b of place j // 2.

    Examples
    --------
    >>> window = seeded_window(3)
    >>> rows = low_bit_equations(np.array([0, 2, 70_000]))
    >>> packed = window[0::2].astype(np.uint64) | (window[1::2].astype(np.uint64) << np.uint64(32))
    >>> (np.bitwise_count(rows & packed).sum(axis=1) % 2).tolist()
    [0, 1, 0]
    >>> low_bits(window, 0, 70_001)[[0, 2, 70_000]].tolist()
    [0, 1, 0]
    """
    places = np.ascontiguousarray(positions, np.int64)
    if len(places) and (places[0] < 0 or (np.diff(places) < 0).any()):
        raise ValueError("positions: must ascend from 0 or more")
    out = np.empty((len(places), WINDOW // 2), np.uint64)
    # Word 0 is the tempered last word of the window one word on; the bits of it that its lowest bit is made of:
    functional, head = np.zeros(WINDOW, np.uint32), 1
    functional[0] = _LOW_BIT_OF_TEMPER
    head = int(_pull_back(functional, head))
    if differences:  # word 1's functional is word 0's, pulled back once more
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
