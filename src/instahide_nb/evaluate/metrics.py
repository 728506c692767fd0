"""The challenge's metrics: how near a decryption comes to the two private images inside each encryption.

For encryption i with private images p1, p2 and decryption d, the InstaHide Challenge (2020) averages over all
encryptions ``max(SSIM(d, p1), SSIM(d, p2))`` and the mean, the smaller and the larger L2 distance. Two things
its README left open are fixed here. Its text says Max_L2 and its leaderboard Min_L2: both are reported. The range
of the images that SSIM saw is not given: the five figures take images in [0, 1] (``data_range=1``), which agrees
with the published rows, and the keys that end in ``_signed`` take them in [-1, 1] (``data_range=2``).

SSIM is that of Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP
2004, as scikit-image computes it by default: a uniform 7x7 window, K1 = 0.01, K2 = 0.03, sample covariances,
and the mean over channels.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter
from scipy.optimize import linear_sum_assignment

from instahide_nb.core.errors import InputError

__all__ = ["COLUMNS", "METRICS", "Scores", "match_images", "score", "signed_pixels", "ssim_pairs"]

METRICS = ("max_ssim", "mean_ssim", "min_l2", "max_l2", "mean_l2")
"""The five figures, in the order in which they are shown."""

COLUMNS = ("ssim1", "ssim2", "l2_1", "l2_2")
"""The columns of ``per_encryption``: SSIM and L2 to the first and to the second private image."""

_WINDOW = 7
_K1, _K2 = 0.01, 0.03
_BATCH = 64  # pairs that are filtered together: their intermediate planes stay in the cache
_THREADS = 2

Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scores:
    """What :func:`score` finds.

    Attributes
    ----------
    per_encryption : float64 (n, 4)
        SSIM to the first and second private image, then L2 to the first and second (:data:`COLUMNS`).
    per_encryption_signed : float64 (n, 4)
        The same with SSIM over [-1, 1]; its L2 columns are equal, since L2 has one reading.
    """

    per_encryption: Float64
    per_encryption_signed: Float64

    def metrics(self) -> dict[str, float]:
        """The ten figures of ``metrics.json``: the five of :data:`METRICS` and each again as ``NAME_signed``.

        ``min_l2_signed``, ``max_l2_signed`` and ``mean_l2_signed`` repeat their plain namesakes, so that either
        reading can be taken whole by its suffix.
        """
        return _five(self.per_encryption, "") | _five(self.per_encryption_signed, "_signed")

    @property
    def best_ssim(self) -> Float64:
        """float64 (n,): of each encryption, the SSIM to the private image that the decryption is nearer to."""
        best: Float64 = self.per_encryption[:, :2].max(axis=1)
        return best

    @property
    def best_slot(self) -> npt.NDArray[np.int64]:
        """int64 (n,): 0 or 1, the private image of the pair that the decryption is nearer to by SSIM."""
        return (self.per_encryption[:, 1] > self.per_encryption[:, 0]).astype(np.int64)


def _five(table: Float64, suffix: str) -> dict[str, float]:
    ssim1, ssim2, l2_1, l2_2 = table.T
    columns = {
        "max_ssim": np.maximum(ssim1, ssim2),
        "mean_ssim": (ssim1 + ssim2) / 2,
        "min_l2": np.minimum(l2_1, l2_2),
        "max_l2": np.maximum(l2_1, l2_2),
        "mean_l2": (l2_1 + l2_2) / 2,
    }
    # fsum is exact before its one rounding: the mean does not depend on numpy's order of summation.
    return {name + suffix: math.fsum(values) / len(values) for name, values in columns.items()}


def signed_pixels(images: UInt8) -> npt.NDArray[np.float32]:
    """The value in [-1, 1] that the challenge gives to 8-bit pixels: u means (2u - 255) / 255.

    Examples
    --------
    >>> signed_pixels(np.array([0, 255], np.uint8))
    array([-1.,  1.], dtype=float32)
    """
    return ((2 * images.astype(np.float64) - 255) / 255).astype(np.float32)


def _planes(images: npt.NDArray[np.floating], unit: bool) -> Float64:
    """(m, h, w, c) to contiguous float64 (m, c, h, w), a plane per channel; `unit` moves [-1, 1] to [0, 1]."""
    planes: Float64 = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float64)
    return (planes + 1) / 2 if unit else planes


def _ssim(x: Float64, y: Float64, data_range: float) -> Float64:
    """SSIM of pairs of (c, h, w) images, by the operations of scikit-image in their order, many pairs at once.

    For small images nearly all of the time of scikit-image's function goes into its Python calls; this takes a
    third of it and gives the same bits.
    """

    def mean(planes: Float64) -> Float64:
        filtered: Float64 = uniform_filter(planes, size=_WINDOW, axes=(-2, -1))
        return filtered

    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    ux, uy = mean(x), mean(y)
    vx = sample * (mean(x * x) - ux * ux)
    vy = sample * (mean(y * y) - uy * uy)
    vxy = sample * (mean(x * y) - ux * uy)
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance, structure = 2 * ux * uy + c1, 2 * vxy + c2
    s = (luminance * structure) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    pad = _WINDOW // 2  # windows that reach over the edge do not count
    per_channel = s[..., pad:-pad, pad:-pad].mean(axis=(-2, -1))
    result: Float64 = per_channel.mean(axis=-1)
    return result


def ssim_pairs(
    first: npt.NDArray[np.floating],
    second: npt.NDArray[np.floating],
    index: npt.NDArray[np.integer],
    *,
    unit: bool = True,
) -> Float64:
    """SSIM of chosen pairs of images, equal to the last bit to scikit-image's.

    Parameters
    ----------
    first, second : floating (m1, h, w, c) and (m2, h, w, c)
        Images in [-1, 1]; both sides at least 7 pixels.
    index : integer (q, 2)
        Each row takes one image of `first` and one of `second`.
    unit : bool
        True compares the images moved to [0, 1], with ``data_range=1``; False as they are, with ``data_range=2``.

    Returns
    -------
    float64 (q,)
        ``skimage.metrics.structural_similarity(a, b, data_range=..., channel_axis=-1)`` of the images as
        float64. The result for a pair depends on that pair alone, not on its neighbours or on threads.

    Examples
    --------
    >>> image = np.linspace(0, 1, 7 * 7 * 3).reshape(1, 7, 7, 3)
    >>> ssim_pairs(image, image, np.array([[0, 0]]))
    array([1.])
    """
    if min(first.shape[1:3]) < _WINDOW:
        raise InputError(
            f"images: {first.shape[1]}x{first.shape[2]} is too small; SSIM needs 7x7 pixels or more"
        )
    result = np.empty(len(index))

    def batch(start: int) -> None:
        rows = index[start : start + _BATCH]
        result[start : start + _BATCH] = _ssim(
            _planes(first[rows[:, 0]], unit), _planes(second[rows[:, 1]], unit), 1.0 if unit else 2.0
        )

    # The filter lets other threads run. Each batch writes its own rows: the order of the threads cannot matter.
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(batch, range(0, len(index), _BATCH)))
    return result


def _squared_distance(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], index: npt.NDArray[np.int64]
) -> Float64:
    """Mean squared difference of pairs of images, float64 (q,)."""
    result = np.empty(len(index))
    height, values = first.shape[1], first[0].size
    for start in range(0, len(index), _BATCH):
        rows = index[start : start + _BATCH]
        difference = first[rows[:, 0]].astype(np.float64) - second[rows[:, 1]]
        squares = (difference * difference).reshape(len(rows), height, -1)
        # Down the columns first, then along the short row that is left: an order that numpy never changes.
        result[start : start + _BATCH] = squares.sum(axis=1).sum(axis=1) / values
    return result


def _distinct(images: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows that differ from all earlier ones, and for each image its place among them."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    place = np.empty(len(images), np.int64)
    for row, image in enumerate(images):
        place[row] = seen.setdefault(image.tobytes(), len(seen))
        if len(seen) > len(first):
            first.append(row)
    return np.array(first, np.int64), place


def _check(decryption: npt.NDArray[np.floating], private: UInt8, pair: npt.NDArray[np.integer]) -> None:
    if private.dtype != np.uint8 or private.ndim != 4:
        raise InputError(
            f"private: {private.dtype} {private.shape}; uint8 images (n_private, h, w, 3) are expected"
        )
    n = len(pair)
    if pair.ndim != 2 or pair.shape[1] != 2 or pair.dtype.kind not in "iu" or n == 0:
        raise InputError(
            f"pair: {pair.dtype} {pair.shape}; integers (n, 2), one row per encryption, are expected"
        )
    if int(pair.min()) < 0 or int(pair.max()) >= len(private):
        raise InputError(f"pair: its numbers must lie in 0..{len(private) - 1}, the private images' places")
    if decryption.dtype.kind != "f" or decryption.shape != (n, *private.shape[1:]):
        raise InputError(
            f"decryption: {decryption.dtype} {decryption.shape}; floats {(n, *private.shape[1:])} are expected, "
            "one image per encryption"
        )
    if not np.isfinite(decryption).all():
        raise InputError("decryption: holds NaN or infinity; every value must lie in [-1, 1]")


def score(
    decryption: npt.NDArray[np.floating],
    private: UInt8,
    pair: npt.NDArray[np.integer],
) -> Scores:
    """Score one decrypted image per encryption against the two private images inside it.

    Parameters
    ----------
    decryption : floating (n, h, w, 3)
        Row i is the answer for encryption i, in [-1, 1].
    private : uint8 (n_private, h, w, 3)
        The private images.
    pair : integer (n, 2)
        The two private images inside each encryption, as places in `private`.

    Returns
    -------
    Scores
        Figures and per-encryption values. L2 is the mean squared difference of images in [-1, 1]. A decryption that
        equals ``signed_pixels(private)`` bit for bit has SSIM 1.0 and L2 0.0 exactly.

    Raises
    ------
    InputError
        When shapes, dtypes or places do not fit each other, or a value is not finite.

    Notes
    -----
    Attacks write the same few images for many encryptions, so each distinct pair of images is compared once.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> private = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    >>> scores = score(signed_pixels(private), private, np.array([[0, 1], [0, 1]]))
    >>> scores.metrics()["max_ssim"], scores.metrics()["min_l2"]
    (1.0, 0.0)
    """
    _check(decryption, private, pair)
    image = np.ascontiguousarray(decryption, dtype=np.float32)
    truth = signed_pixels(private)
    first, place = _distinct(image)
    # Places are small numbers, so one integer names a pair of (distinct decryption, private image).
    code = place[:, None] * len(private) + pair.astype(np.int64)
    distinct, where = np.unique(code, return_inverse=True)
    index = np.stack([distinct // len(private), distinct % len(private)], axis=1)
    image = image[first]
    where = where.reshape(code.shape)

    l2 = _squared_distance(image, truth, index)[where]
    signed = ssim_pairs(image, truth, index, unit=False)[where]
    unit = ssim_pairs(image, truth, index)[where]
    return Scores(np.hstack([unit, l2]), np.hstack([signed, l2]))


def match_images(
    recovered: npt.NDArray[np.floating], private: UInt8
) -> tuple[npt.NDArray[np.int64], Float64]:
    """Which recovered image shows which private image: the assignment with the largest sum of SSIM.

    Parameters
    ----------
    recovered : floating (m, h, w, 3)
        Images in [-1, 1], m at least n_private.
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
            f"recovered: shape {recovered.shape}; {private.shape} is expected, an image per private one"
        )
    index = np.stack(np.meshgrid(np.arange(m), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2)
    table = ssim_pairs(recovered.astype(np.float32), signed_pixels(private), index).reshape(m, n)
    row, column = linear_sum_assignment(table.T, maximize=True)
    place = np.empty(n, np.int64)
    place[row] = column
    return place, table[place, np.arange(n)]
