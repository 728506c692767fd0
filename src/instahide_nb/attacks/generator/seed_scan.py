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

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numba as nb
import numpy as np

from instahide_nb.attacks.generator.first_epoch import FirstEpoch, epoch_fits
from instahide_nb.attacks.generator.row_decision import (
    add_numbers,
    deciding_rows,
    numbers,
    show_ratio,
    undecided,
)
from instahide_nb.attacks.generator.scan_mark import Progress, ScanMark
from instahide_nb.attacks.generator.scan_plan import TOGETHER, ScanPlan
from instahide_nb.attacks.generator.seed_lanes import (
    LANES,
    compiled,
    first_words,
    four_steps,
    point,
    wide_vectors,
)
from instahide_nb.core.progress import progress

__all__ = ["CHUNK", "ScanOutcome", "scan"]

CHUNK = 1 << 24
"""Seeds between two steps of the progress bar; a scan stops behind the chunk in which a seed was verified."""

_PARTS = 4  # of a chunk for each thread, so that none waits long for another
_PIECE = 1 << 20  # seeds whose survivors are noted before they are checked


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


@nb.njit(**compiled)  # pragma: no cover - compiled
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


@nb.njit(**compiled)  # pragma: no cover - compiled
def _start(first: Any, attempts: Any, words: Any, last: Any, spare: Any) -> None:
    """x(0) .. x(4 * attempts) of LANES seeds from `first` on, and x(396) in `last`."""
    row = words[0]
    for i in range(LANES):
        row[i] = np.uint32(np.uint32(first) + np.uint32(i))
    first_words(attempts, words)
    word, other, kept = words[4 * attempts], spare, last
    for j in range(4 * attempts + 1, 397, 4):
        four_steps(word, j, other)
        word, other, kept = other, kept, other
    last[:] = word


@nb.njit(**compiled)  # pragma: no cover - compiled
def _decide(words: Any, word: Any, rows: Any, stage: Any, ints: Any, floats: Any, stays: Any) -> None:
    """1 for each seed that row number `stage` does not rule out."""
    first, attempts, low, high, points, greatest, least = rows
    begin = first[stage]
    next_word, small, large, both, greater = words[-1], floats[0], floats[1], floats[2], floats[3]
    sums, next_sums = floats[4:7], floats[7:10]
    accepted, next_accepted, shown, next_shown = ints[0], ints[1], ints[2], ints[3]
    accepted[:] = 0
    shown[:] = 0
    sums[:] = 0
    for a in range(attempts[stage]):
        point(words, a, word, accepted, next_word, next_accepted, small, large)
        word, next_word = next_word, word
        if a >= begin:
            numbers(small, large, both, greater)
            add_numbers(accepted, large, both, greater, begin, points, sums, next_sums)
            show_ratio(accepted, small, large, begin, low[stage], high[stage], shown, next_shown)
            sums, next_sums = next_sums, sums
            shown, next_shown = next_shown, shown
        accepted, next_accepted = next_accepted, accepted
    undecided(accepted, shown, sums, begin + points, greatest, least, 2 * points, stays)


@nb.njit(**compiled)  # pragma: no cover - compiled
def _agree(words: Any, word: Any, plan: Any, ints: Any, floats: Any, stays: Any) -> None:
    """1 for each seed that shows enough ratios of any rows."""
    place, low, high, count, needed = plan
    next_word, small, large = words[-1], floats[0], floats[1]
    accepted, next_accepted, hits, next_hits = ints[0], ints[1], ints[2], ints[3]
    accepted[:] = 0
    hits[:] = 0
    for a in range(len(count)):
        point(words, a, word, accepted, next_word, next_accepted, small, large)
        word, next_word = next_word, word
        for t in range(0, count[a], TOGETHER):
            some = slice(t, t + TOGETHER)
            _compare(accepted, small, large, place[a, some], low[a, some], high[a, some], hits, next_hits)
            hits, next_hits = next_hits, hits
        accepted, next_accepted = next_accepted, accepted
    for i in range(LANES):
        stays[i] = np.int32(hits[i] >= needed)


@nb.njit(**compiled)  # pragma: no cover - compiled
def _survivors(start: Any, groups: Any, plan: Any, rows: Any, out: Any) -> Any:
    """Seeds of `groups` groups that survive, ascending; how many.

    The first stages look at one deciding row each, the last at all rows of the plan. Seeds that a stage does not rule
    out wait in a queue, with their x(396), until they fill all lanes of the next.
    """
    stages, attempts = len(rows[0]), len(plan[3])
    words = np.empty((4 * attempts + 2, LANES), np.uint32)  # and one more to work with
    word = np.empty(LANES, np.uint32)
    ints, floats = np.empty((4, LANES), np.int32), np.empty((10, LANES), np.float32)
    stays = np.empty(LANES, np.int32)
    queue, waiting = np.zeros((stages + 2, 2, 2 * LANES), np.uint32), np.zeros(stages + 2, np.int64)
    found = 0
    for group in range(groups + 1):  # in the last round queues are emptied
        if group < groups:
            waiting[0] = LANES
            tries = rows[1][0] if stages > 0 else attempts
            _start(start + group * LANES, tries, words, word, words[-1])
            queue[0, 0, :LANES] = words[0]
            queue[0, 1, :LANES] = word
        for stage in range(stages + 1):
            seeds, state = queue[stage]
            next_seeds, next_state = queue[stage + 1]
            while waiting[stage] >= LANES or (group == groups and waiting[stage] > 0):
                lanes = min(waiting[stage], LANES)
                if stage > 0:
                    words[0] = seeds[:LANES]
                    word[:] = state[:LANES]
                    first_words(rows[1][stage] if stage < stages else attempts, words)
                if stage < stages:
                    _decide(words, word, rows, stage, ints, floats, stays)
                else:
                    _agree(words, word, plan, ints, floats, stays)
                n = waiting[stage + 1]
                for i in range(lanes):
                    next_seeds[n] = seeds[i]
                    next_state[n] = state[i]
                    n += stays[i]
                waiting[stage + 1] = n
                waiting[stage] -= lanes
                for i in range(waiting[stage]):
                    seeds[i], state[i] = seeds[LANES + i], state[LANES + i]
        survivors = queue[stages + 1, 0]
        for i in range(waiting[stages + 1]):
            out[found] = survivors[i]
            found += 1
        waiting[stages + 1] = 0
    return found


def _look(plan: ScanPlan, epoch: FirstEpoch, start: int, stop: int) -> tuple[int, list[int]]:
    """Survivors (how many) and fitting seeds of a range."""
    survivors, fitting = 0, []
    out = np.empty(_PIECE + LANES, np.uint32)
    tables = (plan.accepted, plan.low, plan.high, plan.count, plan.needed)
    d = deciding_rows(epoch)
    rows = (d.first, d.attempts, d.low, d.high, d.points, d.greatest, d.least)
    for first in range(start, stop, _PIECE):
        size = min(_PIECE, stop - first)
        found = int(_survivors(first, -(-size // LANES), tables, rows, out))
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
    mark: ScanMark | None = None,
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
    mark : ScanMark, optional
        Goes on where an earlier scan of the same labels and range ended, and keeps how far this one comes.

    Returns
    -------
    ScanOutcome
    """
    threads = threads or nb.get_num_threads()
    begun = mark.read(start, stop) if mark else Progress(start)
    survivors, fitting = begun.survivors, begun.fitting
    with (
        ThreadPoolExecutor(threads) as pool,
        progress(total=stop - start, desc="scanning seeds", unit=" seeds", scaled=True) as bar,
    ):
        first = begun.next_seed
        bar.update(first - start)
        try:
            for first in range(begun.next_seed, stop, CHUNK):
                last = min(first + CHUNK, stop)
                share = -(-(last - first) // (_PARTS * threads * LANES)) * LANES
                parts = [(low, min(low + share, last)) for low in range(first, last, share)]
                found = list(pool.map(lambda part: _look(plan, epoch, *part), parts))
                survivors += sum(count for count, _ in found)
                seeds = sorted(seed for _, more in found for seed in more)
                fitting += len(seeds)
                for seed in seeds:
                    if verify(seed):
                        bar.update(last - first)
                        return ScanOutcome(seed, start, last, survivors, fitting, 1, plan)
                bar.update(last - first)
                if mark:
                    mark.write(Progress(last, survivors, fitting))
        except KeyboardInterrupt:
            # Chunks below `first` are done; this one counts as not looked at.
            print(f"scan interrupted; go on with -p seed_start={first}", file=sys.stderr, flush=True)
            raise
    return ScanOutcome(None, start, max(start, stop), survivors, fitting, 0, plan)
