"""Flipped pixels of the estimated private images, found and turned back.

What spectral retrieval and least squares leave wrong are mostly single channels with the wrong sign where the image
is far from grey: |P| is right, and an encryption hardly tells the sign where the other images are small. The
result is a colour speckle that anyone sees is wrong, and the smoothness of natural images sees it too. A
pixel is flipped where the loss of smoothness energy outweighs what the encryptions say.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.smoothness import RADIUS, Smoothness
from instahide_nb.core.threads import in_blocks

__all__ = ["flip_gain", "repair"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_BLOCK = 256  # pixels at a time
_TAPS = 2 * RADIUS + 1


@numba.njit(cache=True, nogil=True)
def _flip_gain(
    low: int,
    high: int,
    size: Float32,
    image: Float32,
    assignment: Int64,
    coefficient: Float32,
    variance: Float32,
    mean: Float32,
    out: Float32,
) -> None:
    one, two, half = np.float32(1), np.float32(2), np.float32(0.5)
    for i in range(size.shape[0]):
        a, b = assignment[i, 0], assignment[i, 1]
        if a < 0 or b < 0 or a == b:
            continue
        la, lb = coefficient[i, 0], coefficient[i, 1]
        rest = one - la - lb
        inverse = one / variance[i]
        absolute, centre = size[i, low:high], mean[low:high]
        first, second, gain_a, gain_b = (
            image[a, low:high],
            image[b, low:high],
            out[a, low:high],
            out[b, low:high],
        )
        for p in range(high - low):
            pa, pb = la * first[p], lb * second[p]
            m = pa + pb + rest * centre[p]
            ma, mb = m - two * pa, m - two * pb
            u, ua, ub = absolute[p] * m * inverse, absolute[p] * ma * inverse, absolute[p] * mb * inverse
            now = np.sqrt(one + u * u) - half * m * m * inverse
            gain_a[p] += np.sqrt(one + ua * ua) - half * ma * ma * inverse - now
            gain_b[p] += np.sqrt(one + ub * ub) - half * mb * mb * inverse - now


def flip_gain(
    size: Float32, image: Float32, assignment: Int64, coefficient: Float32, variance: Float32, mean: Float32
) -> Float32:
    """What the encryptions gain in log-likelihood when one pixel of one image changes its sign.

    Parameters
    ----------
    size : float32 (n, d)
        Absolute values of the encryptions.
    image : float32 (images, d)
    assignment : int64 (n, 2)
        Rows with -1 say nothing.
    coefficient : float32 (n, 2)
    variance : float32 (n,)
        Residual variance of each encryption.
    mean : float32 (d,)
        Mean public image.

    Returns
    -------
    float32 (images, d)
        Sum over the image's encryptions of the folded normal log-likelihood, after minus before; log cosh(u) is
        replaced by ``sqrt(1 + u^2) - 1``, the integral of the algebraic sigmoid.
    """
    out = np.zeros(image.shape, np.float32)
    in_blocks(
        _flip_gain, size.shape[1], size, image, assignment, coefficient, variance, mean, out, block=_BLOCK
    )
    return out


@numba.njit(cache=True, nogil=True)
def _flip(
    first: int,
    last: int,
    image: Float32,
    gain: Float32,
    mean: Float32,
    tap: Float32,
    variance: Float32,
    row: Int64,
    trust: float,
    sweeps: int,
    flips: Int64,
) -> None:
    _, channels, h, w = image.shape
    for a in range(first, last):
        padded = np.zeros((channels, h + 2 * RADIUS, w + 2 * RADIUS), np.float32)
        for c in range(channels):
            for y in range(h):
                for x in range(w):
                    padded[c, y + RADIUS, x + RADIUS] = image[a, c, y, x] - mean[c]
        sign = np.ones((channels, h, w), np.float32)
        for _ in range(sweeps):
            changed = 0
            for y in range(h):
                for x in range(w):
                    for c in range(channels):
                        value = padded[c, y + RADIUS, x + RADIUS] + mean[c]
                        expected = mean[c]
                        for d in range(channels):
                            for i in range(_TAPS):
                                for j in range(_TAPS):
                                    expected += tap[row[y], c, d, i, j, x] * padded[d, y + i, x + j]
                        # Gaussian given its neighbours: ((-P - e)^2 - (P - e)^2) / (2 v) = 2 P e / v
                        energy = np.float32(2) * value * expected / variance[row[y], c, x]
                        if energy < np.float32(trust) * gain[a, c, y, x] * sign[c, y, x]:
                            sign[c, y, x] = -sign[c, y, x]
                            padded[c, y + RADIUS, x + RADIUS] = -value - mean[c]
                            changed += 1
            flips[a] += changed
            if changed == 0:
                break
        for c in range(channels):
            for y in range(h):
                for x in range(w):
                    image[a, c, y, x] *= sign[c, y, x]


def repair(
    image: Float32,
    gain: Float32,
    mean: Float32,
    model: Smoothness,
    trust: float = 0.15,
    sweeps: int = 10,
) -> tuple[Float32, int]:
    """Flip pixels where smoothness demands it and the encryptions do not forbid it.

    Parameters
    ----------
    image, gain : float32 (images, channels, h, w)
        `gain` from `flip_gain`.
    mean : float32 (channels,)
        Mean colour of public images.
    model : Smoothness
    trust : float
        Weight of the encryptions' evidence; below 1 because residuals of neighbours are not independent.
    sweeps : int
        At most so many passes over each image.

    Returns
    -------
    image : float32 (images, channels, h, w)
    flips : int
        How many pixels changed sign, repeats counted.
    """
    out = np.ascontiguousarray(image).copy()
    flips = np.zeros(len(out), np.int64)
    gain = np.ascontiguousarray(gain)
    in_blocks(_flip, len(out), out, gain, mean, model.tap, model.variance, model.row, trust, sweeps, flips)
    return out, int(flips.sum())
