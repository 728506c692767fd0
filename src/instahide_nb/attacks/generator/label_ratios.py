"""What the labels tell of the coefficients: how exactly, and which ratios a seed must reproduce.

numpy's legacy normal numbers come in pairs: one accepted point (x1, x2) of the unit disc gives f*x2 and then f*x1 with
one factor f (Marsaglia's polar method). Where a row of coefficients starts with such a pair, the ratio of its first
two coefficients is |x2| / |x1|, whatever f and the row's sum are. A label shows these two coefficients whenever the two
private images have different classes, but not which is which: so the smaller over the larger is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.scheme.encryption import WEIGHT_ONE

__all__ = ["RatioTargets", "label_tolerance", "labels_agree", "ratio_targets"]

Float64 = npt.NDArray[np.float64]

_FEWEST_DECIMALS = 3
_SINGLE = 2.0**-24  # rounding of a label to float32


def label_tolerance(label: npt.NDArray[np.floating], k: int) -> tuple[float, int | None]:
    """How far a label may lie from the sum of coefficients that it shows.

    Parameters
    ----------
    label : (n, classes) float array
    k : int
        Images in an encryption: the remainder of rounding k coefficients to multiples of 2**-24 is in the largest.

    Returns
    -------
    tolerance : float
        Largest absolute difference.
    decimals : int or None
        To how many decimals the labels were rounded; None when they were not.

    Raises
    ------
    InputError
        When they were rounded to fewer than three decimals: too many seeds would fit.

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
        if len(values) and np.abs(scaled - np.rint(scaled)).max() <= 10**decimals * _SINGLE:
            if decimals < _FEWEST_DECIMALS:
                raise InputError(
                    f"label.npy: its values have {decimals} decimals, which too many seeds would fit; prng-seed needs "
                    f"{_FEWEST_DECIMALS} or more, prng-state does not look at them"
                )
            return 0.5 * 10.0**-decimals + exact, decimals
    return exact, None


@dataclass(frozen=True)
class RatioTargets:
    """Ratios that a seed must reproduce in the first epoch, one entry a pair of label values.

    Attributes
    ----------
    row : (t,) int64 array
        The row of the label; several entries of a row are alternatives.
    low, high : (t,) float64 arrays
        The smaller coefficient over the larger lies between these.
    """

    row: npt.NDArray[np.int64]
    low: Float64
    high: Float64

    def until(self, rows: npt.NDArray[np.int64]) -> RatioTargets:
        """Only the targets of the given rows."""
        keep = np.isin(self.row, rows)
        return RatioTargets(self.row[keep], self.low[keep], self.high[keep])

    def chance(self) -> float:
        """The mean number of targets that a wrong seed's ratios meet: the density is 4 / pi / (1 + ratio**2)."""
        middle = np.clip((self.low + self.high) / 2, 0, 1)
        width = np.clip(self.high, 0, 1) - np.clip(self.low, 0, 1)
        return float((width * 4 / np.pi / (1 + middle * middle)).sum())


def ratio_targets(
    label: npt.NDArray[np.floating], k: int, private_places: int, tolerance: float
) -> RatioTargets:
    """The ratios of the rows that start with a pair of the polar method and show the coefficients of both.

    Parameters
    ----------
    label : (N, classes) float array
        Labels of the first epoch.
    k : int
        Coefficients a row; when it is odd only every other row starts with a pair.
    private_places : int
        How many of them the label sums: 2 (cross, Mixup) or k (inside).
    tolerance : float
        See :func:`label_tolerance`.

    Examples
    --------
    >>> targets = ratio_targets(np.array([[0.2, 0.4], [0.6, 0.0]]), 6, 2, 1e-6)
    >>> targets.row, bool((targets.low < 0.5).all() and (targets.high > 0.5).all())
    (array([0]), True)
    """
    rows: list[int] = []
    low: list[float] = []
    high: list[float] = []
    for r in range(0, len(label), 1 if k % 2 == 0 else 2):
        values = np.sort(np.asarray(label[r], np.float64)[label[r] > 0])
        # Of more than one missing class, hardly a pair of values would be two single coefficients.
        if not max(2, private_places - 1) <= len(values) <= private_places:
            continue
        for small in range(len(values)):
            for large in range(small + 1, len(values)):
                rows.append(r)
                low.append((values[small] - tolerance) / (values[large] + tolerance))
                high.append((values[small] + tolerance) / max(values[large] - tolerance, tolerance))
    return RatioTargets(np.array(rows, np.int64), np.array(low, np.float64), np.array(high, np.float64))


def labels_agree(
    label: npt.NDArray[np.floating], weight: npt.NDArray[np.uint32], scheme: str, tolerance: float
) -> float:
    """The share of labels that the coefficients can have made, whatever the classes are.

    Parameters
    ----------
    label : (n, classes) float array
    weight : (n, k) uint32 array
        Coefficients times 2**24.
    scheme : str
        Cross: the first two are summed; otherwise all.
    tolerance : float
        See :func:`label_tolerance`.

    Examples
    --------
    >>> weight = np.array([[4, 6, 6], [4, 6, 6]], np.uint32) * 2**20
    >>> labels_agree(np.array([[0.375, 0.25], [0.625, 0]]), weight, "cross", 1e-6)
    1.0
    >>> labels_agree(np.array([[0.375, 0.2], [0.6, 0]]), weight, "cross", 1e-6)
    0.0
    """
    places = 2 if scheme == "cross" else weight.shape[1]
    coefficient = np.sort(weight[:, :places] / WEIGHT_ONE, axis=1)
    value = np.sort(np.asarray(label, np.float64), axis=1)
    total = np.add.accumulate(coefficient, axis=1)[:, -1]
    agrees = np.abs(np.add.accumulate(value, axis=1)[:, -1] - total) <= places * tolerance
    alone = (value > 0).sum(axis=1) == places
    if value.shape[1] >= places:
        distance = np.abs(value[:, value.shape[1] - places :] - coefficient).max(axis=1)
        agrees &= ~alone | (distance <= tolerance)
    return float(agrees.mean())
