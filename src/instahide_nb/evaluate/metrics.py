"""The challenge's metrics: how close each decryption is to the private images inside its encryption.

An encryption holds p private images (two in the challenge of 2020). For each row the metrics take the largest or the
mean SSIM of the decryption with these images, and the smallest, largest or mean L2 distance; each metric is the mean
over all rows. The challenge's text says Max_L2 and its leaderboard Min_L2: both are reported. It does not give the
range of the images in SSIM: the plain metrics use [0, 1] (``data_range=1``), which fits the published rows, and those
that end in ``_signed`` use [-1, 1] (``data_range=2``).

SSIM is that of Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
2004, with scikit-image's defaults: a uniform 7x7 window, K1 = 0.01, K2 = 0.03, sample covariances, mean over channels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

from instahide_nb.core.arrays import Float32, Float64, Floats, Int64, Integers, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.threads import in_blocks
from instahide_nb.scheme.encryption import pixel_bytes, pixel_values
from instahide_nb.scheme.views import all_views, apply_views

TITLES = {
    "max_ssim": "Max_SSIM",
    "mean_ssim": "Mean_SSIM",
    "min_l2": "Min_L2",
    "max_l2": "Max_L2",
    "mean_l2": "Mean_L2",
}
"""The five metrics of the challenge, and their titles on its leaderboard."""

METRICS = tuple(TITLES)

SUCCESS = 0.8
"""A decryption succeeds when its largest SSIM is above this value."""

_WINDOW = 7
_K1, _K2 = 0.01, 0.03
_BATCH = 64  # pairs of images that are compared together, so that intermediate planes stay in the cache


@dataclass(frozen=True, eq=False)
class Scores:
    """What :func:`score` returns: float64 (n, p) arrays, one column per private image of a row."""

    ssim: Float64  # of images in [0, 1]
    ssim_signed: Float64  # of images in [-1, 1]
    l2: Float64  # mean squared difference of images in [-1, 1]

    @property
    def per_encryption(self) -> Float64:
        """float64 (n, 2p), the content of ``per_encryption.npy``: SSIM in [0, 1], then L2."""
        return np.hstack([self.ssim, self.l2])

    @property
    def best_ssim(self) -> Float64:
        """float64 (n,): the largest SSIM of each row."""
        return self.ssim.max(axis=1)

    def metrics(self) -> dict[str, float]:
        """The content of ``metrics.json``: :data:`METRICS`, the same as ``NAME_signed``, and ``success_rate``.

        L2 does not depend on the range of SSIM, so its ``_signed`` values repeat the plain ones.
        """
        found: dict[str, float] = {}
        for suffix, ssim in (("", self.ssim), ("_signed", self.ssim_signed)):
            p = ssim.shape[1]
            # sum adds the columns from left to right, and fsum rounds once: numpy's order of summation may change.
            columns = {
                "max_ssim": ssim.max(axis=1),
                "mean_ssim": sum(ssim.T) / p,
                "min_l2": self.l2.min(axis=1),
                "max_l2": self.l2.max(axis=1),
                "mean_l2": sum(self.l2.T) / p,
            }
            found |= {name + suffix: math.fsum(values) / len(values) for name, values in columns.items()}
        return found | {"success_rate": int((self.best_ssim > SUCCESS).sum()) / len(self.ssim)}


def _ssim(x: Floats, y: Floats, *, unit: bool) -> Float64:
    """SSIM of (m, h, w, c) images: scikit-image's operations in its order, on many pairs at once.

    scikit-image's function takes one pair; for small images its Python calls take two thirds of the time.
    """

    def mean(values: Float64) -> Float64:
        return uniform_filter(values, size=_WINDOW, axes=(-2, -1))

    a, b = (np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float64) for images in (x, y))
    if unit:
        a, b = (a + 1) / 2, (b + 1) / 2
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    ux, uy = mean(a), mean(b)
    vx = sample * (mean(a * a) - ux * ux)
    vy = sample * (mean(b * b) - uy * uy)
    vxy = sample * (mean(a * b) - ux * uy)
    data_range = 1.0 if unit else 2.0
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance, structure = 2 * ux * uy + c1, 2 * vxy + c2
    s = (luminance * structure) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    pad = _WINDOW // 2  # windows that cross the border do not count
    return s[..., pad:-pad, pad:-pad].mean(axis=(-2, -1)).mean(axis=-1)


def _squared_distance(x: Float32, y: Float32) -> Float64:
    """Mean squared difference of (m, h, w, c) images."""
    difference = x.astype(np.float64) - y
    squares = (difference * difference).reshape(*x.shape[:2], -1)
    # Down the columns, then along one short row: numpy never changes this order.
    return squares.sum(axis=1).sum(axis=1) / x[0].size


def _over_pairs(measure: Callable[..., Float64], first: Floats, second: Floats, index: Integers) -> Float64:
    """`measure` of the two images that each row of `index` names."""
    result = np.empty(len(index))

    def batch(low: int, high: int) -> None:
        result[low:high] = measure(first[index[low:high, 0]], second[index[low:high, 1]])

    in_blocks(batch, len(index), block=_BATCH)
    return result


def ssim_pairs(first: Floats, second: Floats, index: Integers, *, unit: bool = True) -> Float64:
    """SSIM of chosen pairs of images in [-1, 1] (m1, h, w, c) and (m2, h, w, c), with the bits of scikit-image.

    Each row of `index` (q, 2) names an image of `first` and one of `second`. With `unit` they are compared over [0, 1]
    (``data_range=1``), else over [-1, 1] (``data_range=2``). Each value (q,) depends only on its pair.
    """
    height, width = first.shape[1:3]
    if min(height, width) < _WINDOW:
        raise InputError(f"images: {height}x{width} is too small; SSIM needs 7x7 pixels or more")
    return _over_pairs(partial(_ssim, unit=unit), first, second, index)


def score(decryption: Floats, private: UInt8, pair: Integers) -> Scores:
    """Score one decrypted image per encryption against the private images inside the encryption.

    Row i of `decryption` (n, h, w, 3), in [-1, 1], is the decryption of encryption i, which holds the images
    ``pair[i]`` (p,) of `private` (n_private, h, w, 3). An InputError says that these do not fit each other, or that a
    value is not finite. Each distinct pair is compared once.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> private = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    >>> found = score(pixel_values(private), private, np.array([[0, 1], [0, 1]])).metrics()
    >>> found["max_ssim"], found["min_l2"], found["success_rate"]
    (1.0, 0.0, 1.0)
    """
    for name, array, fits, wanted in (
        ("private", private, private.dtype == np.uint8 and private.ndim == 4, "uint8 (n_private, h, w, 3)"),
        ("pair", pair, pair.dtype.kind in "iu" and pair.ndim == 2 and pair.size > 0, "integers (n, p)"),
        ("decryption", decryption, decryption.dtype.kind == "f", "floats in [-1, 1]"),
        ("decryption", decryption, decryption.shape == (len(pair), *private.shape[1:]), "an image per row"),
    ):
        if not fits:
            raise InputError(f"{name}: {array.dtype} {array.shape}; {wanted} are expected")
    if int(pair.min()) < 0 or int(pair.max()) >= len(private):
        raise InputError(f"pair: indices of private images must lie in 0..{len(private) - 1}")
    if not np.isfinite(decryption).all():
        raise InputError("decryption: holds NaN or infinity; every value must lie in [-1, 1]")
    image, truth = np.ascontiguousarray(decryption, dtype=np.float32), pixel_values(private)
    rows = image.reshape(len(image), -1).view(np.dtype((np.void, image[0].nbytes)))[:, 0]
    _, first, place = np.unique(rows, return_index=True, return_inverse=True)
    # One integer names a pair of (distinct decryption, private image).
    code, where = np.unique(place[:, None] * len(private) + pair.astype(np.int64), return_inverse=True)
    index = np.stack([code // len(private), code % len(private)], axis=1)
    image, where = image[first], where.reshape(pair.shape)
    return Scores(
        ssim_pairs(image, truth, index)[where],
        ssim_pairs(image, truth, index, unit=False)[where],
        _over_pairs(_squared_distance, image, truth, index)[where],
    )


def find_mistakes(decryption: Floats, private: UInt8, pair: Integers, scores: Scores) -> list[str]:
    """Warnings, one line each, if decryptions would score far higher with another range or order; see :func:`score`."""
    some = np.arange(0, len(pair), max(1, len(pair) // 200))
    reached = float(scores.best_ssim[some].mean())
    if decryption.min() >= 0:
        moved = score(2 * decryption[some] - 1, private, pair[some]).best_ssim.mean()
        hint = f"; as 2d - 1 they score {moved:.3f} instead of {reached:.3f}" if moved > reached else ""
        return [f"decryption: no value is negative; images in [-1, 1] are expected{hint}"]
    flat, truth = (a.reshape(len(a), -1).astype(float) for a in (decryption[some], pixel_values(private)))
    nearest = ((truth * truth).sum(axis=1) - 2 * flat @ truth.T).argmin(axis=1)
    nearby = score(decryption[some], private, nearest[:, None]).best_ssim.mean()
    warning = (
        f"decryption: Max_SSIM is {reached:.3f}, but {nearby:.3f} if each image is compared with the nearest private "
        "image; the rows may be in another order or from another run"
    )
    return [warning] if nearby > reached + 0.3 else []


def identified(assignment: Int64, pair: Int64) -> Int64:
    """How many private images of each row, `pair` (n, p), an `assignment` (n, q) names, int64 (n,).

    An image that occurs twice must be named twice.

    Examples
    --------
    >>> identified(np.array([[1, 1, 2]]), np.array([[2, 1, 3]])).tolist()
    [2]
    """
    rows = zip(assignment.tolist(), pair.tolist(), strict=True)
    return np.array([(Counter(named) & Counter(true)).total() for named, true in rows], np.int64)


class Match(NamedTuple):
    """Which recovered image is matched to each of n private images."""

    place: Int64  # (n,): recovered[place[i]] is matched to private image i
    ssim: Float64  # (n,): over [0, 1]
    private: UInt8  # (n, h, w, 3): the private images in the views in which they were compared


def match_images(recovered: Floats, private: UInt8, augment: str = "none") -> Match:
    """Match images in [-1, 1] (m, h, w, 3) to private ones (n, h, w, 3), n <= m, so that the sum of SSIM is largest.

    With an augmentation, the private image is compared in the view that is nearest in L2, since an attack cannot know
    its orientation or its place on the canvas.
    """
    m, n = len(recovered), len(private)
    if recovered.shape[1:] != private.shape[1:] or m < n:
        wanted = f"{private.shape}, one image per private image"
        raise InputError(f"recovered: shape {recovered.shape}; {wanted}, is expected")
    found, image, views = recovered.astype(np.float32), np.arange(n), all_views(augment)
    shown = np.concatenate([apply_views(private, np.tile(view, (n, 1))) for view in views])
    flat, pixels = (a.reshape(len(a), -1).astype(np.float64) for a in (pixel_bytes(found), shown))
    distance = (pixels * pixels).sum(axis=1) - 2 * (flat @ pixels.T)  # exact: of integers
    best = distance.reshape(m, len(views), n).argmin(axis=1) * n + image  # of `shown`, (m, n)
    index = np.stack([np.repeat(np.arange(m), n), best.ravel()], axis=1)
    table = ssim_pairs(found, pixel_values(shown), index).reshape(m, n)
    place = linear_sum_assignment(table.T, maximize=True)[1]
    return Match(place, table[place, image], shown[best[place, image]])
