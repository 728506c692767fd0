"""Images by gradient descent with free signs: stage 5 of the published attack.

Given the two private images of each encryption and their coefficients, the private images P minimise the mean of
``(|x| - |l1 Pa + l2 Pb|)^2`` over all values of all encryptions (Carlini et al., arXiv 2011.05315; their code adds a
weak push of every pixel away from zero). The optimiser is Adam (Kingma and Ba, ICLR 2015). It is written out because
pixels are independent, so that a block of pixels stays in the processor's cache for all iterations.
"""

from __future__ import annotations

import numpy as np

from instahide_nb.core.arrays import Float32, Float64, Int64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

_BLOCK = 64  # pixels at a time: their 5,000 encryptions fit a core's own cache
_RATE = 0.01  # step of Adam, as published
_PUSH = 0.05  # weight of ``mean(1 - |P|)``, as published


@kernel
def adam_step(value: Float32, gradient: Float32, moment: Float32, power: Float64, rate: float) -> None:
    """One step of Adam on `value` (size,), in place.

    `moment` (2, size), zero at first: running means of the gradient and of its square. `power` (2,), one at first:
    powers of their decay rates.
    """
    power[0] *= 0.9
    power[1] *= 0.999
    step, spread = np.float32(rate / (1.0 - power[0])), np.float32(1.0 / (1.0 - power[1]))
    one, keep1, keep2, tiny = np.float32(1), np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    first, second = moment[0], moment[1]
    for j in range(value.shape[0]):
        g = gradient[j]
        first[j] = keep1 * first[j] + (one - keep1) * g
        second[j] = keep2 * second[j] + (one - keep2) * g * g
        value[j] -= step * first[j] / (np.sqrt(second[j] * spread) + tiny)


@kernel
def _descend(
    low: int, high: int, size: Float32, pair: Int64, coefficient: Float32, iterations: int, push: float, image: Float32
) -> None:
    """Adam on the pixels low .. high-1 of all images, in place."""
    n_images, width = image.shape[0], high - low
    x = size[:, low:high].copy()
    own = image[:, low:high].copy()
    gradient, moment = np.empty_like(own), np.zeros((2, own.size), np.float32)
    power = np.ones(2)
    zero = np.float32(0)
    scale = np.float32(2) / (np.float32(size.shape[0]) * np.float32(size.shape[1]))
    outward = np.float32(push) / (np.float32(n_images) * np.float32(size.shape[1]))
    for _ in range(iterations):
        for a in range(n_images):
            for p in range(width):
                v = own[a, p]
                gradient[a, p] = -outward if v > zero else (outward if v < zero else zero)
        for i in range(x.shape[0]):
            a, b = pair[i, 0], pair[i, 1]
            la = coefficient[i, 0] if a >= 0 else zero
            lb = coefficient[i, 1] if b >= 0 else zero
            ga, gb = scale * la, scale * lb
            xi, pa, pb, da, db = x[i], own[a], own[b], gradient[a], gradient[b]
            for p in range(width):
                m = la * pa[p] + lb * pb[p]
                slope = m - xi[p] if m > zero else m + xi[p]
                da[p] += ga * slope
                db[p] += gb * slope
        adam_step(own.reshape(-1), gradient.reshape(-1), moment, power, _RATE)
    for a in range(n_images):
        for p in range(width):
            image[a, low + p] = own[a, p]


def free_sign_descent(
    size: Float32, pair: Int64, coefficient: Float32, start: Float32, *, iterations: int = 1000, push: float = _PUSH
) -> Float32:
    """Minimise ``mean((|x| - |l1 Pa + l2 Pb|)^2) + push mean(1 - |P|)`` over the private images (images, d).

    `size` (n, d) is ``|x|``, `pair` (n, 2) the images of each encryption (-1: unknown, taken as zero), `coefficient`
    (n, 2) theirs. A `start` of zero, as published, takes all signs as negative. Results may be outside [-1, 1].
    """
    image = np.array(start, np.float32, order="C")
    in_blocks(_descend, size.shape[1], size, pair, coefficient, iterations, push, image, block=_BLOCK)
    return image


def stretch(image: Float32) -> Float32:
    """Stretch each image to [-1, 1], as published.

    Examples
    --------
    >>> stretch(np.array([[0.0, 0.5, 0.25]], np.float32)).tolist()
    [[-1.0, 1.0, 0.0]]
    """
    axes = tuple(range(1, image.ndim))
    low = image.min(axis=axes, keepdims=True)
    reach = np.maximum(image.max(axis=axes, keepdims=True) - low, np.float32(1e-6))
    out: Float32 = np.float32(2) * ((image - low) / reach) - np.float32(1)
    return out
