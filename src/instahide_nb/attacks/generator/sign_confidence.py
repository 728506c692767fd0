"""Which estimated signs to trust: a ranking of every value of every encryption.

The log-odds of a sign are twice m |x| s / v: m the predicted value, |x| s the encryption with its mask lifted (s the
expected sign), v the residual variance. A prediction goes wrong in patches, mostly near an edge, so a sign is trusted
as little as the least sure one around it, and not at all where signs change nearby.

Without any prediction it is still known that neighbours mostly have the same sign, and nearly always where |x| is
large on both sides and around them: to change its sign there, the image would have to jump. Then the *sum* of two mask
bits is known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["by_confidence", "neighbour_confidence", "sign_confidence"]

Float32 = npt.NDArray[np.float32]

_BLOCK = 250  # encryptions at a time


def sign_confidence(signed: Float32, predicted: Float32, variance: Float32) -> Float32:
    """Rank the signs of encryptions.

    Parameters
    ----------
    signed : (n, h, w, 3) float32 array
        Encryptions with their masks lifted: magnitude times expected sign.
    predicted : (n, h, w, 3) float32 array
        Mean prediction of each encryption.
    variance : (n,) float32 array
        Residual variance of each encryption.

    Returns
    -------
    (n, h, w, 3) float32 array
        The least of ``predicted * signed / variance`` in the 3x3 neighbourhood (of the same colour) where all signs of
        the 5x5 neighbourhood agree, else 0.

    Examples
    --------
    >>> flat = np.full((1, 7, 7, 3), 0.5, np.float32)
    >>> sign_confidence(flat, flat, np.array([0.5], np.float32))[0, 3, 3, 0]
    np.float32(0.5)
    >>> spot = flat.copy()
    >>> spot[0, 0, 0] = -0.5
    >>> sign_confidence(spot, flat, np.array([0.5], np.float32))[0, :4, :4, 0].astype(int).sum()
    np.int64(0)
    """
    from scipy.ndimage import minimum_filter

    out = np.empty_like(signed)
    for low in range(0, len(signed), _BLOCK):
        rows = slice(low, low + _BLOCK)
        odds = np.maximum(predicted[rows] * signed[rows], 0) / variance[rows, None, None, None]
        least = minimum_filter(odds, size=(1, 3, 3, 1), mode="nearest")
        positive = signed[rows] > 0
        all_positive = minimum_filter(positive.astype(np.uint8), size=(1, 5, 5, 1), mode="nearest")
        all_negative = minimum_filter((~positive).astype(np.uint8), size=(1, 5, 5, 1), mode="nearest")
        out[rows] = least * (all_positive | all_negative)
    return out


def neighbour_confidence(encryption: Float32) -> Float32:
    """Rank pairs of neighbours in a line by how surely they have the same sign once the mask is lifted.

    Parameters
    ----------
    encryption : (n, h, w, 3) float32 array

    Returns
    -------
    (n, h, w - 1, 3) float32 array
        For a value and the one to its right, the least |x| in the 3x3 neighbourhoods (of the same colour) of both.

    Examples
    --------
    >>> flat = np.full((1, 5, 5, 1), -0.5, np.float32)
    >>> flat[0, 0, 0] = 0.25
    >>> neighbour_confidence(flat)[0, :, :, 0].tolist()[1:3]
    [[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    """
    from scipy.ndimage import minimum_filter

    n, height, width, channels = encryption.shape
    out = np.empty((n, height, width - 1, channels), np.float32)
    for low in range(0, n, _BLOCK):
        rows = slice(low, low + _BLOCK)
        least = minimum_filter(np.abs(encryption[rows]), size=(1, 3, 3, 1), mode="nearest")
        out[rows] = np.minimum(least[:, :, :-1], least[:, :, 1:])
    return out


def by_confidence(confidence: Float32, count: int) -> npt.NDArray[np.int64]:
    """Flat places of the `count` largest values, the largest first; equal ones in their order, zeros never.

    Examples
    --------
    >>> by_confidence(np.array([[0.2, 0.9], [0.9, 0.0]], np.float32), 3)
    array([1, 2, 0])
    """
    flat = confidence.ravel()
    count = min(count, flat.size)
    least = np.partition(flat, flat.size - count)[flat.size - count] if count else np.float32(np.inf)
    chosen = np.flatnonzero((flat >= least) & (flat > 0))
    order = np.argsort(-flat[chosen], kind="stable")[:count]
    return chosen[order]
