"""What the trained network computes, in numpy: absolute values of an encryption in, a map of features out.

A residual network: a 5x5 convolution that halves height and width, two blocks of two 3x3 convolutions beside a shortcut
(He et al., CVPR 2016) with group normalisation (Wu and He, ECCV 2018), and a 1x1 convolution. The similarity of two
encryptions is the correlation of their maps. PyTorch is needed to train it (`instahide_nb.attacks.carlini.network`) but
not here. Convolutions are matrix products, so the last bits depend on the machine, unlike all else in this package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array

__all__ = ["FEATURES", "GROUPS", "features", "load_weights", "network_similarity", "weight_shapes"]

Float32 = npt.NDArray[np.float32]

FEATURES = 16
"""Channels of the map that is compared."""

GROUPS = 8
"""Groups of channels that are normalised together."""

_CHUNK = 64  # encryptions at a time: their windows take 75 MB
_BLOCKS = 2


def weight_shapes(width: int) -> list[tuple[int, ...]]:
    """Shapes of all weights, in the order in which they are kept.

    Parameters
    ----------
    width : int
        Channels of all layers but the last; a multiple of 8.

    Returns
    -------
    list of tuple
        Stem and its bias; in each block twice a convolution with the scale and shift of its normalisation; the last
        layer and its bias. Convolutions are (out, in, height, width).

    Examples
    --------
    >>> weight_shapes(32)[:3]
    [(32, 3, 5, 5), (32,), (32, 32, 3, 3)]
    """
    half_block: list[tuple[int, ...]] = [(width, width, 3, 3), (width,), (width,)]
    return [(width, 3, 5, 5), (width,), *(2 * _BLOCKS * half_block), (FEATURES, width, 1, 1), (FEATURES,)]


def load_weights(path: Path | str) -> Float32:
    """Read weights that a run with ``similarity=network`` has left, and check them.

    Returns
    -------
    float32 (weights,)
        All weights one after the other.

    Raises
    ------
    InputError
        When the file is missing or holds something else.
    """
    weights = load_array(path, dtype=np.float32, shape=(None,))
    if _width(len(weights)) is None or not np.isfinite(weights).all():
        raise InputError(f"{path}: holds no weights of this network; train one with similarity=network")
    return weights


def _width(count: int) -> int | None:
    """The width of a network of so many weights."""
    for width in range(GROUPS, 257, GROUPS):
        if sum(int(np.prod(shape)) for shape in weight_shapes(width)) == count:
            return width
    return None


def _unpack(weights: Float32) -> list[Float32]:
    width = _width(len(weights))
    if width is None:
        raise InputError(f"similarity: {len(weights)} numbers are no weights of this network; train it anew")
    shapes = weight_shapes(width)
    parts = np.split(weights, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _convolve(x: Float32, kernel: Float32, stride: int = 1) -> Float32:
    """Channels last; zeros around, so that a stride of 1 keeps the size."""
    side = kernel.shape[2]
    edge = side // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    window = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    window = window[:, ::stride, ::stride]  # (n, h, w, channels, side, side)
    flat = window.reshape(-1, kernel[0].size) @ kernel.reshape(len(kernel), -1).T
    out: Float32 = flat.reshape(*window.shape[:3], len(kernel))
    return out


def _normalise(x: Float32, scale: Float32, shift: Float32) -> Float32:
    """Mean 0 and variance 1 over all places and the channels of a group, then a scale and a shift a channel."""
    n, h, w, channels = x.shape
    grouped = x.reshape(n, h * w, GROUPS, channels // GROUPS)
    grouped = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    grouped = grouped / np.sqrt((grouped * grouped).mean(axis=(1, 3), keepdims=True) + np.float32(1e-5))
    out: Float32 = grouped.reshape(x.shape) * scale + shift
    return out


def features(weights: Float32, size: Float32) -> Float32:
    """Maps of features, each of mean 0 and length 1, so that a product of two is a correlation.

    Parameters
    ----------
    weights : float32 (weights,)
    size : float32 (n, h, w, 3)
        Absolute values of encryptions.

    Returns
    -------
    float32 (n, FEATURES * ceil(h/2) * ceil(w/2))
    """
    stem, stem_bias, *blocks, last, last_bias = _unpack(weights)
    out = []
    for low in range(0, len(size), _CHUNK):
        x = np.maximum(_convolve(size[low : low + _CHUNK], stem, stride=2) + stem_bias, np.float32(0))
        for at in range(0, len(blocks), 6):
            first, scale1, shift1, second, scale2, shift2 = blocks[at : at + 6]
            y = np.maximum(_normalise(_convolve(x, first), scale1, shift1), np.float32(0))
            x = np.maximum(x + _normalise(_convolve(y, second), scale2, shift2), np.float32(0))
        flat = (_convolve(x, last) + last_bias).reshape(len(x), -1)
        flat = flat - flat.mean(axis=1, keepdims=True)
        out.append(flat / (np.sqrt((flat * flat).sum(axis=1, keepdims=True)) + np.float32(1e-6)))
    return np.concatenate(out)


def network_similarity(weights: Float32, release: Release, public: npt.NDArray[np.uint8]) -> Float32:
    """Correlation of the feature maps of all pairs of encryptions.

    Parameters
    ----------
    weights : float32 (weights,)
    release : Release
    public : uint8 (m, h, w, 3)
        Not used: what was learned of them is in the weights.

    Returns
    -------
    float32 (n, n)
    """
    feature = features(weights, np.abs(release.encryption))
    similar: Float32 = feature @ feature.T
    return similar
