"""Find the 32-bit seed of the coefficients among all 2^32, from the labels of the first rows.

numpy's legacy normal numbers come in pairs: of four words w0 .. w3, ``x1 = 2 (w0>>5, w1>>6) - 1`` and
``x2 = 2 (w2>>5, w3>>6) - 1``, where (a, b) is the fraction (a 2^26 + b) / 2^53; a point (x1, x2) in the unit disc gives
first f x2, then f x1, with f = sqrt(-2 log(r^2) / r^2) (Marsaglia's polar method). The ratio of the first two
coefficients of a row is therefore |x2| / |x1|. The label shows both coefficients if the private images have different
classes, but not in which order. The scan therefore compares the smaller divided by the larger.

Any row may have been redrawn. Several rows are therefore compared, and a seed *survives* if enough ratios agree. A
survivor must then reproduce the first rows with numpy's own ``RandomState``, except those that it redraws, and finally
all labels. Kernels work on 256 seeds at a time and compile to vector instructions; casts keep numba from widening
32-bit operations to 64 bits.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

from instahide_nb.attacks.generator.replay import makes_labels, rows_agree
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.arrays import Bool, Float, Float32, Float64, Int32, Int64, UInt32
from instahide_nb.core.errors import InputError
from instahide_nb.core.kernels import kernel
from instahide_nb.core.progress import progress
from instahide_nb.core.threads import thread_count
from instahide_nb.scheme.encryption import WEIGHT_ONE, meets_constraints, normalised
from instahide_nb.scheme.mersenne import seeding_step

CHUNK = 1 << 24
"""Seeds between two steps of the progress bar; a scan stops after the chunk in which a seed was verified."""

LANES = 256  # seeds at a time: they and their first words fit in the second-level cache
_TOGETHER = 3  # targets compared at a time
_PARTS = 4  # parts of a chunk per thread
_PIECE = 1 << 20  # seeds whose survivors are collected before they are checked
_CHECKED_ROWS = 32  # rows that a survivor must reproduce unless they were redrawn
_FEWEST_DECIMALS = 3
_FEWEST_ROWS = 7
_MOST_SURVIVORS = 2e-3  # largest share of wrong seeds that survive
_MOST_OVERLOOKED = 0.01  # largest probability that the right seed does not survive
_MOST_ATTEMPTS = 56  # points whose words depend only on seeding steps, not on other outputs
_RATIO_ROUNDING = 2.0**-21  # error of 32-bit words and single precision
_NEVER = 2.0  # lower end of an interval that contains no ratio
_SHOWN_ALONE = 0.4  # p > 2: least probability that no coefficient of a pair shares its class with another

Tables = tuple[Int32, Float32, Float32, Int64]
"""Targets that each point may meet: points in the disc before it, least and greatest ratio (attempts, t); number."""


def label_tolerance(label: Float, k: int) -> tuple[float, int | None]:
    """The largest error of an entry of a label, and its number of decimals if labels were rounded (else None)."""
    exact = (k + 1) / WEIGHT_ONE  # after rounding to multiples of 2^-24, the remainder is added to the largest
    values = np.asarray(label, np.float64)
    values = values[values > 0]
    for decimals in range(6):
        scaled = values * 10**decimals
        if len(values) and np.abs(scaled - np.rint(scaled)).max() <= 10**decimals * 2.0**-24:
            return 0.5 * 10.0**-decimals + exact, decimals
    return exact, None


def ratio_targets(label: Float, k: int, places: int, tolerance: float) -> tuple[Int64, Float64, Float64]:
    """Ratios of the smaller coefficient to the larger that the right seed may reproduce: row, least, greatest (t,).

    `label` (N, classes) has sums of the first `places` of k coefficients. A row is used if it starts with a new pair of
    normal numbers (every other row if k is odd) and shows both of their coefficients. If it shows more, each pair of
    values gives a possible ratio.
    """
    found = []
    for r in range(0, len(label), 1 if k % 2 == 0 else 2):
        values = np.sort(np.asarray(label[r], np.float64)[label[r] > 0])
        # With fewer values, hardly any pair of them would be two single coefficients.
        if max(2, places - 1) <= len(values) <= places:
            for small, large in itertools.combinations(values, 2):
                least = (small - tolerance) / (large + tolerance)
                found.append((r, least, (small + tolerance) / max(large - tolerance, tolerance)))
    row, low, high = np.array(found, np.float64).reshape(-1, 3).T
    return row.astype(np.int64), low, high


def chance_to_meet(low: Float64, high: Float64) -> Float64:
    """Probability that the ratio r of a wrong seed, with density 4 / pi / (1 + r^2), is between `low` and `high`."""
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return (high - low) * 4 / np.pi / (1 + ((low + high) / 2) ** 2)


def _last_attempt(accepted: int) -> int:
    """The attempt by which the disc has `accepted` + 1 points: the mean plus 2.5 standard deviations."""
    inside = np.pi / 4
    mean, variance = (accepted + 1) / inside, (accepted + 1) * (1 - inside) / inside**2
    return int(np.ceil(mean + 2.5 * np.sqrt(variance))) + 1


def _choose_rows(chance: Float64, kept: float) -> tuple[float, int, int]:
    """Probability of overlooking the right seed, number of rows (0: none), number of ratios that must agree.

    ``chance[i]`` is the expected number of ratios that a wrong seed meets in the first i + 1 rows; `kept` is the
    probability that the right seed meets the ratio of a row. As few rows as possible are used; few wrong seeds must
    survive, and the right one must rarely be overlooked.
    """
    from scipy.special import bdtr  # P(at most m of n)

    best = (2.0, 0, 0)
    for size in range(min(_FEWEST_ROWS, len(chance)), len(chance) + 1):
        for needed in range(1, size + 1):
            if 1 - bdtr(needed - 1, size, min(chance[size - 1] / size, 0.99)) <= _MOST_SURVIVORS:
                best = min(best, (float(bdtr(needed - 1, size, kept)), size, needed))
                break
        if best[0] <= _MOST_OVERLOOKED:
            break
    return best


def _tables(before: Int64, low: Float64, high: Float64) -> Tables:
    """The tables of targets (t,); `before` is the number of points in the disc before a target's row."""
    last = np.array([_last_attempt(int(c)) for c in before])
    possible = [np.flatnonzero((before <= a) & (a < last)) for a in range(int(last.max()))]
    shape = len(possible), -(-max(len(p) for p in possible) // _TOGETHER) * _TOGETHER
    place, least, greatest = np.zeros(shape, np.int32), *np.full((2, *shape), _NEVER, np.float32)
    for a, chosen in enumerate(possible):
        place[a, : len(chosen)] = before[chosen]
        least[a, : len(chosen)] = low[chosen] - _RATIO_ROUNDING
        greatest[a, : len(chosen)] = high[chosen] + _RATIO_ROUNDING
    return place, least, greatest, np.array([len(p) for p in possible])


@numba.njit(inline="always")
def _signed_word(first: Any, second: Any, middle: Any) -> Any:
    """The output word of x(j), x(j+1) and x(j+397) as a signed number: a coordinate of a point times 2^31."""
    joined = np.uint32((first & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF)))
    odd = np.uint32(np.uint32(0) - np.uint32(joined & np.uint32(1)))
    y = np.uint32(middle ^ np.uint32(joined >> np.uint32(1)) ^ np.uint32(odd & np.uint32(0x9908B0DF)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(11)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(7)) & np.uint32(0x9D2C5680)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(15)) & np.uint32(0xEFC60000)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(18)))
    return np.int32(y ^ np.uint32(0x80000000))


@kernel
def _four_steps(word: UInt32, j: int, out: UInt32) -> None:
    """x(j) .. x(j+3) from x(j-1)."""
    a, b, c, d = out[0], out[1], out[2], out[3]
    for i in range(LANES):
        v = seeding_step(word[i], j)
        a[i] = v
        v = seeding_step(v, j + 1)
        b[i] = v
        v = seeding_step(v, j + 2)
        c[i] = v
        d[i] = seeding_step(v, j + 3)


@kernel
def _point(a: int, words: UInt32, state: UInt32, accepted: Int32, points: Float32) -> None:
    """Point number a: its smaller and larger coordinate. Outside the disc it is (1, 0), which meets no ratio.

    Steps from one row of `state` and `accepted` to the other: from x(4a+396) to x(4a+400), and the number of points in
    the disc.
    """
    w0, w1, w2, w3 = words[4 * a], words[4 * a + 1], words[4 * a + 2], words[4 * a + 3]
    word, next_word = state[a % 2], state[1 - a % 2]
    count, next_count = accepted[a % 2], accepted[1 - a % 2]
    small, large = points[0], points[1]
    j = 397 + 4 * a
    for i in range(LANES):
        v = seeding_step(word[i], j)
        x1 = abs(np.float32(_signed_word(w0[i], w1[i], v)))
        v = seeding_step(seeding_step(v, j + 1), j + 2)
        x2 = abs(np.float32(_signed_word(w2[i], w3[i], v)))
        next_word[i] = seeding_step(v, j + 3)
        inside = np.float32(np.float32(x1 * x1) + np.float32(x2 * x2)) < np.float32(2.0**62)
        less = x1 if x1 < x2 else x2
        more = x2 if x1 < x2 else x1
        small[i] = less if inside else np.float32(1)
        large[i] = more if inside else np.float32(0)
        next_count[i] = np.int32(count[i] + np.int32(inside))


@kernel
def _compare(count: Int32, points: Float32, place: Int32, low: Float32, high: Float32, hits: Int32, out: Int32) -> None:
    """out = hits + how many of the three targets each point meets."""
    small, large = points[0], points[1]
    place0, place1, place2 = place[0], place[1], place[2]
    low0, low1, low2 = low[0], low[1], low[2]
    high0, high1, high2 = high[0], high[1], high[2]
    for i in range(LANES):
        a, s, t = count[i], small[i], large[i]
        meets0 = (a == place0) & (s >= np.float32(low0 * t)) & (s <= np.float32(high0 * t))
        meets1 = (a == place1) & (s >= np.float32(low1 * t)) & (s <= np.float32(high1 * t))
        meets2 = (a == place2) & (s >= np.float32(low2 * t)) & (s <= np.float32(high2 * t))
        out[i] = np.int32(hits[i] + np.int32(np.int32(meets0) + np.int32(meets1)) + np.int32(meets2))


@kernel
def _survivors(start: int, groups: int, tables: Tables, needed: int, found: UInt32) -> int:
    """Write the surviving seeds of `groups` groups of LANES to `found`, ascending; returns their number."""
    place, low, high, count = tables
    attempts, survivors = len(count), 0
    words, spare = np.empty((4 * attempts + 1, LANES), np.uint32), np.empty((2, 4, LANES), np.uint32)
    state, points = np.empty((2, LANES), np.uint32), np.empty((2, LANES), np.float32)
    accepted, hits = np.empty((2, LANES), np.int32), np.empty((2, LANES), np.int32)
    for group in range(groups):
        seeds = words[0]
        for i in range(LANES):
            seeds[i] = np.uint32(np.uint32(start + group * LANES) + np.uint32(i))
        word = words[0]
        for j in range(1, 397, 4):
            out = words[j : j + 4] if j < 4 * attempts else spare[j // 4 % 2]
            _four_steps(word, j, out)
            word = out[3]
        for i in range(LANES):
            state[0, i], accepted[0, i], hits[0, i] = word[i], 0, 0
        c = 0
        for a in range(attempts):
            _point(a, words, state, accepted, points)
            for t in range(0, count[a], _TOGETHER):
                own = slice(t, t + _TOGETHER)
                before = accepted[a % 2]
                _compare(before, points, place[a, own], low[a, own], high[a, own], hits[c % 2], hits[1 - c % 2])
                c += 1
        total = hits[c % 2]
        for i in range(LANES):
            if total[i] >= needed:
                found[survivors] = seeds[i]
                survivors += 1
    return survivors


@dataclass(frozen=True)
class SeedTest:
    """What is compared for each seed."""

    rows: Int64  # rows of the labels whose ratios are compared
    needed: int  # how many ratios must agree
    overlooked: float  # probability that the right seed, which may redraw rows, does not survive
    tables: Tables
    label: Float64  # the first rows
    tolerance: float
    info: ReleaseInfo

    @classmethod
    def of(cls, release: Release, tolerance: float) -> SeedTest | None:
        """None if no row of the labels shows a ratio of two coefficients."""
        info, label = release.info, np.asarray(release.shown[: release.info.n_private], np.float64)
        places, k = info.private_per_row, info.k
        row, low, high = ratio_targets(label, k, places, tolerance)
        usable = np.unique(row)
        usable = usable[[_last_attempt(int(r) * k // 2) <= _MOST_ATTEMPTS for r in usable]]
        chance = np.cumsum([chance_to_meet(low[row == r], high[row == r]).sum() for r in usable])
        kept = float(_drawn(np.random.RandomState(0).standard_normal((20_000, k)), info)[1].mean())
        overlooked, size, needed = _choose_rows(chance, kept * (1.0 if places == 2 else _SHOWN_ALONE))
        if size == 0:
            return None
        own = np.isin(row, usable[:size])
        tables = _tables(row[own] * k // 2, low[own], high[own])
        return cls(usable[:size], needed, overlooked, tables, label[:_CHECKED_ROWS], tolerance, info)

    def survivors(self, start: int, stop: int) -> Int64:
        """Seeds in start .. stop-1 for which enough ratios agree."""
        out, groups = np.empty(stop - start + LANES, np.uint32), -(-(stop - start) // LANES)
        seeds = out[: _survivors(start, groups, self.tables, self.needed, out)].astype(np.int64)
        # The last group may pass the end of the range, and 2^32.
        return seeds[(seeds >= start) & (seeds < stop)]

    def fits(self, seeds: Int64) -> Bool:
        """Which seeds reproduce the first rows, except those that they redraw."""
        generator = np.random.RandomState()
        normals = np.empty((len(seeds), len(self.label), self.info.k))
        for i, seed in enumerate(seeds.tolist()):
            generator.seed(seed)
            normals[i] = generator.standard_normal(normals.shape[1:])
        coefficient, kept = _drawn(normals, self.info)
        private = coefficient[..., : self.info.private_per_row]
        return np.logical_and.reduce(rows_agree(self.label, private, self.tolerance) | ~kept, axis=1)


def _drawn(normals: Float64, info: ReleaseInfo) -> tuple[Float64, Bool]:
    """Coefficients from normal numbers, and which rows meet the constraints."""
    coefficient, limits = normalised(normals), (info.max_coefficient, info.least_private_sum, info.private_per_row)
    return coefficient, meets_constraints(coefficient, *limits)


def scan(
    test: SeedTest, start: int, stop: int, verify: Callable[[int], bool], *, threads: int | None = None
) -> tuple[int | None, int, int, int]:
    """Scan the seeds start .. stop-1 for the lowest that fits the first rows and that `verify` accepts.

    Returns this seed or None, the end of the scan, and the numbers of seeds that survived and that fit the first rows.
    """
    threads = threads or thread_count()

    def look(part: tuple[int, int]) -> tuple[int, list[int]]:
        survivors, fitting = 0, []
        for low in range(*part, _PIECE):
            seeds = test.survivors(low, min(low + _PIECE, part[1]))
            survivors += len(seeds)
            fitting += seeds[test.fits(seeds)].tolist()
        return survivors, fitting

    survivors, fitting, first = 0, 0, start
    with (
        ThreadPoolExecutor(threads) as pool,
        progress(total=stop - start, desc="scanning seeds", unit=" seeds", scaled=True) as bar,
    ):
        try:
            for first in range(start, stop, CHUNK):
                last = min(first + CHUNK, stop)
                share = -(-(last - first) // (_PARTS * threads * LANES)) * LANES
                parts = [(low, min(low + share, last)) for low in range(first, last, share)]
                found = list(pool.map(look, parts))
                survivors += sum(count for count, _ in found)
                seeds = sorted(seed for _, more in found for seed in more)
                fitting += len(seeds)
                bar.update(last - first)
                for seed in seeds:
                    if verify(seed):
                        return seed, last, survivors, fitting
        except KeyboardInterrupt:
            print(f"scan interrupted; continue with -p seed_start={first}", file=sys.stderr, flush=True)
            raise
    return None, stop, survivors, fitting


def find_seed(
    release: Release, seed_start: int = 0, seed_stop: int = 2**32
) -> tuple[int | None, dict[str, object]] | None:
    """The lowest seed that reproduces all labels, or None; and details for JSON.

    None instead of both if no row of the labels shows a ratio of coefficients. Raises InputError if the range is not
    within 0 .. 2^32, or if labels have fewer than three decimals.
    """
    if not 0 <= seed_start < seed_stop <= 2**32:
        raise InputError(f"seed_start, seed_stop: {seed_start} .. {seed_stop} is not within 0 .. {2**32}")
    tolerance, decimals = label_tolerance(release.shown, release.info.k)
    if decimals is not None and decimals < _FEWEST_DECIMALS:
        raise InputError(
            f"label.npy: its values have {decimals} decimals, which too many seeds would fit; prng-seed needs "
            f"{_FEWEST_DECIMALS} or more, prng-state does not need them"
        )
    test = SeedTest.of(release, tolerance)
    if test is None:
        return None
    verify = partial(makes_labels, release, tolerance=tolerance)
    seed, stop, survivors, fitting = scan(test, seed_start, seed_stop, verify)
    funnel = {"seeds": stop - seed_start, "survivors": survivors, "fit the first rows": fitting}
    return seed, {
        "label_decimals": "exact" if decimals is None else decimals,
        "rows_compared": test.rows.tolist(),
        "ratios_needed": test.needed,
        "chance_to_overlook": round(test.overlooked, 6),
        "scanned": [seed_start, stop],
        "funnel": funnel | {"verified": int(seed is not None)},
        "seed": seed,
    }
