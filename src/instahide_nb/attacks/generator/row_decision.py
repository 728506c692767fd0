"""Whether a seed's own numbers keep a row of coefficients, so that a ratio that does not agree rules the seed out.

A row is drawn again when its largest coefficient is more than `max_coefficient` or its first two add up to less than
`min_private_sum`. Both are seen from the row's points: a point (x1, x2) gives the numbers f x1 and f x2, where
f = sqrt(-2 log(r2) / r2) and r2 = x1**2 + x2**2. Here f is only approximated, by sums and products whose bits are the
same on every processor; a row that is so near a bound that this matters counts as drawn again, and rules nothing out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.generator.first_epoch import FirstEpoch, share_kept
from instahide_nb.attacks.generator.label_ratios import RatioTargets, ratio_targets
from instahide_nb.attacks.generator.scan_plan import RATIO_ROUNDING, last_attempt
from instahide_nb.attacks.generator.seed_lanes import LANES, compiled, wide_vectors

__all__ = [
    "NUMBER_ERROR",
    "DecidingRows",
    "add_numbers",
    "deciding_rows",
    "numbers",
    "show_ratio",
    "undecided",
]

NUMBER_ERROR = (2.5e-3, 1e-3)
"""How far |N| may be off: the first as a share of it, the second absolute, where r2 is nearly 1 and N nearly 0."""

_MOST_ROWS = 2  # more of them save no time
_FIRST_ROWS = 4  # of an epoch: later ones come too late
_SPREAD = 1.5  # standard deviations: a seed whose points come later is not ruled out
_WORTH_IT = 0.25  # share of rows that must be kept, or hardly a seed is ruled out


@dataclass(frozen=True)
class DecidingRows:
    """Rows that show one ratio only, and are few points from the start.

    Attributes
    ----------
    first : (r,) int64 array
        Accepted points before each row.
    attempts : (r,) int64 array
        Points of the square to look at.
    low, high : (r,) float32 arrays
        The interval of the ratio.
    points : int
        Points that make a row: k / 2.
    greatest, least : float
        The bounds of the largest coefficient and of the sum of the first two.
    """

    first: npt.NDArray[np.int64]
    attempts: npt.NDArray[np.int64]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    points: int
    greatest: float
    least: float


_share_kept = lru_cache(share_kept)


def deciding_rows(epoch: FirstEpoch) -> DecidingRows:
    """Choose the rows: none where k is odd, labels sum more than two coefficients, or most rows are drawn again."""
    e, points = epoch, epoch.k // 2
    shown = RatioTargets(np.empty(0, np.int64), np.empty(0), np.empty(0))
    even = e.k % 2 == 0 and e.private_places == 2
    if even and _share_kept(e.k, e.max_coefficient, e.min_private_sum) >= _WORTH_IT:
        shown = ratio_targets(e.value[:_FIRST_ROWS], e.k, 2, e.tolerance)
    rows, low, high = shown.row[:_MOST_ROWS], shown.low[:_MOST_ROWS], shown.high[:_MOST_ROWS]
    attempts = [last_attempt(int(r) * points + points - 1, _SPREAD) for r in rows]
    return DecidingRows(
        rows * points,
        np.array(attempts, np.int64),
        (low - RATIO_ROUNDING).astype(np.float32),
        (high + RATIO_ROUNDING).astype(np.float32),
        points,
        e.max_coefficient,
        e.min_private_sum,
    )


@nb.njit(inline="always")  # pragma: no cover - compiled
def _approximate_factor(r2: Any) -> Any:
    """f for 0 < r2 < 1, 0.2 % off at most but for the last bits of 1 - r2."""
    # 0x3F3504F3 is sqrt(1/2), so that the rest is in sqrt(1/2) .. sqrt(2).
    bits = np.int32(r2.view(np.int32) - np.int32(0x3F3504F3))
    exponent = np.int32(bits >> np.int32(23))
    rest = np.int32(r2.view(np.int32) - np.int32(exponent << np.int32(23))).view(np.float32)
    t = np.float32(rest - np.float32(1))
    p = np.float32(np.float32(0.35456731) + np.float32(t * np.float32(-0.2281087)))  # log(1 + t) / t
    p = np.float32(np.float32(-0.50197058) + np.float32(t * p))
    p = np.float32(np.float32(0.9997) + np.float32(t * p))
    log = np.float32(np.float32(np.float32(exponent) * np.float32(0.6931472)) + np.float32(t * p))
    twice = np.float32(log * np.float32(-2))
    inner = np.float32(twice * r2)
    # 1 / sqrt(inner): half the exponent, and one step of Newton's method.
    root = np.int32(np.int32(0x5F3759DF) - np.int32(inner.view(np.int32) >> np.int32(1))).view(np.float32)
    half = np.float32(inner * np.float32(0.5))
    square = np.float32(half * np.float32(root * root))
    return np.float32(twice * np.float32(root * np.float32(np.float32(1.5) - square)))


@nb.njit(**compiled)  # pragma: no cover - compiled
def numbers(small: Any, large: Any, both: Any, greater: Any) -> None:
    """Of a point's two |N| approximately the sum and the greater; of no use where `large` is 0."""
    wide_vectors()
    for i in range(LANES):
        x = np.float32(small[i] * np.float32(2.0**-31))
        y = np.float32(large[i] * np.float32(2.0**-31))
        f = _approximate_factor(np.float32(np.float32(x * x) + np.float32(y * y)))
        both[i] = np.float32(f * np.float32(x + y))
        greater[i] = np.float32(f * y)


@nb.njit(**compiled)  # pragma: no cover - compiled
def add_numbers(
    accepted: Any, large: Any, both: Any, greater: Any, first: Any, points: Any, sums: Any, out: Any
) -> None:
    """Add a point's numbers where it belongs to the row: `sums` and `out` are total, largest, first two."""
    wide_vectors()
    begin, end = np.int32(first), np.int32(first + points)
    total, largest, pair = sums[0], sums[1], sums[2]
    new_total, new_largest, new_pair = out[0], out[1], out[2]
    for i in range(LANES):
        a = accepted[i]
        own = (a >= begin) & (a < end) & (large[i] > np.float32(0))
        more, most = both[i], greater[i]
        more = more if own else np.float32(0)
        most = most if own else np.float32(0)
        old = largest[i]
        new_total[i] = np.float32(total[i] + more)
        new_largest[i] = most if most > old else old
        new_pair[i] = np.float32(pair[i] + (more if a == begin else np.float32(0)))


@nb.njit(**compiled)  # pragma: no cover - compiled
def show_ratio(
    accepted: Any, small: Any, large: Any, first: Any, low: Any, high: Any, shown: Any, out: Any
) -> None:
    """1 where the row's first point has its ratio, or had it before."""
    wide_vectors()
    begin = np.int32(first)
    for i in range(LANES):
        s, t = small[i], large[i]
        meets = (accepted[i] == begin) & (s >= np.float32(low * t)) & (s <= np.float32(high * t))
        out[i] = np.int32(shown[i] | np.int32(meets))


@nb.njit(**compiled)  # pragma: no cover - compiled
def undecided(
    accepted: Any, shown: Any, sums: Any, end: Any, greatest: Any, least: Any, count: Any, out: Any
) -> None:
    """1 for each seed but those that surely keep the row and do not show its ratio."""
    wide_vectors()
    total, largest, pair = sums[0], sums[1], sums[2]
    last, most, fewest = np.int32(end), np.float32(greatest), np.float32(least)
    share, rest = np.float32(2 * NUMBER_ERROR[0]), np.float32(count * NUMBER_ERROR[1])
    for i in range(LANES):
        t = total[i]
        margin = np.float32(np.float32(share * t) + rest)
        kept = (np.float32(largest[i] + margin) <= np.float32(most * t)) & (
            np.float32(pair[i] - margin) >= np.float32(fewest * t)
        )
        complete = accepted[i] >= last
        out[i] = np.int32(0) if (complete & kept & (shown[i] == np.int32(0))) else np.int32(1)
