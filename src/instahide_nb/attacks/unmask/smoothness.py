"""How natural images vary: a local precision filter learned from public patches (for `textures`, from energies).

A residual ``x - m`` of an encryption is a mixture of public images, so it is smooth as they are. Given its
neighbours in a 7 x 7 window of all channels, the expected value of a pixel is a fixed linear combination of them,
and what is left has a fixed variance. Both follow from the autocovariance of the attacker's own public patches:
one linear system for every way in which the border can cut the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import solve_spd
from instahide_nb.core.threads import in_blocks

__all__ = [
    "RADIUS",
    "PublicModel",
    "Smoothness",
    "autocovariance",
    "predict",
    "public_model",
    "smoothness",
    "whiten",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

RADIUS = 3
_TAPS = 2 * RADIUS + 1


@dataclass(frozen=True)
class PublicModel:
    """First and second moments of public images.

    Attributes
    ----------
    mean : float32 (channels,)
        Mean colour, in [-1, 1].
    covariance : float64 (channels, channels, 4 r + 1, 4 r + 1)
        ``E[z(c, y, x) z(d, y + dy, x + dx)]`` at ``[c, d, dy + 2 r, dx + 2 r]`` for centred images z.
    """

    mean: Float32
    covariance: Float64


@dataclass(frozen=True)
class Smoothness:
    """Each pixel of a centred natural image as a linear combination of its neighbours.

    Attributes
    ----------
    tap : float32 (h, channels, channels, 7, 7, w)
        ``tap[row, c, d, i, j, x]`` multiplies pixel (row + i - 3, x + j - 3) of channel d; rows that the border cuts
        alike share one entry, see `row`.
    variance : float32 (rows, channels, w)
        What the neighbours leave, for images with the public covariance.
    row : int64 (h,)
        Entry of `tap` for each row of the image.
    """

    tap: Float32
    variance: Float32
    row: npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _autocovariance(
    first_job: int, last_job: int, image: Float32, reach: int, tapered: bool, out: Float64
) -> None:
    n, channels, h, w = image.shape
    size = 2 * reach + 1
    for job in range(first_job, last_job):
        c = job // (channels * (reach + 1))
        d = (job // (reach + 1)) % channels
        dy = job % (reach + 1)
        if h <= dy:
            continue
        total = np.zeros(size)
        product = np.empty((size, w), np.float32)
        for i in range(n):
            product[:] = np.float32(0)
            for y in range(h - dy):
                for dx in range(-min(reach, w - 1), min(reach, w - 1) + 1):
                    low, high = max(0, -dx), min(w, w - dx)
                    first = image[i, c, y, low:high]
                    second = image[i, d, y + dy, low + dx : high + dx]
                    line = product[dx + reach, low:high]
                    for x in range(high - low):
                        line[x] += first[x] * second[x]
            for k in range(size):
                for x in range(w):
                    total[k] += product[k, x]
        for dx in range(-reach, reach + 1):
            if abs(dx) < w:
                mean = total[dx + reach] / (n * (h * w if tapered else (h - dy) * (w - abs(dx))))
                out[c, d, reach + dy, reach + dx] = mean
                if dy > 0:  # the same pairs seen from their other end
                    out[d, c, reach - dy, reach - dx] = mean


def autocovariance(image: Float32, tapered: bool) -> Float64:
    """Mean product of any two pixels up to 6 rows and columns apart, over all images and places.

    Parameters
    ----------
    image : float32 (n, channels, h, w)
        Centred images.
    tapered : bool
        Divide by the number of pixels instead of the number of pairs: smaller at a distance, but positive definite
        however small the images are.

    Returns
    -------
    float64 (channels, channels, 4 r + 1, 4 r + 1)
        As `PublicModel.covariance`.
    """
    channels, reach = image.shape[1], 2 * RADIUS
    covariance = np.zeros((channels, channels, 2 * reach + 1, 2 * reach + 1))
    in_blocks(_autocovariance, channels * channels * (reach + 1), image, reach, tapered, covariance, block=1)
    return covariance


def public_model(public: npt.NDArray[np.uint8]) -> PublicModel:
    """Mean and autocovariance of public patches.

    Parameters
    ----------
    public : uint8 (m, h, w, channels)

    Returns
    -------
    PublicModel
    """
    mean_level = public.reshape(-1, public.shape[3]).sum(axis=0, dtype=np.int64) / (public[..., 0].size)
    mean = ((2.0 * mean_level - 255.0) / 255.0).astype(np.float32)
    image = ((2.0 * public.astype(np.float32) - 255.0) / 255.0 - mean).astype(np.float32)
    planar = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    return PublicModel(mean, autocovariance(planar, tapered=False))


@numba.njit(cache=True, nogil=True)
def _window_system(
    covariance: Float64, ridge: float, top: int, bottom: int, left: int, right: int
) -> tuple[Float64, Float64]:
    """Regression of the centre on a window that reaches `top` rows up, `bottom` down, and so on."""
    channels = covariance.shape[0]
    reach = 2 * RADIUS
    count = channels * (top + bottom + 1) * (left + right + 1)
    place = np.empty((count, 3), np.int64)
    k = 0
    for c in range(channels):
        for dy in range(-top, bottom + 1):
            for dx in range(-left, right + 1):
                place[k, 0], place[k, 1], place[k, 2] = c, dy, dx
                k += 1
    full = np.empty((count, count))
    for a in range(count):
        for b in range(count):
            dy, dx = place[b, 1] - place[a, 1], place[b, 2] - place[a, 2]
            # the mean of both directions, so that the matrix is symmetric to the last bit
            full[a, b] = 0.5 * (
                covariance[place[a, 0], place[b, 0], dy + reach, dx + reach]
                + covariance[place[b, 0], place[a, 0], reach - dy, reach - dx]
            )
        full[a, a] += ridge * covariance[place[a, 0], place[a, 0], reach, reach]
    tap = np.zeros((channels, channels, _TAPS, _TAPS))
    variance = np.empty(channels)
    # The precision matrix holds every regression at once: row c of it over its diagonal entry.
    right_side = np.zeros((count, channels))
    centre = np.empty(channels, np.int64)
    for k in range(count):
        if place[k, 1] == 0 and place[k, 2] == 0:
            centre[place[k, 0]] = k
            right_side[k, place[k, 0]] = 1.0
    precision = solve_spd(full, right_side)
    for c in range(channels):
        own = precision[centre[c], c]
        variance[c] = 1.0 / own
        for k in range(count):
            if k != centre[c]:
                tap[c, place[k, 0], place[k, 1] + RADIUS, place[k, 2] + RADIUS] = -precision[k, c] / own
    return tap, variance


@numba.njit(cache=True, nogil=True)
def _systems(
    first: int,
    last: int,
    covariance: Float64,
    ridge: float,
    vertical: npt.NDArray[np.int64],
    horizontal: npt.NDArray[np.int64],
    tap: Float64,
    variance: Float64,
) -> None:
    columns = horizontal.shape[0]
    for job in range(first, last):
        r, s = job // columns, job % columns
        tap[r, s], variance[r, s] = _window_system(
            covariance, ridge, vertical[r, 0], vertical[r, 1], horizontal[s, 0], horizontal[s, 1]
        )


def _tapered(covariance: Float64, height: int, width: int) -> Float64:
    """The covariance as it is when divided by the number of pixels instead of the number of pairs."""
    shift = np.abs(np.arange(-2 * RADIUS, 2 * RADIUS + 1))
    vertical, horizontal = np.maximum(height - shift, 0) / height, np.maximum(width - shift, 0) / width
    tapered: Float64 = covariance * vertical[:, None] * horizontal[None, :]
    return tapered


def smoothness(model: PublicModel, height: int, width: int, ridge: float) -> Smoothness:
    """Regression of each pixel on its neighbours, for images of one size.

    A covariance estimated without bias from small or very smooth images need not be positive. Where that shows, it is
    tapered, which makes it so.

    Parameters
    ----------
    model : PublicModel
    height, width : int
        As large as the images behind the model.
    ridge : float
        White noise added to the covariance, as a share of a pixel's variance.

    Returns
    -------
    Smoothness
    """

    def reach(size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        place = np.arange(size)
        both = np.stack([np.minimum(place, RADIUS), np.minimum(size - 1 - place, RADIUS)], axis=1)
        kind, index = np.unique(both, axis=0, return_inverse=True)
        return kind.astype(np.int64), index.reshape(-1).astype(np.int64)

    vertical, row = reach(height)
    horizontal, column = reach(width)
    channels = len(model.mean)
    tap = np.empty((len(vertical), len(horizontal), channels, channels, _TAPS, _TAPS))
    variance = np.empty((len(vertical), len(horizontal), channels))
    jobs = len(vertical) * len(horizontal)
    covariance = model.covariance
    in_blocks(_systems, jobs, covariance, float(ridge), vertical, horizontal, tap, variance, block=7)
    own = np.array([covariance[c, c, 2 * RADIUS, 2 * RADIUS] for c in range(channels)])
    if not (
        (variance > 0) & (variance >= ridge * own * (1 - 1e-6)) & (variance <= (1 + ridge) * own * 2)
    ).all():
        covariance = _tapered(covariance, height, width)
        in_blocks(_systems, jobs, covariance, float(ridge), vertical, horizontal, tap, variance, block=7)
    return Smoothness(
        np.ascontiguousarray(np.moveaxis(tap[:, column], 1, -1).astype(np.float32)),
        np.ascontiguousarray(np.moveaxis(variance[:, column], 1, -1).astype(np.float32)),
        row,
    )


@numba.njit(cache=True, nogil=True)
def predict(padded: Float32, tap: Float32, entry: int, c: int, y: int, out: Float32) -> None:
    """Write to `out` (w,) what the neighbours predict for row y of channel c of a padded centred image."""
    channels = padded.shape[0]
    w = out.shape[0]
    for x in range(w):
        out[x] = np.float32(0)
    for d in range(channels):
        for i in range(_TAPS):
            line = padded[d, y + i]
            weight = tap[entry, c, d, i]
            for x in range(w):
                total = out[x]
                for j in range(_TAPS):
                    total += weight[j, x] * line[x + j]
                out[x] = total


@numba.njit(cache=True, nogil=True)
def _whiten(
    first: int,
    last: int,
    image: Float32,
    tap: Float32,
    variance: Float32,
    row: npt.NDArray[np.int64],
    out: Float32,
) -> None:
    _, channels, h, w = image.shape
    padded = np.zeros((channels, h + 2 * RADIUS, w + 2 * RADIUS), np.float32)
    line = np.empty(w, np.float32)
    for i in range(first, last):
        padded[:, RADIUS : RADIUS + h, RADIUS : RADIUS + w] = image[i]
        for c in range(channels):
            for y in range(h):
                predict(padded, tap, row[y], c, y, line)
                for x in range(w):
                    out[i, c, y, x] = (image[i, c, y, x] - line[x]) / variance[row[y], c, x]


def whiten(image: Float32, model: Smoothness) -> Float32:
    """Apply the inverse of the public covariance, as the local filter knows it.

    Parameters
    ----------
    image : float32 (n, channels, h, w)
        Centred images.
    model : Smoothness

    Returns
    -------
    float32 (n, channels, h, w)
        The inner product of an image with its whitened self is its squared Mahalanobis length.
    """
    out = np.empty(image.shape, np.float32)
    in_blocks(_whiten, len(image), image, model.tap, model.variance, model.row, out)
    return out
