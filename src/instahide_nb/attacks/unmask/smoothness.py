"""Smoothness of natural images: a local precision filter learned from public images (in `edges`, from edge energies).

Given its neighbours in a 5 x 5 window of all channels, the expected value of a pixel of a centred image is a fixed
linear combination of them, with a fixed variance. Both follow from the autocovariance of public images, by one linear
system for each way in which the border cuts the window. The filter whitens residuals and couples signs of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, solve
from instahide_nb.core.arrays import Float32, Float64, Int64, UInt8
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

RADIUS = 2
TAPS = 2 * RADIUS + 1
PAIR = 2  # images that `predict` takes at a time; the last of an odd number is taken twice
_REACH = 2 * RADIUS  # largest distance of two pixels of a window, along an axis
_UNIT = 256.0  # values are rounded to 1/256, so that sums of products are exact
_IMAGES = 500  # at a time


@dataclass(frozen=True)
class Moments:
    """First and second moments of images z + mean."""

    mean: Float32  # (channels,), in [-1, 1]
    covariance: Float64  # E[z(c, y, x) z(d, y + dy, x + dx)] at [c, d, dy + 4, dx + 4]

    @property
    def variance(self) -> np.float32:
        """Variance of a pixel, the mean over channels."""
        return np.float32(np.mean(np.diagonal(self.covariance[:, :, _REACH, _REACH])))


class Smoothness(NamedTuple):  # a tuple, so that kernels can take it
    """Each pixel of a centred image as a linear combination of its neighbours.

    ``tap[row[y], c, d, i, j, x]`` multiplies the value at (y + i - 2, x + j - 2) of channel d.
    """

    tap: Float32  # (kinds, channels, channels, 5, 5, w)
    variance: Float32  # (kinds, channels, w): variance of a pixel given its neighbours
    row: Int64  # (h,): kind of each row of the image; rows as far from the border share one


def autocovariance(image: npt.NDArray[np.floating], tapered: bool = False) -> Float64:
    """Mean product of any two pixels of centred images (n, channels, h, w), as `Moments.covariance`.

    `tapered` divides by the number of pixels, not of pairs: smaller at a distance, but positive definite.
    """
    n, channels, h, w = image.shape
    out = np.zeros((channels, channels, 2 * _REACH + 1, 2 * _REACH + 1))
    far_y, far_x = min(_REACH, h - 1), min(_REACH, w - 1)
    for low in range(0, n, _IMAGES):
        part = np.rint(image[low : low + _IMAGES].astype(np.float64) * _UNIT)
        line = np.ascontiguousarray(part.transpose(2, 1, 3, 0)).reshape(h, channels * w, -1)
        for dy in range(far_y + 1):
            product = np.matmul(line[: h - dy], line[dy:].transpose(0, 2, 1)).sum(axis=0)
            product = product.reshape(channels, w, channels, w)
            for dx in range(-far_x, far_x + 1):
                out[:, :, _REACH + dy, _REACH + dx] += np.trace(product, offset=dx, axis1=1, axis2=3)
    far = np.abs(np.arange(-_REACH, _REACH + 1))
    pairs = np.outer(np.maximum(h - far, 1), np.maximum(w - far, 1))
    out /= n * _UNIT**2 * (h * w if tapered else pairs)
    upper = out[:, :, :_REACH:-1, ::-1].transpose(1, 0, 2, 3)  # the same pairs in the other order
    out[:, :, :_REACH] = upper
    return out


def public_moments(public: UInt8) -> Moments:
    """Mean colour and autocovariance of public images, uint8 (m, h, w, channels)."""
    level = public.reshape(-1, public.shape[3]).sum(axis=0, dtype=np.int64) / public[..., 0].size
    mean = ((2.0 * level - 255.0) / 255.0).astype(np.float32)
    image = ((2.0 * public.astype(np.float32) - 255.0) / 255.0 - mean).astype(np.float32)
    return Moments(mean, autocovariance(image.transpose(0, 3, 1, 2)))


def _regression(covariance: Float64, ridge: float, vertical: Int64, horizontal: Int64) -> tuple[Float64, Float64]:
    """Taps and variances of the centre of a window that reaches `vertical` rows up and down, `horizontal` to the sides.

    The inverse S of the window's covariance holds every regression: tap_j = -S_cj / S_cc, variance 1 / S_cc.
    """
    channels = len(covariance)
    c, dy, dx = (
        axis.ravel() for axis in np.mgrid[:channels, -vertical[0] : vertical[1] + 1, -horizontal[0] : horizontal[1] + 1]
    )
    window = covariance[c[:, None], c, dy - dy[:, None] + _REACH, dx - dx[:, None] + _REACH]
    window = 0.5 * (window + window.T)
    window[np.diag_indices_from(window)] += ridge * covariance[c, c, _REACH, _REACH]
    centre = np.flatnonzero((dy == 0) & (dx == 0))
    inverse = solve(factor(window), np.eye(len(window))[:, centre].copy())
    own = inverse[centre, np.arange(channels)]
    tap = np.zeros((channels, channels, TAPS, TAPS))
    tap[:, c, dy + RADIUS, dx + RADIUS] = -inverse.T / own[:, None]
    tap[np.arange(channels), np.arange(channels), RADIUS, RADIUS] = 0
    return tap, 1.0 / own


def smoothness(moments: Moments, height: int, width: int, ridge: float) -> Smoothness:
    """Regression of each pixel on its neighbours, for images of the size from which the moments come.

    `ridge` is white noise added to the covariance, as a share of a pixel's variance. The unbiased covariance of small
    or very smooth images need not be positive definite; if the variances show that it is not, it is tapered.
    """

    def kinds(size: int) -> tuple[Int64, Int64]:
        place = np.arange(size)
        both = np.stack([np.minimum(place, RADIUS), np.minimum(size - 1 - place, RADIUS)], axis=1)
        kind, index = np.unique(both, axis=0, return_inverse=True)
        return kind.astype(np.int64), index.reshape(-1).astype(np.int64)

    (vertical, row), (horizontal, column) = kinds(height), kinds(width)
    channels, covariance = len(moments.mean), moments.covariance
    shape = len(vertical), len(horizontal), channels
    tap, variance = np.empty((*shape, channels, TAPS, TAPS)), np.empty(shape)

    def regress(first: int, last: int) -> None:
        for job in range(first, last):
            r, s = divmod(job, len(horizontal))
            tap[r, s], variance[r, s] = _regression(covariance, ridge, vertical[r], horizontal[s])

    in_blocks(regress, len(vertical) * len(horizontal))
    own = np.diagonal(covariance[:, :, _REACH, _REACH])
    smallest, largest = ridge * own * (1 - 1e-6), (1 + ridge) * own * 2
    if not ((variance > 0) & (variance >= smallest) & (variance <= largest)).all():
        far = np.abs(np.arange(-_REACH, _REACH + 1))
        taper = np.outer(np.maximum(height - far, 0) / height, np.maximum(width - far, 0) / width)
        covariance = covariance * taper
        in_blocks(regress, len(vertical) * len(horizontal))
    return Smoothness(
        np.ascontiguousarray(np.moveaxis(tap[:, column], 1, -1).astype(np.float32)),
        np.ascontiguousarray(np.moveaxis(variance[:, column], 1, -1).astype(np.float32)),
        row,
    )


@kernel
def predict(padded: Float32, local: Smoothness, c: int, y: int, out: Float32) -> None:
    """Write to `out` (2, w) what the neighbours predict for row y of channel c of two padded centred images.

    Of two images at a time, so that each tap is read once for both.
    """
    tap, kind, one, two = local.tap, local.row[y], out[0], out[1]
    for x in range(out.shape[1]):
        one[x], two[x] = np.float32(0), np.float32(0)
    for d in range(padded.shape[1]):
        for i in range(TAPS):
            line_one, line_two, weight = padded[0, d, y + i], padded[1, d, y + i], tap[kind, c, d, i]
            for x in range(out.shape[1]):
                total_one, total_two = one[x], two[x]
                for j in range(TAPS):
                    total_one += weight[j, x] * line_one[x + j]
                    total_two += weight[j, x] * line_two[x + j]
                one[x], two[x] = total_one, total_two


@kernel
def place(image: Float32, padded: Float32) -> None:
    """Copy an image (channels, h, w) into the middle of a padded one. (A slice would compile for seconds longer.)"""
    for c in range(image.shape[0]):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                padded[c, y + RADIUS, x + RADIUS] = image[c, y, x]


@kernel
def _whiten(first: int, last: int, image: Float32, local: Smoothness, out: Float32) -> None:
    _, channels, h, w = image.shape
    padded = np.zeros((PAIR, channels, h + 2 * RADIUS, w + 2 * RADIUS), np.float32)
    line = np.empty((PAIR, w), np.float32)
    for i in range(first, last, PAIR):
        for q in range(PAIR):
            place(image[min(i + q, last - 1)], padded[q])
        for c in range(channels):
            for y in range(h):
                predict(padded, local, c, y, line)
                v = local.variance[local.row[y], c]
                for q in range(PAIR):
                    row = min(i + q, last - 1)
                    for x in range(w):
                        out[row, c, y, x] = (image[row, c, y, x] - line[q, x]) / v[x]


def whiten(image: Float32, local: Smoothness) -> Float32:
    """Multiply centred images (n, channels, h, w) by the inverse covariance, as approximated by the local filter."""
    out = np.empty(image.shape, np.float32)
    in_blocks(_whiten, len(image), image, local, out)
    return out
