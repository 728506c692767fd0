"""Private images from known masks and pairs when of the coefficients only the labels' are known.

Weighted least squares takes the public part of each encryption for noise. But in one epoch the same N public images
are used k - 2 times each, so the public parts of its encryptions are correlated, and some combinations of encryptions
hold hardly any public image. The residuals show their covariance: thousands of pixels are thousands of samples of it
(the companions of `unmask`, :mod:`.companions`, with exact signs). Generalised least squares with that covariance, and
residuals of better images, a few times in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import factor, solve
from instahide_nb.attacks.generator.known_signs import generalised_images, weighted_images
from instahide_nb.attacks.generator.replay import image_classes
from instahide_nb.core.progress import progress

__all__ = ["LabelImages", "images_from_labels"]

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

_ROUNDS = 4
_RIDGE = 1e-3  # on the covariance, as a share of its diagonal: it is estimated


@dataclass(frozen=True)
class LabelImages:
    """Images, and what is known of the coefficients.

    Attributes
    ----------
    private : (N, d) float64 array
        In [-1, 1].
    coefficient : (n, p) float64 array
        Private coefficients; where images share a class, as least squares splits their sum.
    alone : (n,) bool array
        Where the label shows each coefficient alone.
    variance : (n,) float64 array
        Mean square of what the images leave of each encryption.
    """

    private: Float64
    coefficient: Float64
    alone: npt.NDArray[np.bool_]
    variance: Float64


def images_from_labels(
    lifted: Float64,
    pair: Int32,
    label: npt.NDArray[np.floating],
    n_private: int,
    mean: Float64,
    scheme: str = "cross",
) -> LabelImages:
    """Private images from masks, pairs and labels.

    Parameters
    ----------
    lifted : (n, d) float64 array
        Encryptions with their masks lifted; d = h * w * 3 values, three colours side by side.
    pair : (n, p) int32 array
        The private images of each encryption, in epochs of `n_private` rows.
    label : (n, classes) float array
    n_private : int
    mean : (d,) float64 array
        The mean public image.
    scheme : str
        Only "cross" has public parts that are correlated.
    """
    coefficient, alone = _coefficients_of_label(label, pair)
    if not _all_seen(pair, alone, n_private):
        alone[:] = True
    images, variance = weighted_images(lifted, pair, coefficient, alone, n_private, mean)
    if pair.shape[1] != 2:
        return LabelImages(images, coefficient, alone, variance)
    left = _left(lifted, pair, coefficient, images, mean)
    _split_shared(left, pair, coefficient, alone, images)
    images, variance = weighted_images(
        lifted, pair, coefficient, np.ones(len(pair), np.bool_), n_private, mean
    )
    for _ in progress(range(_ROUNDS if scheme == "cross" else 0), desc="companions", unit="round"):
        images = _companion_round(lifted, pair, coefficient, alone, images, mean)
    return LabelImages(images, coefficient, alone, variance)


def _companion_round(
    lifted: Float64,
    pair: Int32,
    coefficient: Float64,
    alone: npt.NDArray[np.bool_],
    images: Float64,
    mean: Float64,
) -> Float64:
    """Images with the covariance of the residuals of earlier ones; improves shared coefficients in place."""
    n_private = len(images)
    left = _left(lifted, pair, coefficient, images, mean)

    def covariance(rows: slice) -> Float64:
        return _covariance(left[rows])

    rest = 1 - coefficient[:, 0] - coefficient[:, 1]
    target = lifted - rest[:, None] * mean
    better = np.clip(generalised_images(target, pair, coefficient, n_private, covariance), -1, 1)
    after = _left(lifted, pair, coefficient, better, mean)
    for first in range(0, len(pair), n_private):
        rows = slice(first, first + n_private)
        inverse = solve(factor(covariance(rows)), np.eye(n_private))
        bare = _unpredicted(after[rows], inverse)
        _split_shared(bare, pair[rows], coefficient[rows], alone[rows], better)
    return better


def _coefficients_of_label(
    label: npt.NDArray[np.floating], index: Int32
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Private coefficients as the labels show them, and where each is shown alone; others get an equal share."""
    classes, _ = image_classes(label, index)
    own = classes[index]
    shown = np.asarray(label, np.float64)[np.arange(len(label))[:, None], own]
    sharing = (own[:, :, None] == own[:, None, :]).sum(axis=2)
    return shown / sharing, (sharing == 1).all(axis=1)


def _all_seen(pair: Int32, alone: npt.NDArray[np.bool_], n_private: int) -> bool:
    """Whether every image is in enough encryptions whose coefficients are known one by one."""
    seen = np.bincount(pair[alone].ravel(), minlength=n_private)
    return bool(seen.min() >= 2 * pair.shape[1])


def _left(lifted: Float64, pair: Int32, coefficient: Float64, images: Float64, mean: Float64) -> Float64:
    """What the images and the mean public part leave of each encryption."""
    left = lifted - (1 - coefficient[:, 0] - coefficient[:, 1])[:, None] * mean
    for j in range(2):
        left -= coefficient[:, j, None] * images[pair[:, j]]
    return left


def _split_shared(
    left: Float64, pair: Int32, coefficient: Float64, alone: npt.NDArray[np.bool_], images: Float64
) -> None:
    """Where both images share a class, move the split of their known sum along the residual; in place."""
    for r in np.flatnonzero(~alone & (pair[:, 0] != pair[:, 1])):
        total = float(coefficient[r, 0] + coefficient[r, 1])
        difference = images[pair[r, 0]] - images[pair[r, 1]]
        # accumulate adds in a fixed order, which sum does not promise
        across = float(np.add.accumulate(left[r] * difference)[-1])
        along = float(np.add.accumulate(difference * difference)[-1])
        first = min(max(float(coefficient[r, 0]) + across / max(along, 1e-12), 0.0), total)
        coefficient[r] = first, total - first


@nb.njit(cache=True)  # pragma: no cover - compiled
def _gram(samples: Any, out: Any) -> None:
    """Add up the products of each sample's values; the innermost loop is over independent sums."""
    n = samples.shape[1]
    for p in range(len(samples)):
        sample = samples[p]
        for r in range(n):
            value = sample[r]
            row = out[r]
            for s in range(n):
                row[s] += value * sample[s]


def _covariance(left: Float64) -> Float64:
    """Covariance of an epoch's residuals over pixels, from differences of neighbours, which are nearly independent."""
    n, d = left.shape
    side = int(np.sqrt(d // 3))
    if side * side * 3 == d:
        square = left.reshape(n, side, side, 3)
        down, right = square[:, 1:] - square[:, :-1], square[:, :, 1:] - square[:, :, :-1]
        values = np.concatenate([down.reshape(n, -1), right.reshape(n, -1)], axis=1)
    else:
        values = left[:, 3:] - left[:, :-3]
    out = np.zeros((n, n))
    _gram(np.ascontiguousarray(values.T), out)
    out /= values.shape[1]
    out[np.arange(n), np.arange(n)] *= 1 + _RIDGE
    return out


@nb.njit(cache=True)  # pragma: no cover - compiled
def _unpredicted(left: Any, inverse: Any) -> Any:
    """Each residual less what the other rows of its epoch predict of it."""
    n, size = left.shape
    out = np.zeros((n, size))
    for r in range(n):
        for s in range(n):
            c = inverse[r, s] / inverse[r, r]
            for p in range(size):
                out[r, p] += c * left[s, p]
    return out
