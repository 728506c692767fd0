"""The mask lifted: the expected sign of every value of an encryption, given a prediction of it.

Alone, a value of size ``|x|`` whose prediction is m with residual variance v is positive with a probability of
which ``2 p - 1 = tanh(|x| m / v)``. The algebraic sigmoid ``u / sqrt(1 + u^2)`` serves as well and has the same
bits on every machine. But the residual ``x - m`` is a mixture of public images and as smooth as they are, so the signs
of an encryption are coupled, and are inferred together: mean field, each pixel given its neighbours, from a high
temperature down.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.unmask.smoothness import RADIUS, Smoothness, predict
from instahide_nb.core.threads import in_blocks

__all__ = ["coupled_signs", "independent_signs"]

Float32 = npt.NDArray[np.float32]


@numba.njit(cache=True, nogil=True)
def _independent(
    first: int, last: int, size: Float32, prediction: Float32, variance: Float32, out: Float32
) -> None:
    one = np.float32(1)
    for i in range(first, last):
        inverse = one / variance[i]
        for p in range(size.shape[1]):
            u = size[i, p] * prediction[i, p] * inverse
            out[i, p] = size[i, p] * u / np.sqrt(one + u * u)


def independent_signs(size: Float32, prediction: Float32, variance: Float32) -> Float32:
    """Expected value of x given its size, each value alone.

    Parameters
    ----------
    size : float32 (n, d)
        Absolute values of the encryptions.
    prediction : float32 (n, d)
    variance : float32 (n,)
        Variance of the residual of each encryption.

    Returns
    -------
    float32 (n, d)
        ``|x| E[sign]``.

    Examples
    --------
    >>> f = np.float32
    >>> independent_signs(np.ones((1, 2), f), np.array([[3, -3]], f), np.ones(1, f)).round(3).tolist()
    [[0.9490000009536743, -0.9490000009536743]]
    """
    out = np.empty(size.shape, np.float32)
    in_blocks(_independent, len(size), size, prediction, variance, out)
    return out


@numba.njit(cache=True, nogil=True)
def _coupled(
    first: int,
    last: int,
    size: Float32,
    prediction: Float32,
    scale: Float32,
    tap: Float32,
    variance: Float32,
    row: npt.NDArray[np.int64],
    temperature: Float32,
    out: Float32,
) -> None:
    _, channels, h, w = size.shape
    one, half = np.float32(1), np.float32(0.5)
    padded = np.zeros((channels, h + 2 * RADIUS, w + 2 * RADIUS), np.float32)
    line = np.empty(w, np.float32)
    for i in range(first, last):
        padded[:, RADIUS : RADIUS + h, RADIUS : RADIUS + w] = out[i] - prediction[i]
        for sweep in range(temperature.shape[0]):
            inverse = one / (scale[i] * temperature[sweep])
            for c in range(channels):
                for y in range(h):
                    predict(padded, tap, row[y], c, y, line)
                    here = padded[c, y + RADIUS]
                    v = variance[row[y], c]
                    sizes, predictions = size[i, c, y], prediction[i, c, y]
                    for x in range(w):
                        u = sizes[x] * (predictions[x] + line[x]) * inverse / v[x]
                        fresh = sizes[x] * u / np.sqrt(one + u * u) - predictions[x]
                        here[x + RADIUS] = half * (here[x + RADIUS] + fresh)
        out[i] = padded[:, RADIUS : RADIUS + h, RADIUS : RADIUS + w] + prediction[i]


def coupled_signs(
    size: Float32,
    prediction: Float32,
    scale: Float32,
    model: Smoothness,
    temperature: Float32,
    start: Float32,
) -> Float32:
    """Expected value of x given its size, all signs of an encryption together.

    Parameters
    ----------
    size, prediction : float32 (n, channels, h, w)
    scale : float32 (n,)
        Covariance of the residual of each encryption, in units of the public covariance.
    model : Smoothness
    temperature : float32 (sweeps,)
        One for each sweep; the last should be 1.
    start : float32 (n, channels, h, w)
        Where to begin, such as `independent_signs`.

    Returns
    -------
    float32 (n, channels, h, w)
        ``|x| E[sign]``.
    """
    out = start.copy()
    in_blocks(
        _coupled, len(size), size, prediction, scale, model.tap, model.variance, model.row, temperature, out
    )
    return out
