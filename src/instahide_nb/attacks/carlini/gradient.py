"""Reconstruction by gradient descent with free signs, the fifth stage of the published attack.

Given which two private images an encryption holds, and their coefficients, the private images P are those that
minimise the mean of ``(|x| - |l1 Pa + l2 Pb|)^2`` over all values of all encryptions: the sign of each value is free,
and the public images are what remains unexplained (Carlini et al., arXiv 2011.05315, section "Recovering the
original images"; their code adds a weak push of every pixel away from zero). The published optimiser is Adam (Kingma
and Ba, ICLR 2015). It is written out here because every pixel is a problem of its own: a block of pixels stays in the
processor's cache for all iterations, and only ``+ - * / sqrt`` are used, so that all machines find the same bits.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.threads import in_blocks

__all__ = ["PUSH", "free_sign_descent", "free_sign_loss", "stretch"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_BLOCK = 64  # pixels at a time: their 5,000 encryptions fit a processor core's own cache
_ITERATIONS = 1000
_RATE = 0.01  # step of Adam, as published
PUSH = 0.05
"""Weight of ``mean(1 - |P|)`` in the published code."""


@numba.njit(cache=True, nogil=True)
def _descend(
    low: int,
    high: int,
    size: Float32,
    pair: Int64,
    coefficient: Float32,
    weight: Float32,
    iterations: int,
    rate: float,
    push: float,
    image: Float32,
) -> None:
    """Adam on the pixels low .. high-1 of all images, in place in `image`."""
    n, n_images, width = size.shape[0], image.shape[0], high - low
    block = np.empty((n, width), np.float32)
    for i in range(n):
        for p in range(width):
            block[i, p] = size[i, low + p]
    own = image[:, low:high].copy()
    first = np.zeros((n_images, width), np.float32)
    second = np.zeros((n_images, width), np.float32)
    gradient = np.empty((n_images, width), np.float32)
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    keep1, keep2, tiny = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    values = np.float32(n) * np.float32(size.shape[1])
    outward = np.float32(push) / (np.float32(n_images) * np.float32(size.shape[1]))
    power1, power2 = 1.0, 1.0
    for _ in range(iterations):
        for a in range(n_images):
            for p in range(width):
                v = own[a, p]
                gradient[a, p] = -outward if v > zero else (outward if v < zero else zero)
        for i in range(n):
            a, b = pair[i, 0], pair[i, 1]
            la = coefficient[i, 0] if a >= 0 else zero
            lb = coefficient[i, 1] if b >= 0 else zero
            scale = two * weight[i] / values
            ga, gb = scale * la, scale * lb
            x, pa, pb, da, db = block[i], own[a], own[b], gradient[a], gradient[b]
            for p in range(width):
                m = la * pa[p] + lb * pb[p]
                slope = m - x[p] if m > zero else m + x[p]
                da[p] += ga * slope
                db[p] += gb * slope
        power1 *= 0.9
        power2 *= 0.999
        step = np.float32(rate / (1.0 - power1))
        spread = np.float32(1.0 / (1.0 - power2))
        for a in range(n_images):
            for p in range(width):
                g = gradient[a, p]
                first[a, p] = keep1 * first[a, p] + (one - keep1) * g
                second[a, p] = keep2 * second[a, p] + (one - keep2) * g * g
                own[a, p] -= step * first[a, p] / (np.sqrt(second[a, p] * spread) + tiny)
    for a in range(n_images):
        for p in range(width):
            image[a, low + p] = own[a, p]


def free_sign_descent(
    size: Float32,
    pair: Int64,
    coefficient: Float32,
    n_images: int,
    *,
    start: Float32 | None = None,
    weight: Float32 | None = None,
    iterations: int = _ITERATIONS,
    rate: float = _RATE,
    push: float = PUSH,
) -> Float32:
    """Minimise ``mean((|x| - |l1 Pa + l2 Pb|)^2) + push mean(1 - |P|)`` over the private images.

    Parameters
    ----------
    size : float32 (n, d)
        Absolute values of the encryptions.
    pair : int64 (n, 2)
        The two images of each encryption; -1 for an unknown one, which then counts as zero.
    coefficient : float32 (n, 2)
    n_images : int
    start : float32 (n_images, d), optional
        Where the descent starts; zero, as published, when left out. At zero the sign is taken as negative.
    weight : float32 (n,), optional
        Weight of each encryption; 1 when left out, as published.
    iterations : int
    rate, push : float
        Adam's step, and the weight of the push away from zero.

    Returns
    -------
    float32 (n_images, d)
        Not confined to [-1, 1].

    Examples
    --------
    >>> truth = np.array([[-0.8], [0.5], [-0.3]], np.float32)
    >>> pair = np.array([[0, 1], [1, 2], [0, 2]])
    >>> coefficient = np.array([[0.6, 0.4], [0.7, 0.3], [0.5, 0.5]], np.float32)
    >>> size = abs((truth[pair, 0] * coefficient).sum(axis=1, keepdims=True)).astype(np.float32)
    >>> free_sign_descent(size, pair, coefficient, 3, start=truth + 0.1, push=0.0).round(2).ravel().tolist()
    [-0.800000011920929, 0.5, -0.30000001192092896]
    """
    size = np.ascontiguousarray(size, np.float32)
    image = np.zeros((n_images, size.shape[1]), np.float32) if start is None else start.astype(np.float32)
    if image.shape != (n_images, size.shape[1]):
        raise InputError(f"start: shape {image.shape}; {(n_images, size.shape[1])} is expected")
    share = np.ones(len(size), np.float32) if weight is None else weight.astype(np.float32)
    in_blocks(
        _descend, size.shape[1], size, pair, coefficient, share, iterations, rate, push, image, block=_BLOCK
    )
    return image


def free_sign_loss(size: Float32, image: Float32, pair: Int64, coefficient: Float32) -> float:
    """The data term of the descent: the mean of ``(|x| - |l1 Pa + l2 Pb|)^2``.

    Parameters
    ----------
    size : float32 (n, d)
    image : float32 (images, d)
    pair : int64 (n, 2)
    coefficient : float32 (n, 2)

    Returns
    -------
    float

    Examples
    --------
    >>> image = np.array([[0.5], [-0.5]], np.float32)
    >>> free_sign_loss(np.array([[0.25]], np.float32), image, np.array([[0, 1]]), np.array([[0.75, 0.25]]))
    0.0
    """
    total = 0.0
    for row, (a, b), (la, lb) in zip(size, pair, np.asarray(coefficient, np.float32), strict=True):
        mixture = np.zeros_like(row)
        if a >= 0:
            mixture += la * image[a]
        if b >= 0:
            mixture += lb * image[b]
        rest = (row - np.abs(mixture)).astype(np.float64)
        total += float((rest * rest).sum())
    return total / size.size


def stretch(image: Float32) -> Float32:
    """Give each image its full range, as published: its least value becomes -1 and its largest +1.

    Parameters
    ----------
    image : float32 (images, ...)

    Returns
    -------
    float32 (images, ...)

    Examples
    --------
    >>> stretch(np.array([[0.0, 0.5, 0.25]], np.float32)).tolist()
    [[-1.0, 1.0, 0.0]]
    """
    flat = image.reshape(len(image), -1)
    low = flat.min(axis=1, keepdims=True)
    reach = np.maximum(flat.max(axis=1, keepdims=True) - low, np.float32(1e-6))
    out: Float32 = np.float32(2) * ((flat - low) / reach) - np.float32(1)
    return out.reshape(image.shape)
