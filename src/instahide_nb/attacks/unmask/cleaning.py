"""Images cleaned by a small convolutional network, for releases with few encryptions per image.

With ten encryptions per image, least squares returns images full of pixels of the wrong sign, and signs inferred from
such images are wrong again. The network returns what the image probably is. Its inputs are the image, its absolute
values, how much better the encryptions would fit each pixel with the other sign, and the standard deviation of the
fit. The next signs are inferred from its output. The final images come from least squares, not from the network.

The network is seven 3 x 3 convolutions, 32 channels wide, with ReLU between them, and its output is added to the image.
``benchmarks/train_cleaning.py`` trained it on attacks on simulated challenges, whose private images are synthetic
(overlapping random shapes) or crops of the embedded photographs of the attacker. It has seen no private image of any
preset, and no CIFAR-10 image.

Weights and activations are whole multiples of powers of two, so that all products and sums are exact in float64 in any
order (:mod:`..exact`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from instahide_nb.core.arrays import Float32, Float64
from instahide_nb.core.threads import in_blocks

WEIGHTS = Path(__file__).with_name("cleaning.npz")
_ONE, _WEIGHT_ONE = 2.0**10, 2.0**12  # an activation and a weight of 1
_DOUBT = np.float32(10)  # scales the standard deviation to about the size of the other inputs
_BLOCK = 8  # images at a time: their activations stay in the cache


@cache
def _layers() -> list[tuple[Float64, Float64]]:
    """Weights (3, 3, channels in, channels out) and biases (channels out,) of each layer, as whole numbers."""
    with np.load(WEIGHTS) as file:
        return [(file[f"weight{i}"].astype(float), file[f"bias{i}"].astype(float)) for i in range(len(file) // 2)]


def _convolved(image: Float64, weight: Float64, bias: Float64) -> Float64:
    """A 3 x 3 convolution of whole numbers (m, h, w, channels), with a border of zeros."""
    m, h, w, _ = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.tile(bias, (m, h, w, 1))
    for y, x in np.ndindex(3, 3):
        out += padded[:, y : y + h, x : x + w] @ weight[y, x]
    return out


def clean(image: Float32, gain: Float32, deviation: Float64) -> Float32:
    """Cleaned images, planar (N, 3, h, w) like `image`.

    `gain`, of the same shape, is from :func:`.signs.flip_gain`; `deviation` (N,) is the standard deviation of the fit.
    """
    out = np.empty_like(image)

    def some(low: int, high: int) -> None:
        own, u = image[low:high], gain[low:high]
        certain, doubt = u / np.sqrt(np.float32(1) + u * u), _DOUBT * deviation[low:high].astype(np.float32)
        inputs = [own, np.abs(own), certain, np.broadcast_to(doubt[:, None, None, None], own[:, :1].shape)]
        value = np.rint(np.concatenate(inputs, axis=1).transpose(0, 2, 3, 1).astype(np.float64) * _ONE)
        *hidden, last = _layers()
        for layer in hidden:
            value = np.rint(np.maximum(_convolved(value, *layer), 0) / _WEIGHT_ONE)
        change = _convolved(value, *last) / (_ONE * _WEIGHT_ONE)
        out[low:high] = np.clip(own + change.transpose(0, 3, 1, 2), -1, 1)

    in_blocks(some, len(image), block=_BLOCK)
    return out
