"""All 2**32 seeds of numpy's generator against the first labels, many seeds at a time.

Generator C draws coefficients and nothing else, so its first words decide the first labels. Of a seed only what these
words need is computed: about 500 steps of the seeding (each a multiplication, so that they bound the speed) and the
top bits of two words for each point of the polar method. A seed *survives* when enough of the ratios of the first rows
agree (:mod:`.label_ratios`); several rows are compared since each may have been redrawn. A survivor *fits* when it
reproduces the labels of the whole first epoch, redraws included; this is done without any approximation.

The inner loops run over 256 seeds at a time, one array to the next, so that the compiler makes vector instructions
of them; it would not if one array were read and written, or if a 32-bit operation were widened to 64 bits. Ratios are
compared by multiplication, which is faster than dividing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numba as nb
import numpy as np
from numba.extending import intrinsic

from instahide_nb.attack.first_epoch import FirstEpoch, epoch_fits
from instahide_nb.attack.scan_plan import TOGETHER, ScanPlan
from instahide_nb.progress import progress

__all__ = ["CHUNK", "ScanOutcome", "scan", "wide_vectors"]

CHUNK = 1 << 24
"""Seeds between two steps of the progress bar; a scan stops behind the chunk in which a seed was verified."""

LANES = 256  # seeds at a time: with their first words they stay in a second-level cache
_PIECE = 1 << 20  # seeds whose survivors are noted before they are checked

_compiled: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@dataclass(frozen=True)
class ScanOutcome:
    """How a scan went: the funnel from seeds to the one that is verified.

    Attributes
    ----------
    seed : int or None
        The lowest verified seed.
    start, stop : int
        The range that was looked at; a scan that is to go on starts at `stop`.
    survivors, fitting, verified : int
        Seeds of which enough ratios agree, those that reproduce the first epoch, those that reproduce everything.
    """

    seed: int | None
    start: int
    stop: int
    survivors: int
    fitting: int
    verified: int
    plan: ScanPlan = field(repr=False)


@intrinsic
def wide_vectors(_: Any) -> Any:  # pragma: no cover - called by the compiler
    """Let the function that calls this use 512-bit vectors where the processor has them.

    LLVM keeps to 256 bits on most such processors, since wide vectors can lower the clock. It knows this attribute of
    a function; llvmlite has no name for it, hence ``set.add``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        attributes = builder.function.attributes
        if isinstance(attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return nb.types.none(), generate


@nb.njit(inline="always")  # pragma: no cover - compiled
def _step(word: Any, i: Any) -> Any:
    """One step of the seeding; every operation is cast, or numba widens it to 64 bits."""
    mixed = np.uint32(word ^ np.uint32(word >> np.uint32(30)))
    return np.uint32(np.uint32(mixed * np.uint32(1812433253)) + np.uint32(i))


@nb.njit(inline="always")  # pragma: no cover - compiled
def _signed_word(first: Any, second: Any, middle: Any) -> Any:
    """The tempered word that x(j), x(j+1), x(j+397) make, as a signed number: the point's coordinate * 2**31."""
    joined = np.uint32((first & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF)))
    odd = np.uint32(np.uint32(0) - np.uint32(joined & np.uint32(1)))
    y = np.uint32(middle ^ np.uint32(joined >> np.uint32(1)) ^ np.uint32(odd & np.uint32(0x9908B0DF)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(11)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(7)) & np.uint32(0x9D2C5680)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(15)) & np.uint32(0xEFC60000)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(18)))
    return np.int32(y ^ np.uint32(0x80000000))


@nb.njit(**_compiled)  # pragma: no cover - compiled
def _first_words(start: Any, attempts: Any, words: Any, last: Any) -> None:
    """x(0) .. x(4 * attempts) of each seed; the last of them again in `last`."""
    wide_vectors()
    row = words[0]
    for i in range(LANES):
        row[i] = np.uint32(np.uint32(start) + np.uint32(i))
    for j in range(1, 4 * attempts + 1, 4):
        before, a, b, c, d = words[j - 1], words[j], words[j + 1], words[j + 2], words[j + 3]
        for i in range(LANES):
            v = _step(before[i], j)
            a[i] = v
            v = _step(v, j + 1)
            b[i] = v
            v = _step(v, j + 2)
            c[i] = v
            d[i] = _step(v, j + 3)
    row = words[4 * attempts]
    for i in range(LANES):
        last[i] = row[i]


@nb.njit(**_compiled)  # pragma: no cover - compiled
def _four_steps(word: Any, j: Any, out: Any) -> None:
    wide_vectors()
    for i in range(LANES):
        out[i] = _step(_step(_step(_step(word[i], j), j + 1), j + 2), j + 3)


@nb.njit(**_compiled)  # pragma: no cover - compiled
def _point(
    words: Any,
    attempt: Any,
    word: Any,
    accepted: Any,
    out: Any,
    accepted_out: Any,
    small: Any,
    large: Any,
) -> None:
    """One point of the polar method: its smaller and its larger coordinate, or (1, 0), which no ratio fits."""
    wide_vectors()
    w0, w1 = words[4 * attempt], words[4 * attempt + 1]
    w2, w3 = words[4 * attempt + 2], words[4 * attempt + 3]
    j = 397 + 4 * attempt
    for i in range(LANES):
        v = _step(word[i], j)
        x1 = abs(np.float32(_signed_word(w0[i], w1[i], v)))
        v = _step(_step(v, j + 1), j + 2)
        x2 = abs(np.float32(_signed_word(w2[i], w3[i], v)))
        out[i] = _step(v, j + 3)
        radius = np.float32(np.float32(x1 * x1) + np.float32(x2 * x2))
        inside = radius < np.float32(4611686018427387904.0)  # 2**62
        less = x1 if x1 < x2 else x2
        more = x2 if x1 < x2 else x1
        small[i] = less if inside else np.float32(1)
        large[i] = more if inside else np.float32(0)
        accepted_out[i] = np.int32(accepted[i] + np.int32(inside))


@nb.njit(**_compiled)  # pragma: no cover - compiled
def _compare(
    accepted: Any, small: Any, large: Any, place: Any, low: Any, high: Any, hits: Any, out: Any
) -> None:
    """Count the targets that the points meet, :data:`TOGETHER` of them."""
    wide_vectors()
    place0, place1, place2 = place[0], place[1], place[2]
    low0, low1, low2 = low[0], low[1], low[2]
    high0, high1, high2 = high[0], high[1], high[2]
    for i in range(LANES):
        a, s, t = accepted[i], small[i], large[i]
        meets0 = (a == place0) & (s >= np.float32(low0 * t)) & (s <= np.float32(high0 * t))
        meets1 = (a == place1) & (s >= np.float32(low1 * t)) & (s <= np.float32(high1 * t))
        meets2 = (a == place2) & (s >= np.float32(low2 * t)) & (s <= np.float32(high2 * t))
        out[i] = np.int32(hits[i] + np.int32(np.int32(meets0) + np.int32(meets1)) + np.int32(meets2))


@nb.njit(**_compiled)  # pragma: no cover - compiled
def _survivors(
    start: Any, groups: Any, place: Any, low: Any, high: Any, count: Any, needed: Any, out: Any
) -> Any:
    """Seeds of `groups` groups that survive, ascending; how many."""
    wide_vectors()
    attempts = len(count)
    words = np.empty((4 * attempts + 1, LANES), np.uint32)
    word, next_word = np.empty(LANES, np.uint32), np.empty(LANES, np.uint32)
    small, large = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    accepted, next_accepted = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    hits, next_hits = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    found = 0
    for group in range(groups):
        first = np.uint32(start + group * LANES)
        _first_words(first, attempts, words, word)
        for j in range(4 * attempts + 1, 397, 4):
            _four_steps(word, j, next_word)
            word, next_word = next_word, word
        accepted[:] = 0
        hits[:] = 0
        for a in range(attempts):
            _point(words, a, word, accepted, next_word, next_accepted, small, large)
            word, next_word = next_word, word
            for t in range(0, count[a], TOGETHER):
                some = slice(t, t + TOGETHER)
                _compare(accepted, small, large, place[a, some], low[a, some], high[a, some], hits, next_hits)
                hits, next_hits = next_hits, hits
            accepted, next_accepted = next_accepted, accepted
        enough = np.int32(0)
        for i in range(LANES):
            enough = np.int32(enough + np.int32(hits[i] >= needed))
        if enough > 0:
            for i in range(LANES):
                if hits[i] >= needed:
                    out[found] = np.uint32(first + np.uint32(i))
                    found += 1
    return found


def _look(plan: ScanPlan, epoch: FirstEpoch, start: int, stop: int) -> tuple[int, list[int]]:
    """Survivors (how many) and fitting seeds of a range."""
    survivors, fitting = 0, []
    out = np.empty(_PIECE, np.uint32)
    for first in range(start, stop, _PIECE):
        size = min(_PIECE, stop - first)
        groups = -(-size // LANES)
        found = int(
            _survivors(first, groups, plan.accepted, plan.low, plan.high, plan.count, plan.needed, out)
        )
        seeds = out[:found].astype(np.int64)
        # The last group may go past the end of the range, and past 2**32.
        seeds = seeds[(seeds >= first) & (seeds < first + size)]
        survivors += len(seeds)
        fitting += seeds[epoch_fits(epoch, seeds)].tolist()
    return survivors, fitting


def scan(
    plan: ScanPlan,
    epoch: FirstEpoch,
    start: int,
    stop: int,
    verify: Callable[[int], bool],
    *,
    threads: int | None = None,
) -> ScanOutcome:
    """Scan the seeds start .. stop-1 and return the lowest that is verified.

    Parameters
    ----------
    plan : ScanPlan
        From :func:`.scan_plan.plan_scan`.
    epoch : FirstEpoch
        The labels of the first epoch, which survivors must reproduce.
    start, stop : int
        0 .. 2**32.
    verify : callable
        Says of a seed that fits whether it reproduces everything.
    threads : int, optional
        As many as numba uses by default.

    Returns
    -------
    ScanOutcome
    """
    threads = threads or nb.get_num_threads()
    survivors = fitting = 0
    with (
        ThreadPoolExecutor(threads) as pool,
        progress(total=stop - start, desc="scanning seeds", unit=" seeds", scaled=True) as bar,
    ):
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            share = -(-(last - first) // (threads * LANES)) * LANES
            parts = [(low, min(low + share, last)) for low in range(first, last, share)]
            found = list(pool.map(lambda part: _look(plan, epoch, *part), parts))
            survivors += sum(count for count, _ in found)
            seeds = sorted(seed for _, more in found for seed in more)
            fitting += len(seeds)
            bar.update(last - first)
            for seed in seeds:
                if verify(seed):
                    return ScanOutcome(seed, start, last, survivors, fitting, 1, plan)
    return ScanOutcome(None, start, max(start, stop), survivors, fitting, 0, plan)
