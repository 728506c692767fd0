"""Infer signs: of every value of an encryption before masking, and of every pixel of a recovered image.

A value of size ``|x|`` with prediction m and residual variance v is positive with a probability p for which
``2 p - 1 = tanh(|x| m / v)``. The algebraic sigmoid ``u / sqrt(1 + u^2)`` replaces tanh: it works as well and has the
same bits on any machine. The residual ``x - m`` is as smooth as public images, so a mean-field iteration infers the
signs of an encryption together, at falling temperatures. The sign of a pixel of a recovered image is flipped if
smoothness gains more than the fit to the encryptions loses.
"""

from __future__ import annotations

import numpy as np

from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.unmask.smoothness import PAIR, RADIUS, TAPS, Smoothness, predict
from instahide_nb.core.arrays import Float32, Int64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

TEMPERATURE = np.array([4, 4, 2, 2, 1, 1, 1, 1], np.float32)
_BLOCK = 256  # pixels at a time
_TRUST, _SWEEPS = 0.15, 10  # see `repair_signs`

Rows = tuple[Int64, Float32, Float32, Float32]  # assignment, coefficient, rest, variance


@kernel
def _lift(
    first: int, last: int, size: Float32, prediction: Float32, variance: Float32, local: Smoothness, out: Float32
) -> None:
    """Independent signs with the first `variance` (n, 1 + sweeps) of each row, then a sweep with each further one."""
    _, channels, h, w = size.shape
    one, half = np.float32(1), np.float32(0.5)
    padded = np.zeros((PAIR, channels, h + 2 * RADIUS, w + 2 * RADIUS), np.float32)
    line = np.empty((PAIR, w), np.float32)
    for i in range(first, last, PAIR):
        for q in range(PAIR):
            row = min(i + q, last - 1)
            inverse = one / variance[row, 0]
            for c in range(channels):
                for y in range(h):
                    for x in range(w):
                        u = size[row, c, y, x] * prediction[row, c, y, x] * inverse
                        out[row, c, y, x] = size[row, c, y, x] * u / np.sqrt(one + u * u)
                        padded[q, c, y + RADIUS, x + RADIUS] = out[row, c, y, x] - prediction[row, c, y, x]
        if variance.shape[1] == 1:
            continue
        for sweep in range(1, variance.shape[1]):
            for c in range(channels):
                for y in range(h):
                    predict(padded, local, c, y, line)
                    v = local.variance[local.row[y], c]
                    for q in range(PAIR):
                        row = min(i + q, last - 1)
                        inverse = one / variance[row, sweep]
                        expected, here = line[q], padded[q, c, y + RADIUS]
                        sizes, predictions = size[row, c, y], prediction[row, c, y]
                        for x in range(w):
                            u = sizes[x] * (predictions[x] + expected[x]) * inverse / v[x]
                            fresh = sizes[x] * u / np.sqrt(one + u * u) - predictions[x]
                            here[x + RADIUS] = half * (here[x + RADIUS] + fresh)
        for q in range(PAIR):
            row = min(i + q, last - 1)
            for c in range(channels):
                for y in range(h):
                    for x in range(w):
                        out[row, c, y, x] = padded[q, c, y + RADIUS, x + RADIUS] + prediction[row, c, y, x]


def lift_masks(
    size: Float32,
    prediction: Float32,
    scale: Float32,
    pixel_variance: float | np.float32,
    local: Smoothness,
    temperature: Float32 = TEMPERATURE,
) -> Float32:
    """Expected values ``|x| E[sign]`` of encryptions, float32 (n, channels, h, w).

    `size` holds ``|x|`` and `prediction` m, both of the shape of the result. `scale` (n,) is the covariance of each
    residual in units of the public covariance, `pixel_variance` the variance of a public pixel. Each `temperature` is
    one sweep over all pixels.
    """
    out = np.empty_like(size)
    variance = np.outer(scale, np.append(np.float32(pixel_variance), temperature))
    in_blocks(_lift, len(size), size, prediction, variance, local, out)
    return out


@kernel
def _flip_gain(
    low: int, high: int, used: Int64, rows: Rows, size: Float32, image: Float32, mean: Float32, out: Float32
) -> None:
    assignment, coefficient, rest, variance = rows
    one, two, half = np.float32(1), np.float32(2), np.float32(0.5)
    width = high - low
    made, now = np.empty(width, np.float32), np.empty(width, np.float32)
    for i in used:
        inverse, absolute = one / variance[i], size[i, low:high]
        for p in range(width):
            made[p] = rest[i] * mean[low + p]
        for j in range(assignment.shape[1]):
            share, source = coefficient[i, j], image[assignment[i, j], low:high]
            for p in range(width):
                made[p] += share * source[p]
        for p in range(width):
            u = absolute[p] * made[p] * inverse
            now[p] = np.sqrt(one + u * u) - half * made[p] * made[p] * inverse
        for j in range(assignment.shape[1]):
            share, source = two * coefficient[i, j], image[assignment[i, j], low:high]
            target = out[assignment[i, j], low:high]
            for p in range(width):
                m = made[p] - share * source[p]
                u = absolute[p] * m * inverse
                target[p] += np.sqrt(one + u * u) - half * m * m * inverse - now[p]


def flip_gain(size: Float32, image: Float32, mixtures: Mixtures, variance: Float32, mean: Float32) -> Float32:
    """Gain in log-likelihood of the encryptions if one pixel of one image changes its sign, float32 (images, d).

    The likelihood is the folded normal one, with ``sqrt(1 + u^2) - 1`` for log cosh(u). Rows with an unknown image, or
    with one image twice, are ignored. `size` (n, d) holds ``|x|``, `variance` (n,) that of the residuals, `mean` (d,)
    the mean public image.
    """
    out = np.zeros(image.shape, np.float32)
    ordered = np.sort(mixtures.assignment, axis=1)
    used = np.flatnonzero((ordered[:, 0] >= 0) & (np.diff(ordered, axis=1) > 0).all(axis=1))
    rows = mixtures.assignment, mixtures.coefficient, mixtures.rest, variance
    in_blocks(_flip_gain, size.shape[1], used, rows, size, image, mean, out, block=_BLOCK)
    return out


@kernel
def _flip(
    first: int, last: int, padded: Float32, gain: Float32, mean: Float32, local: Smoothness, sign: Float32
) -> None:
    _, channels, h, w = gain.shape
    tap, variance, row = local.tap, local.variance, local.row
    for a in range(first, last):
        for _ in range(_SWEEPS):
            changed = False
            for y in range(h):
                for x in range(w):
                    for c in range(channels):
                        value = padded[a, c, y + RADIUS, x + RADIUS] + mean[c]
                        expected = mean[c]
                        for d in range(channels):
                            for i in range(TAPS):
                                for j in range(TAPS):
                                    expected += tap[row[y], c, d, i, j, x] * padded[a, d, y + i, x + j]
                        # Gaussian given its neighbours: ((-P - e)^2 - (P - e)^2) / (2 v) = 2 P e / v
                        energy = np.float32(2) * value * expected / variance[row[y], c, x]
                        if energy < np.float32(_TRUST) * gain[a, c, y, x] * sign[a, c, y, x]:
                            sign[a, c, y, x] = -sign[a, c, y, x]
                            padded[a, c, y + RADIUS, x + RADIUS] = -value - mean[c]
                            changed = True
            if not changed:
                break


def repair_signs(image: Float32, gain: Float32, mean: Float32, local: Smoothness) -> Float32:
    """Flip the sign of a pixel if smoothness gains more than the fit to the encryptions loses.

    `image` and `gain`, from `flip_gain`, are (images, channels, h, w); `mean` (channels,) is the mean public colour.
    The fit counts with weight 0.15 only, because residuals of neighbours are not independent. At most ten sweeps.
    """
    sign, border = np.ones(image.shape, np.float32), (RADIUS, RADIUS)
    padded = np.pad(image - mean[:, None, None], ((0, 0), (0, 0), border, border))
    in_blocks(_flip, len(image), padded, gain, mean, local, sign)
    return image * sign
