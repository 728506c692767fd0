"""Whether a seed reproduces the labels of the first epoch: numpy's normal numbers, redraws included.

numpy's legacy generator draws a normal number as this module does: of four words w0 .. w3 it takes
x1 = 2 (w0>>5, w1>>6) - 1 and x2 = 2 (w2>>5, w3>>6) - 1, where (a, b) is the fraction (a 2**26 + b) / 2**53; if the
point (x1, x2) lies in the unit disc it returns f*x2 and keeps f*x1 for the next call, f = sqrt(-2 log(r2) / r2).
A wrong seed is out at the first row that needs no redraw and does not agree, which is mostly the first or the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.scheme.mersenne import WINDOW, advance, seed_window, temper

__all__ = ["FirstEpoch", "epoch_fits", "legacy_normals", "share_kept"]

_MOST_REDRAWS = 1000  # of all rows of an epoch, for each row


@dataclass(frozen=True)
class FirstEpoch:
    """Labels of the first epoch, and how its coefficients are drawn.

    Attributes
    ----------
    value : (N, p) float64 array
        The values of each label that are not zero, ascending; then zeros.
    count : (N,) int64 array
        How many there are.
    private_places : int
        How many coefficients the label sums: 2 or k.
    tolerance : float
        See :func:`.label_ratios.label_tolerance`.
    k, max_coefficient, min_private_sum
        As in the release; `min_private_sum` 0 where it does not hold.
    """

    value: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    private_places: int
    tolerance: float
    k: int
    max_coefficient: float
    min_private_sum: float

    @classmethod
    def from_label(
        cls,
        label: npt.NDArray[np.floating],
        private_places: int,
        tolerance: float,
        k: int,
        max_coefficient: float,
        min_private_sum: float,
    ) -> FirstEpoch:
        """Read the labels of the first epoch, an (N, classes) array."""
        ordered = np.sort(np.asarray(label, np.float64), axis=1)
        count = (ordered > 0).sum(axis=1)
        value = np.zeros((len(label), max(private_places, int(count.max(initial=0)))))
        for r, c in enumerate(count):
            value[r, :c] = ordered[r, ordered.shape[1] - c :]
        return cls(value, count, private_places, tolerance, k, max_coefficient, min_private_sum)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _fraction(window: Any, at: Any) -> Any:
    """numpy's random double of two words, and the place behind them."""
    if at == WINDOW:
        advance(window)
        at = 0
    high = np.float64(temper(window[at]) >> np.uint32(5))
    at += 1
    if at == WINDOW:
        advance(window)
        at = 0
    low = np.float64(temper(window[at]) >> np.uint32(6))
    return (high * 67108864.0 + low) / 9007199254740992.0, at + 1


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _normals(window: Any, at: Any, kept: Any, has_kept: Any, out: Any) -> tuple[Any, Any, Any]:
    """Fill `out` with normal numbers; returns the place in the window and the number kept for the next call."""
    for i in range(len(out)):
        if has_kept:
            out[i] = kept
            has_kept = False
            continue
        while True:
            u1, at = _fraction(window, at)
            u2, at = _fraction(window, at)
            x1, x2 = 2.0 * u1 - 1.0, 2.0 * u2 - 1.0
            r2 = x1 * x1 + x2 * x2
            if r2 < 1.0 and r2 != 0.0:
                break
        f = np.sqrt(-2.0 * np.log(r2) / r2)
        out[i] = f * x2
        kept, has_kept = f * x1, True
    return at, kept, has_kept


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _normalise(row: Any, max_coefficient: Any, min_private_sum: Any) -> Any:
    """|N| over its sum, in place; whether the constraints are met."""
    total = 0.0
    for j in range(len(row)):
        row[j] = abs(row[j])
        total += row[j]
    largest = 0.0
    for j in range(len(row)):
        row[j] /= total
        largest = max(largest, row[j])
    return largest <= max_coefficient and row[0] + row[1] >= min_private_sum


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _agrees(row: Any, value: Any, count: Any, places: Any, tolerance: Any) -> Any:
    """Whether a row's private coefficients can be what the label shows."""
    total = 0.0
    for j in range(places):
        total += row[j]
    shown = 0.0
    for c in range(count):
        shown += value[c]
    if abs(shown - total) > tolerance * places:
        return False
    if count < places:  # some share a class; only their sums are shown
        return True
    ordered = np.sort(row[:places])
    furthest = 0.0
    for c in range(places):
        furthest = max(furthest, abs(ordered[c] - value[c]))
    return furthest <= tolerance


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _fits(
    seed: Any, value: Any, count: Any, places: Any, tolerance: Any, k: Any, greatest: Any, least: Any
) -> Any:
    window = np.empty(WINDOW, np.uint32)
    seed_window(np.uint32(seed), window)
    at, kept, has_kept = WINDOW, 0.0, False
    row = np.empty(k)
    redrawn = np.empty(len(count), np.int64)
    poor = 0
    for r in range(len(count)):
        at, kept, has_kept = _normals(window, at, kept, has_kept, row)
        if not _normalise(row, greatest, least):
            redrawn[poor] = r
            poor += 1
        elif not _agrees(row, value[r], count[r], places, tolerance):
            return False
    for i in range(poor):
        r = redrawn[i]
        for _ in range(_MOST_REDRAWS):
            at, kept, has_kept = _normals(window, at, kept, has_kept, row)
            if _normalise(row, greatest, least):
                break
        if not _agrees(row, value[r], count[r], places, tolerance):
            return False
    return True


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _all_fit(
    seeds: Any,
    value: Any,
    count: Any,
    places: Any,
    tolerance: Any,
    k: Any,
    greatest: Any,
    least: Any,
    out: Any,
) -> None:
    for i in range(len(seeds)):
        out[i] = _fits(seeds[i], value, count, places, tolerance, k, greatest, least)


def epoch_fits(epoch: FirstEpoch, seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which seeds reproduce the labels of the first epoch.

    Parameters
    ----------
    epoch : FirstEpoch
    seeds : (s,) int64 array
        0 .. 2**32 - 1.

    Returns
    -------
    (s,) bool array
    """
    e, out = epoch, np.zeros(len(seeds), np.bool_)
    _all_fit(
        np.ascontiguousarray(seeds, np.int64),
        e.value,
        e.count,
        e.private_places,
        e.tolerance,
        e.k,
        e.max_coefficient,
        e.min_private_sum,
        out,
    )
    return out


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _seeded_normals(seed: Any, out: Any) -> None:
    window = np.empty(WINDOW, np.uint32)
    seed_window(np.uint32(seed), window)
    _normals(window, WINDOW, 0.0, False, out)


def legacy_normals(seed: int, count: int) -> npt.NDArray[np.float64]:
    """What ``RandomState(seed).normal(size=count)`` returns, up to the rounding of the logarithm.

    Examples
    --------
    >>> legacy_normals(0, 3).round(6)
    array([1.764052, 0.400157, 0.978738])
    """
    out = np.empty(count)
    _seeded_normals(np.uint32(seed), out)
    return out


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _count_kept(normals: Any, greatest: Any, least: Any) -> Any:
    kept = 0
    for r in range(len(normals)):
        kept += _normalise(normals[r], greatest, least)
    return kept


def share_kept(k: int, max_coefficient: float, min_private_sum: float) -> float:
    """The share of rows of coefficients that need no redraw, from 20,000 rows.

    Examples
    --------
    >>> round(share_kept(6, 0.65, 0.30), 2)
    0.56
    """
    normals = legacy_normals(0, 20_000 * k).reshape(-1, k)
    return float(_count_kept(normals, max_coefficient, min_private_sum)) / len(normals)
