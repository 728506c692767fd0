"""Which rows of the labels a scan compares, and what it demands of each point of the polar method.

Each row may have been redrawn, and each point may be the first pair of several rows, since points before it may have
been rejected. So a plan has more rows than one, and for each point the list of ratios that it may have to show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.generator.label_ratios import RatioTargets

__all__ = ["RATIO_ROUNDING", "TOGETHER", "ScanPlan", "last_attempt", "plan_scan"]

TOGETHER = 3
"""Targets that are compared in one go: the tables of a plan have a multiple of it."""

RATIO_ROUNDING = 2.0**-21
"""Of a ratio: words cut to 32 bits, single precision, over a radius that is seldom small."""

_MOST_ATTEMPTS = 56  # points whose words depend on the seeding alone, not on other words
_NEVER = 2.0  # the lower end of an interval that no ratio meets
_ACCEPTED = np.pi / 4  # share of the square's points that lie in the disc


@dataclass(frozen=True)
class ScanPlan:
    """What is compared for each seed; see :func:`plan_scan`.

    Attributes
    ----------
    rows : (r,) int64 array
        Rows of the label that are compared.
    needed : int
        How many ratios must agree.
    accepted : (attempts, t) int32 array
        For each point of the polar method, how many points must have been accepted before it for a target to be its.
    low, high : (attempts, t) float32 arrays
        The intervals of the ratio that these targets leave.
    count : (attempts,) int64 array
        How many targets there are.
    overlooked : float
        Chance that the right seed does not survive: that too many of the rows were redrawn.
    survivors : float
        Share of wrong seeds that are expected to survive.
    """

    rows: npt.NDArray[np.int64]
    needed: int
    accepted: npt.NDArray[np.int32]
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    count: npt.NDArray[np.int64]
    overlooked: float
    survivors: float


def _binomial_below(n: int, chance: float, needed: int) -> float:
    """P(fewer than `needed` of n)."""
    total, term = 0.0, (1 - chance) ** n
    for i in range(needed):
        total += term
        term *= (n - i) / (i + 1) * chance / (1 - chance)
    return min(total, 1.0)


def last_attempt(accepted: int, spreads: float = 2.5) -> int:
    """Behind which attempt the point number `accepted` (from 0) seldom comes: so many standard deviations."""
    mean = (accepted + 1) / _ACCEPTED
    spread = (accepted + 1) * (1 - _ACCEPTED)
    return int(np.ceil(mean + spreads * np.sqrt(spread) / _ACCEPTED)) + 1


def plan_scan(
    targets: RatioTargets,
    k: int,
    kept: float,
    *,
    fewest_rows: int = 7,
    most_survivors: float = 2e-3,
    most_overlooked: float = 0.01,
) -> ScanPlan | None:
    """Choose the rows to compare: as few as let hardly a wrong seed survive and hardly the right one fail.

    Parameters
    ----------
    targets : RatioTargets
        Of the first epoch's rows.
    k : int
        Coefficients a row.
    kept : float
        Share of rows that are not redrawn.
    fewest_rows : int
        Rows to compare at least.
    most_survivors : float
        Share of wrong seeds that may survive.
    most_overlooked : float
        Chance to overlook the right one that may be left.

    Returns
    -------
    ScanPlan or None
        None when no row can be compared.
    """
    usable = np.unique(targets.row)
    usable = usable[[last_attempt(int(r) * k // 2) <= _MOST_ATTEMPTS for r in usable]]
    best: tuple[float, npt.NDArray[np.int64], int, float] | None = None
    for size in range(min(fewest_rows, len(usable)), len(usable) + 1):
        rows = usable[:size]
        chance = targets.until(rows).chance() / max(size, 1)
        for needed in range(1, size + 1):
            survivors = 1 - _binomial_below(size, min(chance, 0.99), needed)
            overlooked = _binomial_below(size, kept, needed)
            if survivors <= most_survivors:
                if best is None or overlooked < best[0]:
                    best = (overlooked, rows, needed, survivors)
                break
        if best is not None and best[0] <= most_overlooked:
            break
    if best is None or len(best[1]) == 0:
        return None
    overlooked, rows, needed, survivors = best
    return ScanPlan(rows, needed, *_intervals(targets.until(rows), k), overlooked, survivors)


def _intervals(
    targets: RatioTargets, k: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """For each attempt the intervals of those targets whose pair may be that attempt's point."""
    before = targets.row * k // 2  # points before the row's first pair
    last = np.array([last_attempt(int(c)) for c in before])
    attempts = int(last.max())
    possible = [np.flatnonzero((before <= a) & (a < last)) for a in range(attempts)]
    most = -(-max(len(p) for p in possible) // TOGETHER) * TOGETHER
    accepted = np.zeros((attempts, most), np.int32)
    low = np.full((attempts, most), _NEVER, np.float32)
    high = np.full((attempts, most), _NEVER, np.float32)
    for a, chosen in enumerate(possible):
        accepted[a, : len(chosen)] = before[chosen]
        low[a, : len(chosen)] = targets.low[chosen] - RATIO_ROUNDING
        high[a, : len(chosen)] = targets.high[chosen] + RATIO_ROUNDING
    return accepted, low, high, np.array([len(p) for p in possible], np.int64)
