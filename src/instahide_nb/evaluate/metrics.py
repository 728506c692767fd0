"""The challenge's metrics: how close each decryption is to the private images inside its encryption.

An encryption holds p private images (two in the challenge of 2020). For each row the metrics take the largest or the
mean SSIM of the decryption with these images, and the smallest, largest or mean L2 distance; each metric is the mean
over all rows. The challenge left two things open. Its text says Max_L2 and its leaderboard says Min_L2: both are
reported. It does not say which range the images have when SSIM compares them: the plain metrics use [0, 1]
(``data_range=1``), which fits the published rows, and those that end in ``_signed`` use [-1, 1] (``data_range=2``).

SSIM is that of Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
2004, with scikit-image's defaults: a uniform 7x7 window, K1 = 0.01, K2 = 0.03, sample covariances, mean over channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

from instahide_nb.core.errors import InputError
from instahide_nb.core.threads import in_blocks
from instahide_nb.scheme.encryption import pixel_values

METRICS = ("max_ssim", "mean_ssim", "min_l2", "max_l2", "mean_l2")
"""The five metrics of the challenge, in the order in which they are shown."""

SUCCESS = 0.8
"""A decryption succeeds when its largest SSIM is above this value."""

_WINDOW = 7
_K1, _K2 = 0.01, 0.03
_BATCH = 64  # pairs of images that are compared together, so that intermediate planes stay in the cache

Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scores:
    """What :func:`score` returns: float64 (n, p) arrays, one column per private image of a row.

    Attributes
    ----------
    ssim, ssim_signed : float64 (n, p)
        SSIM of images in [0, 1] and of images in [-1, 1].
    l2 : float64 (n, p)
        Mean squared difference of images in [-1, 1].
    """

    ssim: Float64
    ssim_signed: Float64
    l2: Float64

    @property
    def per_encryption(self) -> Float64:
        """float64 (n, 2p), the content of ``per_encryption.npy``: SSIM in [0, 1], then L2."""
        return np.hstack([self.ssim, self.l2])

    @property
    def best_ssim(self) -> Float64:
        """float64 (n,): the largest SSIM of each row."""
        return _columnwise(np.maximum, self.ssim)

    @property
    def best_slot(self) -> npt.NDArray[np.int64]:
        """int64 (n,): which private image of the row has the largest SSIM; the first of equal ones."""
        return self.ssim.argmax(axis=1)

    def metrics(self) -> dict[str, float]:
        """The content of ``metrics.json``: :data:`METRICS`, the same as ``NAME_signed``, and ``success_rate``.

        L2 does not depend on the range of SSIM, so its ``_signed`` values repeat the plain ones.
        """
        found: dict[str, float] = {}
        for suffix, ssim in (("", self.ssim), ("_signed", self.ssim_signed)):
            columns = {
                "max_ssim": _columnwise(np.maximum, ssim),
                "mean_ssim": _columnwise(np.add, ssim) / ssim.shape[1],
                "min_l2": _columnwise(np.minimum, self.l2),
                "max_l2": _columnwise(np.maximum, self.l2),
                "mean_l2": _columnwise(np.add, self.l2) / self.l2.shape[1],
            }
            # fsum rounds once: the mean does not depend on numpy's order of summation.
            found |= {name + suffix: math.fsum(values) / len(values) for name, values in columns.items()}
        return found | {"success_rate": int((self.best_ssim > SUCCESS).sum()) / len(self.ssim)}


def _columnwise(operation: np.ufunc, table: Float64) -> Float64:
    """A binary operation over the columns of a table, from left to right."""
    result: Float64 = operation.accumulate(table, axis=1)[:, -1]
    return result


def _ssim(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating], *, unit: bool) -> Float64:
    """SSIM of (m, h, w, c) images: scikit-image's operations in its order, on many pairs at once.

    scikit-image's function takes one pair; for small images its Python calls take two thirds of the time.
    """

    def planes(images: npt.NDArray[np.floating]) -> Float64:
        channels: Float64 = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float64)
        return (channels + 1) / 2 if unit else channels

    def mean(values: Float64) -> Float64:
        filtered: Float64 = uniform_filter(values, size=_WINDOW, axes=(-2, -1))
        return filtered

    a, b = planes(x), planes(y)
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
    result: Float64 = s[..., pad:-pad, pad:-pad].mean(axis=(-2, -1)).mean(axis=-1)
    return result


def _squared_distance(x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]) -> Float64:
    """Mean squared difference of (m, h, w, c) images."""
    difference = x.astype(np.float64) - y
    squares = (difference * difference).reshape(*x.shape[:2], -1)
    # Down the columns, then along one short row: numpy never changes this order.
    result: Float64 = squares.sum(axis=1).sum(axis=1) / x[0].size
    return result


def _over_pairs(
    measure: Callable[..., Float64],
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    index: npt.NDArray[np.integer],
) -> Float64:
    """`measure` of the images that each row of `index` names, in small batches on several threads."""
    result = np.empty(len(index))

    def batch(low: int, high: int) -> None:
        result[low:high] = measure(first[index[low:high, 0]], second[index[low:high, 1]])

    in_blocks(batch, len(index), block=_BATCH)
    return result


def ssim_pairs(
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    index: npt.NDArray[np.integer],
    *,
    unit: bool = True,
) -> Float64:
    """SSIM of chosen pairs of images, equal to scikit-image's to the last bit.

    Parameters
    ----------
    first, second : floating (m1, h, w, c) and (m2, h, w, c)
        Images in [-1, 1], at least 7 x 7.
    index : integer (q, 2)
        Each row names an image of `first` and one of `second`.
    unit : bool
        True compares images moved to [0, 1], with ``data_range=1``; False as they are, with ``data_range=2``.

    Returns
    -------
    float64 (q,)
        ``skimage.metrics.structural_similarity(a, b, data_range=..., channel_axis=-1)`` of the images in float64. Each
        value depends on its pair alone, not on the other pairs or on threads.

    Examples
    --------
    >>> image = np.linspace(0, 1, 7 * 7 * 3).reshape(1, 7, 7, 3)
    >>> ssim_pairs(image, image, np.array([[0, 0]]))
    array([1.])
    """
    if min(first.shape[1:3]) < _WINDOW:
        height, width = first.shape[1:3]
        raise InputError(f"images: {height}x{width} is too small; SSIM needs 7x7 pixels or more")
    return _over_pairs(partial(_ssim, unit=unit), first, second, index)


def _distinct(images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first row of each distinct image, and for each row the place of its image among these."""
    seen: dict[bytes, int] = {}
    place = np.array([seen.setdefault(image.tobytes(), len(seen)) for image in images], np.int64)
    return np.unique(place, return_index=True)[1], place


def _check(decryption: npt.NDArray[np.floating], private: UInt8, pair: npt.NDArray[np.integer]) -> None:
    if private.dtype != np.uint8 or private.ndim != 4:
        raise InputError(
            f"private: {private.dtype} {private.shape}; uint8 images (n_private, h, w, 3) are expected"
        )
    if pair.ndim != 2 or pair.dtype.kind not in "iu" or not pair.size:
        raise InputError(
            f"pair: {pair.dtype} {pair.shape}; integers (n, p), one row per encryption, are expected"
        )
    if int(pair.min()) < 0 or int(pair.max()) >= len(private):
        raise InputError(f"pair: indices of private images must lie in 0..{len(private) - 1}")
    expected = (len(pair), *private.shape[1:])
    if decryption.dtype.kind != "f" or decryption.shape != expected:
        raise InputError(f"decryption: {decryption.dtype} {decryption.shape}; floats {expected} are expected")
    if not np.isfinite(decryption).all():
        raise InputError("decryption: holds NaN or infinity; every value must lie in [-1, 1]")


def score(decryption: npt.NDArray[np.floating], private: UInt8, pair: npt.NDArray[np.integer]) -> Scores:
    """Score one decrypted image per encryption against the private images inside the encryption.

    Parameters
    ----------
    decryption : floating (n, h, w, 3)
        Row i answers encryption i, in [-1, 1].
    private : uint8 (n_private, h, w, 3)
        The private images.
    pair : integer (n, p)
        The private images inside each encryption, as indices into `private`.

    Raises
    ------
    InputError
        When shapes, dtypes or indices do not fit each other, or a value is not finite.

    Notes
    -----
    Attacks return the same few images for many encryptions, so each distinct pair of images is compared once. A
    decryption equal to ``pixel_values(private)`` has SSIM 1.0 and L2 0.0 exactly.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> private = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    >>> found = score(pixel_values(private), private, np.array([[0, 1], [0, 1]])).metrics()
    >>> found["max_ssim"], found["min_l2"], found["success_rate"]
    (1.0, 0.0, 1.0)
    """
    _check(decryption, private, pair)
    image = np.ascontiguousarray(decryption, dtype=np.float32)
    truth = pixel_values(private)
    first, place = _distinct(image)
    # One integer names a pair of (distinct decryption, private image).
    code, where = np.unique(place[:, None] * len(private) + pair.astype(np.int64), return_inverse=True)
    index = np.stack([code // len(private), code % len(private)], axis=1)
    where = where.reshape(pair.shape)
    image = image[first]
    return Scores(
        ssim_pairs(image, truth, index)[where],
        ssim_pairs(image, truth, index, unit=False)[where],
        _over_pairs(_squared_distance, image, truth, index)[where],
    )


def find_mistakes(
    decryption: npt.NDArray[np.floating], private: UInt8, pair: npt.NDArray[np.integer], scores: Scores
) -> list[str]:
    """Warnings, one line each, where another range or another order of rows would score far higher.

    The arguments are those of :func:`score`, and its result. At most 400 rows are compared.
    """
    some = np.arange(0, len(pair), max(1, len(pair) // 200))
    reached = float(scores.best_ssim[some].mean())
    if decryption.min() >= 0:
        moved = score(2 * decryption[some] - 1, private, pair[some]).best_ssim.mean()
        hint = f"; as 2d - 1 they score {moved:.3f} instead of {reached:.3f}" if moved > reached else ""
        return [f"decryption: no value is negative; images in [-1, 1] are expected{hint}"]
    flat, truth = (a.reshape(len(a), -1).astype(float) for a in (decryption[some], pixel_values(private)))
    nearest = ((truth * truth).sum(axis=1) - 2 * flat @ truth.T).argmin(axis=1)
    nearby = score(decryption[some], private, nearest[:, None]).best_ssim.mean()
    if nearby > reached + 0.3:
        return [
            f"decryption: images score {nearby:.3f} with the nearest private images, but {reached:.3f} with those of "
            "their own rows; are the rows in another order, or of another run?"
        ]
    return []


def match_images(
    recovered: npt.NDArray[np.floating], private: UInt8
) -> tuple[npt.NDArray[np.int64], Float64]:
    """Match recovered to private images by the assignment with the largest sum of SSIM.

    Parameters
    ----------
    recovered : floating (m, h, w, 3)
        Images in [-1, 1] in any order, m at least n_private.
    private : uint8 (n_private, h, w, 3)
        The private images.

    Returns
    -------
    place : int64 (n_private,)
        ``recovered[place[i]]`` is matched to ``private[i]``; no image is used twice.
    ssim : float64 (n_private,)
        SSIM over [0, 1] of each matched pair.
    """
    m, n = len(recovered), len(private)
    if recovered.shape[1:] != private.shape[1:] or m < n:
        raise InputError(
            f"recovered: shape {recovered.shape}; {private.shape}, one image per private image, is expected"
        )
    index = np.stack(np.divmod(np.arange(m * n), n), axis=1)
    table = ssim_pairs(recovered.astype(np.float32), pixel_values(private), index).reshape(m, n)
    place = linear_sum_assignment(table.T, maximize=True)[1]
    return place, table[place, np.arange(n)]
