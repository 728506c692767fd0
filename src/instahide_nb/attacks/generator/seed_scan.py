"""Find the 32-bit seed of the coefficients among all 2^32, from the labels of the first rows.

numpy's legacy normal numbers come in pairs: of four words w0 .. w3, ``x1 = 2 (w0>>5, w1>>6) - 1`` and
``x2 = 2 (w2>>5, w3>>6) - 1``, where (a, b) is the fraction (a 2^26 + b) / 2^53; a point (x1, x2) in the unit disc gives
first f x2, then f x1, with f = sqrt(-2 log(r^2) / r^2) (Marsaglia's polar method). If a row of coefficients starts with
such a pair, the ratio of its first two coefficients is |x2| / |x1|. The label shows both coefficients whenever the two
private images have different classes, but not which is which, so the smaller over the larger is compared.

Per seed this takes some 500 steps of the seeding and the top bits of two words per point. Any row may have been
redrawn, so several rows are compared, and a seed *survives* if enough ratios agree. Survivors must then reproduce the
first rows exactly (numpy's own ``RandomState``, seeded anew for each), and finally all labels.

Kernels work on 256 seeds side by side, from one array to another, so that they compile to vector instructions. A
32-bit operation that numba widened to 64 bits would prevent that, hence the casts.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from instahide_nb.attacks.generator.replay import makes_labels, rows_agree
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.params import private_per_row
from instahide_nb.core.progress import progress
from instahide_nb.core.threads import thread_count
from instahide_nb.scheme.encryption import WEIGHT_ONE

CHUNK = 1 << 24
"""Seeds between two steps of the progress bar; a scan stops after the chunk in which a seed was verified."""

LANES = 256  # seeds at a time: with their first words they fit in the second-level cache
_TOGETHER = 3  # targets compared at a time
_PARTS = 4  # of a chunk per thread
_PIECE = 1 << 20  # seeds whose survivors are collected before they are checked
_CHECKED_ROWS = 32  # rows that a survivor must reproduce unless they were redrawn
_FEWEST_DECIMALS = 3
_FEWEST_ROWS = 7
_MOST_SURVIVORS = 2e-3  # share of wrong seeds
_MOST_OVERLOOKED = 0.01  # probability
_MOST_ATTEMPTS = 56  # points whose words depend on the seeding alone, not on other words
_RATIO_ROUNDING = 2.0**-21  # words cut to 32 bits, single precision, over a radius that is seldom small
_NEVER = 2.0  # lower end of an interval that no ratio is in
_SHOWN_ALONE = (
    0.4  # inside: probability that neither coefficient of a pair shares its class with another, at least
)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]


def label_tolerance(label: npt.NDArray[np.floating], k: int) -> tuple[float, int | None]:
    """How far a label may be from the sum of coefficients that it shows, and its decimals if it was rounded.

    Rounding k coefficients to multiples of 2^-24 leaves a remainder, which is in the largest. Labels of fewer than
    three decimals are refused with an InputError: too many seeds would fit.

    Examples
    --------
    >>> label_tolerance(np.array([[0.1234, 0.0], [0.3005, 0.25]]), 6)[1]
    4
    >>> label_tolerance(np.array([[0.1234567, 0.0]]), 6)[1] is None
    True
    """
    exact = (k + 1) / WEIGHT_ONE
    values = np.asarray(label, np.float64)
    values = values[values > 0]
    for decimals in range(6):
        scaled = values * 10**decimals
        if len(values) and np.abs(scaled - np.rint(scaled)).max() <= 10**decimals * 2.0**-24:
            if decimals < _FEWEST_DECIMALS:
                raise InputError(
                    f"label.npy: its values have {decimals} decimals, which too many seeds would fit; prng-seed needs "
                    f"{_FEWEST_DECIMALS} or more, prng-state does not need them"
                )
            return 0.5 * 10.0**-decimals + exact, decimals
    return exact, None


@dataclass(frozen=True)
class RatioTargets:
    """Ratios of the smaller coefficient over the larger, between `low` and `high`, that the right seed reproduces.

    One entry per pair of label values; the entries of one `row` of the label are alternatives.
    """

    row: Int64
    low: Float64
    high: Float64

    def of(self, rows: Int64) -> RatioTargets:
        """The targets of some rows."""
        keep = np.isin(self.row, rows)
        return RatioTargets(self.row[keep], self.low[keep], self.high[keep])

    def chance(self) -> float:
        """Expected number of targets that a wrong seed meets; a ratio r has density 4 / pi / (1 + r^2)."""
        middle = np.clip((self.low + self.high) / 2, 0, 1)
        width = np.clip(self.high, 0, 1) - np.clip(self.low, 0, 1)
        return float((width * 4 / np.pi / (1 + middle * middle)).sum())


def ratio_targets(label: npt.NDArray[np.floating], k: int, places: int, tolerance: float) -> RatioTargets:
    """The ratios of those rows that start with a pair of normal numbers and show the coefficients of both.

    `label` (N, classes) is of the first epoch; its rows sum the first `places` of k coefficients. If k is odd, only
    every other row starts with a pair.

    Examples
    --------
    >>> targets = ratio_targets(np.array([[0.2, 0.4], [0.6, 0.0]]), 6, 2, 1e-6)
    >>> targets.row, bool((targets.low < 0.5).all() and (targets.high > 0.5).all())
    (array([0]), True)
    """
    found = []
    for r in range(0, len(label), 1 if k % 2 == 0 else 2):
        values = np.sort(np.asarray(label[r], np.float64)[label[r] > 0])
        # If more than one class were missing, hardly any pair of values would be two single coefficients.
        if max(2, places - 1) <= len(values) <= places:
            for small, large in itertools.combinations(values, 2):
                low = (small - tolerance) / (large + tolerance)
                found.append((r, low, (small + tolerance) / max(large - tolerance, tolerance)))
    row, low, high = np.array(found, np.float64).reshape(-1, 3).T
    return RatioTargets(row.astype(np.int64), low, high)


@dataclass(frozen=True)
class ScanPlan:
    """What is compared for each seed.

    Attributes
    ----------
    rows : (r,) int64 array
        Rows of the label that are compared.
    needed : int
        How many ratios must agree.
    accepted : (attempts, t) int32 array
        Per point, how many points in the disc come before it if it is the first pair of a target's row.
    low, high : (attempts, t) float32 arrays
        Intervals of the ratio of these targets.
    count : (attempts,) int64 array
        How many targets there are.
    overlooked : float
        Probability that the right seed does not survive, because too many of the rows were redrawn.
    """

    rows: Int64
    needed: int
    accepted: Int32
    low: Float32
    high: Float32
    count: Int64
    overlooked: float


def _last_attempt(accepted: int) -> int:
    """The attempt by which point number `accepted` of those in the disc has come, but for 2.5 standard deviations."""
    inside = np.pi / 4
    mean, variance = (accepted + 1) / inside, (accepted + 1) * (1 - inside) / inside**2
    return int(np.ceil(mean + 2.5 * np.sqrt(variance))) + 1


def plan_scan(targets: RatioTargets, k: int, kept: float) -> ScanPlan | None:
    """Choose as few rows as possible such that few wrong seeds survive and the right one hardly ever fails.

    `kept` is the share of rows of k coefficients that are not redrawn. None if no row can be compared.
    """
    from scipy.special import bdtr  # P(at most m of n)

    usable = np.unique(targets.row)
    usable = usable[[_last_attempt(int(r) * k // 2) <= _MOST_ATTEMPTS for r in usable]]
    best: tuple[float, Int64, int] | None = None
    for size in range(min(_FEWEST_ROWS, len(usable)), len(usable) + 1):
        rows = usable[:size]
        chance = min(targets.of(rows).chance() / max(size, 1), 0.99)
        for needed in range(1, size + 1):
            if 1 - bdtr(needed - 1, size, chance) <= _MOST_SURVIVORS:
                overlooked = float(bdtr(needed - 1, size, kept))
                if best is None or overlooked < best[0]:
                    best = (overlooked, rows, needed)
                break
        if best is not None and best[0] <= _MOST_OVERLOOKED:
            break
    if best is None or len(best[1]) == 0:
        return None
    overlooked, rows, needed = best
    return ScanPlan(rows, needed, *_intervals(targets.of(rows), k), overlooked)


def _intervals(targets: RatioTargets, k: int) -> tuple[Int32, Float32, Float32, Int64]:
    """Per attempt, the intervals of those targets whose first pair that attempt may be."""
    before = targets.row * k // 2  # points before the row's first pair
    last = np.array([_last_attempt(int(c)) for c in before])
    attempts = int(last.max())
    possible = [np.flatnonzero((before <= a) & (a < last)) for a in range(attempts)]
    most = -(-max(len(p) for p in possible) // _TOGETHER) * _TOGETHER
    accepted = np.zeros((attempts, most), np.int32)
    low, high = np.full((2, attempts, most), _NEVER, np.float32)
    for a, chosen in enumerate(possible):
        accepted[a, : len(chosen)] = before[chosen]
        low[a, : len(chosen)] = targets.low[chosen] - _RATIO_ROUNDING
        high[a, : len(chosen)] = targets.high[chosen] + _RATIO_ROUNDING
    return accepted, low, high, np.array([len(p) for p in possible], np.int64)


@intrinsic
def wide_vectors(_: Any) -> Any:
    """Allow 512-bit vectors in the function that calls this.

    LLVM 20 still keeps to 256 bits on Intel's processors with AVX-512; a scan then takes 1.2 times as long. It knows
    this attribute of a function; llvmlite does not list it, hence ``set.add``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(builder.function.attributes, set):
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return numba.types.none(), generate


_compiled: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}


@numba.njit(inline="always")
def _step(word: Any, i: Any) -> Any:
    """One step of the seeding: ``x(i) = 1812433253 (x(i-1) ^ x(i-1) >> 30) + i``."""
    mixed = np.uint32(word ^ np.uint32(word >> np.uint32(30)))
    return np.uint32(np.uint32(mixed * np.uint32(1812433253)) + np.uint32(i))


@numba.njit(inline="always")
def _signed_word(first: Any, second: Any, middle: Any) -> Any:
    """The word that x(j), x(j+1), x(j+397) make, as a signed number: a point's coordinate times 2^31."""
    joined = np.uint32((first & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF)))
    odd = np.uint32(np.uint32(0) - np.uint32(joined & np.uint32(1)))
    y = np.uint32(middle ^ np.uint32(joined >> np.uint32(1)) ^ np.uint32(odd & np.uint32(0x9908B0DF)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(11)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(7)) & np.uint32(0x9D2C5680)))
    y = np.uint32(y ^ np.uint32(np.uint32(y << np.uint32(15)) & np.uint32(0xEFC60000)))
    y = np.uint32(y ^ np.uint32(y >> np.uint32(18)))
    return np.int32(y ^ np.uint32(0x80000000))


@numba.njit(**_compiled)
def _four_steps(word: UInt32, j: int, out: UInt32) -> None:
    """x(j) .. x(j+3) from x(j-1)."""
    wide_vectors()
    a, b, c, d = out[0], out[1], out[2], out[3]
    for i in range(LANES):
        v = _step(word[i], j)
        a[i] = v
        v = _step(v, j + 1)
        b[i] = v
        v = _step(v, j + 2)
        c[i] = v
        d[i] = _step(v, j + 3)


@numba.njit(**_compiled)
def _point(
    words: UInt32,
    word: UInt32,
    j: int,
    accepted: Int32,
    out: UInt32,
    accepted_out: Int32,
    small: Float32,
    large: Float32,
) -> None:
    """The point of x(j) .. x(j+4), `words`, and x(j+396), `word`: its smaller and its larger coordinate.

    Outside the disc they are (1, 0), which no ratio fits.
    """
    wide_vectors()
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    for i in range(LANES):
        v = _step(word[i], j + 397)
        x1 = abs(np.float32(_signed_word(w0[i], w1[i], v)))
        v = _step(_step(v, j + 398), j + 399)
        x2 = abs(np.float32(_signed_word(w2[i], w3[i], v)))
        out[i] = _step(v, j + 400)
        inside = np.float32(np.float32(x1 * x1) + np.float32(x2 * x2)) < np.float32(2.0**62)
        less = x1 if x1 < x2 else x2
        more = x2 if x1 < x2 else x1
        small[i] = less if inside else np.float32(1)
        large[i] = more if inside else np.float32(0)
        accepted_out[i] = np.int32(accepted[i] + np.int32(inside))


@numba.njit(**_compiled)
def _compare(
    accepted: Int32,
    small: Float32,
    large: Float32,
    place: Int32,
    low: Float32,
    high: Float32,
    hits: Int32,
    out: Int32,
) -> None:
    """Add to `hits` how many of three targets the points meet."""
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


@numba.njit(**_compiled)
def _survivors(
    start: int,
    groups: int,
    place: Int32,
    low: Float32,
    high: Float32,
    count: Int64,
    needed: int,
    found: UInt32,
) -> int:
    """Write the surviving seeds of `groups` groups of LANES to `found`, ascending; returns how many."""
    attempts, survivors = len(count), 0
    words, spare = np.empty((4 * attempts + 1, LANES), np.uint32), np.empty((2, 4, LANES), np.uint32)
    states, points = np.empty((2, LANES), np.uint32), np.empty((2, LANES), np.float32)
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
        accepted[0] = 0
        hits[0] = 0
        compared = 0
        for a in range(attempts):
            old, new = a % 2, 1 - a % 2
            _point(
                words[4 * a :], word, 4 * a, accepted[old], states[new], accepted[new], points[0], points[1]
            )
            word = states[new]
            for t in range(0, count[a], _TOGETHER):
                some = slice(t, t + _TOGETHER)
                _compare(
                    accepted[old],
                    points[0],
                    points[1],
                    place[a, some],
                    low[a, some],
                    high[a, some],
                    hits[compared % 2],
                    hits[1 - compared % 2],
                )
                compared += 1
        total = hits[compared % 2]
        for i in range(LANES):
            if total[i] >= needed:
                found[survivors] = seeds[i]
                survivors += 1
    return survivors


@dataclass(frozen=True)
class SeedTest:
    """The tests of one release: the plan, and the labels of the first rows."""

    plan: ScanPlan
    label: Float64
    places: int
    tolerance: float
    k: int
    max_coefficient: float
    min_private_sum: float

    @classmethod
    def of(cls, release: Release, tolerance: float) -> SeedTest | None:
        """None if no row of the labels shows a ratio of two coefficients."""
        info = release.info
        places = private_per_row(info.scheme, info.k)
        least = info.min_private_sum if info.scheme == "cross" else 0.0
        label = np.asarray(release.label[: info.n_private], np.float64)
        normals = np.random.RandomState(0).standard_normal((20_000, info.k))
        kept = float(_drawn(normals, info.max_coefficient, least)[1].mean())
        targets = ratio_targets(label, info.k, places, tolerance)
        plan = plan_scan(targets, info.k, kept * (1.0 if places == 2 else _SHOWN_ALONE))
        if plan is None:
            return None
        return cls(plan, label[:_CHECKED_ROWS], places, tolerance, info.k, info.max_coefficient, least)

    def survivors(self, start: int, stop: int) -> Int64:
        """Seeds start .. stop-1 of which enough ratios agree."""
        out, p = np.empty(stop - start + LANES, np.uint32), self.plan
        groups = -(-(stop - start) // LANES)
        found = _survivors(start, groups, p.accepted, p.low, p.high, p.count, p.needed, out)
        seeds = out[:found].astype(np.int64)
        # The last group may go past the end of the range, and past 2^32.
        return seeds[(seeds >= start) & (seeds < stop)]

    def fits(self, seeds: Int64) -> npt.NDArray[np.bool_]:
        """Which seeds reproduce the first rows, except those that they redraw."""
        generator = np.random.RandomState()
        normals = np.empty((len(seeds), len(self.label), self.k))
        for i, seed in enumerate(seeds.tolist()):
            generator.seed(seed)
            normals[i] = generator.standard_normal(normals.shape[1:])
        coefficient, kept = _drawn(normals, self.max_coefficient, self.min_private_sum)
        agree = rows_agree(self.label, coefficient[..., : self.places], self.tolerance)
        return np.logical_and.reduce(agree | ~kept, axis=1)


def _drawn(normals: Float64, greatest: float, least: float) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Coefficients from normal numbers, and which rows meet the constraints."""
    size = np.abs(normals)
    coefficient = size / size.sum(axis=-1, keepdims=True)
    return coefficient, (coefficient.max(axis=-1) <= greatest) & (coefficient[..., :2].sum(axis=-1) >= least)


@dataclass(frozen=True)
class ScanOutcome:
    """How a scan of the seeds start .. stop-1 went.

    Attributes
    ----------
    seed : int or None
        The lowest verified seed.
    survivors, fitting : int
        Seeds of which enough ratios agree; those of them that reproduce the first rows.
    """

    seed: int | None
    start: int
    stop: int
    survivors: int
    fitting: int


def scan(
    test: SeedTest, start: int, stop: int, verify: Callable[[int], bool], *, threads: int | None = None
) -> ScanOutcome:
    """Scan the seeds start .. stop-1 for the lowest that fits the first rows and that `verify` accepts."""
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
                found = list(
                    pool.map(look, [(low, min(low + share, last)) for low in range(first, last, share)])
                )
                survivors += sum(count for count, _ in found)
                seeds = sorted(seed for _, more in found for seed in more)
                fitting += len(seeds)
                bar.update(last - first)
                for seed in seeds:
                    if verify(seed):
                        return ScanOutcome(seed, start, last, survivors, fitting)
        except KeyboardInterrupt:
            print(f"scan interrupted; continue with -p seed_start={first}", file=sys.stderr, flush=True)
            raise
    return ScanOutcome(None, start, max(start, stop), survivors, fitting)


def find_seed(
    release: Release, seed_start: int = 0, seed_stop: int = 2**32
) -> tuple[int | None, dict[str, object]] | None:
    """Scan seeds for the lowest that reproduces all labels.

    Returns
    -------
    (seed, details) or None
        None if no row of the labels shows a ratio of coefficients.

    Raises
    ------
    InputError
        When the range is not within 0 .. 2^32, or labels have fewer than three decimals.
    """
    if not 0 <= seed_start < seed_stop <= 2**32:
        raise InputError(f"seed_start, seed_stop: {seed_start} .. {seed_stop} is not within 0 .. {2**32}")
    tolerance, decimals = label_tolerance(release.label, release.info.k)
    test = SeedTest.of(release, tolerance)
    if test is None:
        return None
    found = scan(test, seed_start, seed_stop, lambda seed: makes_labels(release, seed, tolerance))
    return found.seed, {
        "label_decimals": "exact" if decimals is None else decimals,
        "rows_compared": test.plan.rows.tolist(),
        "ratios_needed": test.plan.needed,
        "chance_to_overlook": round(test.plan.overlooked, 6),
        "scanned": [found.start, found.stop],
        "funnel": {
            "seeds": found.stop - found.start,
            "survivors": found.survivors,
            "fit the first rows": found.fitting,
            "verified": int(found.seed is not None),
        },
        "seed": found.seed,
    }
