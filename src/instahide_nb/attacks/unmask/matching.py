"""Which private images an encryption holds: a whitened matched filter, and the assignment that labels allow.

A label names the classes of an encryption's two private images and the coefficient of each. So each encryption has
two slots, a class and a coefficient each, and each slot takes one image of its class. In epochs every image fills two
slots of each epoch (it is the first private image of one row and the second of another), so the slots of a class in
an epoch are matched to its images by a linear assignment.

With its mask lifted an encryption is ``x - m = a P + b Q + e`` with centred images P, Q and a residual e whose
covariance is that of public images. For a pair (P, Q) the whitened squared residual falls by twice
``a <x, P> + b <x, Q> - a b <P, Q> - (a^2 <P, P> + b^2 <Q, Q>) / 2``. The same holds of edge energies (`edges`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import integer_product, integers, whole_product
from instahide_nb.attacks.mixtures import Fit, Mixtures
from instahide_nb.attacks.unmask.smoothness import Smoothness, whiten
from instahide_nb.core.errors import InputError
from instahide_nb.core.threads import in_blocks

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Rows = Callable[[slice | Int64], Float32]
"""Some rows (m, channels, h, w), centred: a function, so that all rows need not be in memory at once."""

_FEW = 16  # images of the largest class for which 12 bits do; with more, rounding decided between look-alikes
_LIKELY = 8  # images of a class more than twice as large that are tried with every partner
_BLOCK = 1000  # rows at a time
_NOTHING = np.float32(-1e30)


@dataclass(frozen=True)
class Slots:
    """The two slots of every encryption, and the images that may fill them.

    Attributes
    ----------
    image_class : int64 (n, 2)
        Class of each slot; the slot with the larger coefficient is first.
    coefficient : float32 (n, 2)
        Coefficient of each slot; where both slots share a class, half of their known sum each.
    shared : bool (n,)
        True where both slots have the same class, so that only the sum of their coefficients is known.
    start : int64 (classes + 1,)
        Images of class c are numbered start[c] .. start[c+1]-1.
    epoch : int64 (n,)
        The epoch of each encryption, or -1 throughout when the encryptions are not in epochs.
    """

    image_class: Int64
    coefficient: Float32
    shared: npt.NDArray[np.bool_]
    start: Int64
    epoch: Int64

    @property
    def n_images(self) -> int:
        """Number of private images."""
        return int(self.start[-1])

    @property
    def largest(self) -> int:
        """Number of images of the largest class, and so of scores for each slot."""
        return int(np.diff(self.start).max())

    def within(self, image: Int64) -> Int64:
        """Places of the images of all slots (n, 2) among those of the slot's class; -1 stays below 0."""
        return np.where(image < 0, image, image - self.start[self.image_class])


def read_slots(label: npt.NDArray[np.floating], n_images: int) -> Slots:
    """Read classes, coefficients and the number of images of each class from labels (n, classes).

    Raises
    ------
    InputError
        When a label does not have one or two entries, when labels hold classes without coefficients, or when there
        is one class only.

    Examples
    --------
    >>> slots = read_slots(np.array([[0.5, 0.2], [0.0, 0.6], [0.1, 0.3], [0.7, 0.0]]), 3)
    >>> slots.image_class.tolist(), slots.shared.tolist(), slots.start.tolist()
    ([[0, 1], [1, 1], [1, 0], [0, 0]], [False, True, False, True], [0, 2, 3])
    """
    label = np.asarray(label, np.float32)
    n, n_classes = label.shape
    present = label > 0
    count = present.sum(axis=1)
    if (label < 0).any() or count.min() < 1 or count.max() > 2:
        raise InputError(
            "label.npy: this attack needs one or two positive entries a row, the coefficients of two private images; "
            "this release has other labels (an inside-dataset release, perhaps)"
        )
    if len(np.unique(label[present])) <= 2 and n > 4:
        raise InputError(
            "label.npy: the labels name classes but not coefficients, and this attack needs the coefficients; "
            "publish label.npy as sums of coefficients per class"
        )
    if not (count == 2).any():
        raise InputError(
            "label.npy: no encryption has private images of two classes, so that no coefficient of a single image "
            "is known; this attack needs private images of two classes or more"
        )
    image_class = np.argsort(-label, axis=1, kind="stable")[:, :2].astype(np.int64)
    shared = count == 1
    image_class[shared, 1] = image_class[shared, 0]
    coefficient = np.take_along_axis(label, image_class, axis=1)
    coefficient[shared] *= np.float32(0.5)
    start = _class_starts(image_class, n_classes, n_images)
    return Slots(image_class, coefficient, shared, start, _find_epochs(image_class, np.diff(start), n_images))


def _class_starts(image_class: Int64, n_classes: int, n_images: int) -> Int64:
    """Share the images out in proportion to how often the classes occur (largest remainders)."""
    occurrence = np.bincount(image_class.ravel(), minlength=n_classes)
    share = occurrence * n_images
    size = share // image_class.size
    size[(size == 0) & (occurrence > 0)] = 1
    remainder = share - size * image_class.size
    for _ in range(int(n_images - size.sum())):
        best = int(np.argmax(remainder))
        size[best] += 1
        remainder[best] -= image_class.size
    if size.sum() != n_images:
        raise InputError(
            f"n_private: {n_images} images cannot cover the {int((occurrence > 0).sum())} classes seen"
        )
    return np.concatenate([[0], np.cumsum(size)]).astype(np.int64)


def _find_epochs(image_class: Int64, size: Int64, n_images: int) -> Int64:
    """Number the epochs when every block of `n_images` rows holds each class twice its size."""
    n = len(image_class)
    epochs = np.arange(n, dtype=np.int64) // n_images
    seen = np.zeros((epochs[-1] + 1, len(size)), np.int64)
    np.add.at(seen, (epochs[:, None], image_class), 1)
    return epochs if (seen == 2 * size).all() else np.full(n, -1, np.int64)


def assign(slots: Slots, score: Float32) -> Int64:
    """Fill every slot with an image of its class so that the sum of scores is largest.

    Parameters
    ----------
    slots : Slots
    score : float32 (n, 2, largest)
        Score of each image of the slot's class, in their order.

    Returns
    -------
    int64 (n, 2)
        Image of each slot. With epochs each image fills two slots of each epoch; without, each slot takes its best.
    """
    from scipy.optimize import linear_sum_assignment

    flat_class, flat_epoch = slots.image_class.ravel(), np.repeat(slots.epoch, 2)
    flat_score, out = score.reshape(len(flat_class), -1), np.empty(len(flat_class), np.int64)
    for c in np.flatnonzero(np.diff(slots.start)):
        low, high = int(slots.start[c]), int(slots.start[c + 1])
        held = np.flatnonzero(flat_class == c)
        if slots.epoch[0] < 0 or high - low == 1:
            out[held] = low + np.argmax(flat_score[held, : high - low], axis=1)
            continue
        for part in np.split(held, np.flatnonzero(np.diff(flat_epoch[held])) + 1):
            gain = np.repeat(flat_score[part, : high - low].astype(np.float64), 2, axis=1)
            out[part] = low + linear_sum_assignment(gain, maximize=True)[1] // 2
    return out.reshape(-1, 2)


def square_lengths(rows: Rows, n: int, local: Smoothness) -> Float64:
    """Whitened squared length of each row, float64 (n,)."""
    out = np.empty(n)
    for low in range(0, n, _BLOCK):
        part = np.ascontiguousarray(rows(slice(low, low + _BLOCK)))
        flat, white = part.reshape(len(part), -1), whiten(part, local).reshape(len(part), -1)
        in_blocks(_dot_rows, len(part), flat, white, out[low : low + _BLOCK])
    return out


@numba.njit(cache=True, nogil=True)
def _dot_rows(first: int, last: int, a: Float32, b: Float32, out: Float64) -> None:
    for i in range(first, last):
        total = 0.0
        for p in range(a.shape[1]):
            total += float(a[i, p]) * float(b[i, p])
        out[i] = total


def matched_filter(rows: Rows, image: Float32, local: Smoothness, slots: Slots) -> tuple[Float64, Float64]:
    """Products of rows and the images of their own classes after whitening.

    Parameters
    ----------
    rows : callable
        Centred rows.
    image : float32 (images, channels, h, w)
        Centred images.
    local : Smoothness
    slots : Slots

    Returns
    -------
    product : float64 (n, images)
        0 for images of other classes.
    gram : float64 (images, images)
        Of the images among each other.
    """
    n, fine = len(slots.shared), slots.largest > _FEW
    white = whiten(image, local).reshape(len(image), -1)
    gram = integer_product(image.reshape(len(image), -1), white, fine)
    whole_white, white_scale = integers(white, fine)
    product = np.zeros((n, len(image)))
    for low in range(0, n, _BLOCK):
        part = rows(slice(low, low + _BLOCK))
        whole, scale = integers(part.reshape(len(part), -1), fine)
        for c in np.flatnonzero(np.diff(slots.start)):
            own = slice(slots.start[c], slots.start[c + 1])
            held = np.flatnonzero((slots.image_class[low : low + _BLOCK] == c).any(axis=1))
            found = whole_product(whole[held], whole_white[own])
            product[low + held, own] = found / (scale[held, None] * white_scale[own])
    return product, 0.5 * (gram + gram.T)


@numba.njit(cache=True, nogil=True)
def _without_row(
    begin: tuple[int, int],
    size: tuple[int, int],
    own: Int64,
    coefficient: Float32,
    influence: Float64,
    product: Float64,
    gram: Float64,
    length: Float64,
    square: float,
    table: Float64,
) -> float:
    """Products with the images of both slots as they would be without this row, in `table` (4, 2, largest).

    An image without the row is P_j - t_j e, with e the row's residual and t_j = influence_j / (1 - leverage). So
    <x, P_j> and <P_j, P_k> change with <x, e>, <e, P_j> and <e, e>. The table gets <x, P_j>, <P_j, P_j>, t_j, and
    <e, P_j> as it was; returned is <e, e>. `length` is the diagonal of `gram`, closely packed.
    """
    leverage, x_e = 0.0, square
    for o in range(own.shape[0]):
        if own[o] >= 0:
            leverage += coefficient[o] * influence[own[o]]
            x_e -= coefficient[o] * product[own[o]]
    leverage = min(leverage, 0.9)
    e_e = x_e
    for o in range(own.shape[0]):
        if own[o] >= 0:
            along = product[own[o]]
            for other in range(own.shape[0]):
                if own[other] >= 0:
                    along -= coefficient[other] * gram[own[other], own[o]]
            e_e -= coefficient[o] * along
    e_e = max(e_e, 0.0)
    for slot in range(2):
        for j in range(size[slot]):
            number = begin[slot] + j
            pull = influence[number] / (1.0 - leverage)
            along = product[number]
            for o in range(own.shape[0]):
                if own[o] >= 0:
                    along -= coefficient[o] * gram[own[o], number]
            table[0, slot, j] = product[number] - pull * x_e
            table[1, slot, j] = length[number] - 2.0 * pull * along + pull * pull * e_e
            table[2, slot, j], table[3, slot, j] = pull, along
    return e_e


@numba.njit(cache=True, nogil=True)
def _gain(
    j: int, k: int, weight: tuple[float, float], shared: bool, gram: float, e_e: float, table: Float64
) -> tuple[float, float, float]:
    """Gain of images j and k with product `gram`, and their coefficients: the likeliest where only a + b is known."""
    a, b = weight
    gjj, gkk, pull_j, pull_k = table[1, 0, j], table[1, 1, k], table[2, 0, j], table[2, 1, k]
    gjk = gram + pull_j * pull_k * e_e - pull_j * table[3, 1, k] - pull_k * table[3, 0, j]
    if shared:
        both = a + b
        curve = gjj + gkk - 2.0 * gjk
        slope = table[0, 0, j] - table[0, 1, k] - both * (gjk - gkk)
        a = slope / curve if curve > 1e-9 else 0.5 * both
        a = min(max(a, 0.5 * both), both)  # the first slot is the larger one
        b = both - a
    gain = a * table[0, 0, j] + b * table[0, 1, k] - a * b * gjk - 0.5 * (a * a * gjj + b * b * gkk)
    return gain, a, b


@numba.njit(cache=True, nogil=True)
def _pair_scores(
    low: int,
    high: int,
    image_class: Int64,
    shared: npt.NDArray[np.bool_],
    start: Int64,
    coefficient: Float32,
    product: Float64,
    gram: Float64,
    length: Float64,
    scale: Float32,
    given: Int64,
    own: Int64,
    own_coefficient: Float32,
    influence: Float64,
    square: Float64,
    score: Float32,
    split: Float32,
) -> None:
    largest = score.shape[2]
    table, best = np.zeros((4, 2, largest)), np.empty((2, largest))
    single, likely = np.empty(largest), np.empty((2, largest), np.bool_)
    nobody = np.full(1, -1)
    for i in range(low, high):
        begin = start[image_class[i, 0]], start[image_class[i, 1]]
        size = start[image_class[i, 0] + 1] - begin[0], start[image_class[i, 1] + 1] - begin[1]
        weight = float(coefficient[i, 0]), float(coefficient[i, 1])
        fitted = i < own.shape[0]
        e_e = _without_row(
            begin,
            size,
            own[i] if fitted else nobody,
            own_coefficient[i] if fitted else coefficient[i],
            influence[i] if fitted else influence[0],
            product[i],
            gram,
            length,
            square[i] if fitted else 0.0,
            table,
        )
        best[:] = _NOTHING
        if given[i, 0] >= 0 and given[i, 1] >= 0:  # each slot is scored beside the image in the other
            a, b = given[i, 0] - begin[0], given[i, 1] - begin[1]
            for j in range(size[0]):
                best[0, j], _, _ = _gain(j, b, weight, shared[i], gram[given[i, 1], begin[0] + j], e_e, table)
            for k in range(size[1]):
                best[1, k], _, _ = _gain(a, k, weight, shared[i], gram[given[i, 0], begin[1] + k], e_e, table)
            _, la, lb = _gain(a, b, weight, shared[i], gram[given[i, 0], given[i, 1]], e_e, table)
            split[i, 0], split[i, 1] = np.float32(la), np.float32(lb)
        else:  # beside its best partner
            # in large classes an image that is not likely by itself is only tried with a likely partner
            likely[:] = min(size) <= 2 * _LIKELY
            if min(size) > 2 * _LIKELY:
                for slot in range(2):
                    for j in range(size[slot]):
                        a = weight[slot]
                        single[j] = a * table[0, slot, j] - 0.5 * a * a * table[1, slot, j]
                    for _ in range(_LIKELY):
                        top = np.argmax(single[: size[slot]])
                        likely[slot, top], single[top] = True, -np.inf
            for j in range(size[0]):
                products = gram[begin[0] + j, begin[1] : begin[1] + size[1]]
                for k in range(size[1]):
                    if likely[0, j] or likely[1, k]:
                        gain, _, _ = _gain(j, k, weight, shared[i], products[k], e_e, table)
                        best[0, j], best[1, k] = max(best[0, j], gain), max(best[1, k], gain)
        for slot in range(2):
            for j in range(size[slot]):
                score[i, slot, j] = np.float32(best[slot, j] / scale[i])


def pair_scores(
    slots: Slots,
    product: Float64,
    gram: Float64,
    scale: Float32,
    given: Int64 | None = None,
    fit: Fit | None = None,
    square: Float64 | None = None,
) -> tuple[Float32, Float32]:
    """Score every image in every slot by the log-likelihood of its best pair.

    Parameters
    ----------
    slots : Slots
    product : float64 (n, images)
    gram : float64 (images, images)
        From `matched_filter`.
    scale : float32 (n,)
        Covariance of each residual in units of the public covariance.
    given : int64 (n, 2), optional
        Partners: each slot is scored beside the image that the other slot holds. Left out, beside its best.
    fit : Fit, optional
        What the images were fitted to; each encryption is then compared with the images as they would be without it.
        An image that was fitted to an encryption resembles it also where it should not.
    square : float64 (n,), with `fit`
        From `square_lengths`.

    Returns
    -------
    score : float32 (n, 2, largest)
        Log-likelihood above that of no private image at all, of each image of the slot's class; -1e30 behind the last.
    coefficient : float32 (n, 2)
        Coefficients under `given`: as published, or the likeliest split where the slots share a class.
    """
    n = len(slots.image_class)
    score, split = np.full((n, 2, slots.largest), _NOTHING, np.float32), slots.coefficient.copy()
    partners = np.full((n, 2), -1, np.int64) if given is None else given
    nobody = Mixtures(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32), slots.n_images)
    held, pull = (nobody, np.zeros((1, slots.n_images))) if fit is None else (fit.mixtures, fit.influence)
    fitted = held.assignment, held.coefficient, pull, np.zeros(0) if square is None else square
    own = slots.image_class, slots.shared, slots.start, slots.coefficient
    filtered = product, gram, np.diagonal(gram).copy(), scale
    in_blocks(_pair_scores, n, *own, *filtered, partners, *fitted, score, split)
    return score, split


@dataclass(frozen=True)
class Matching:
    """Two images for each encryption.

    Attributes
    ----------
    assignment : int64 (n, 2)
    coefficient : float32 (n, 2)
        As published, or the likeliest split where the slots share a class.
    score : float32 (n, 2, largest)
        Of every image of the class of each slot, beside the partner that was chosen.
    """

    assignment: Int64
    coefficient: Float32
    score: Float32

    def chosen(self, slots: Slots) -> Float32:
        """Score of the image of each slot, float32 (n, 2)."""
        return np.take_along_axis(self.score, slots.within(self.assignment)[:, :, None], axis=2)[:, :, 0]

    def margin(self, slots: Slots) -> Float32:
        """Score of the image of each slot above the best other image of its class, float32 (n, 2)."""
        other = self.score.copy()
        np.put_along_axis(other, slots.within(self.assignment)[:, :, None], _NOTHING, axis=2)
        return np.minimum(self.chosen(slots) - other.max(axis=2), np.float32(1e6))


def match(
    rows: Rows,
    image: Float32,
    scale: Float32,
    local: Smoothness,
    slots: Slots,
    fit: Fit | None = None,
    square: Float64 | None = None,
) -> Matching:
    """Assign images to encryptions: each slot beside its best partner first, then twice beside the chosen one.

    The arguments are those of `matched_filter` and `pair_scores`.
    """
    filtered = (*matched_filter(rows, image, local, slots), scale)
    assignment = None
    for _ in range(3):
        score, _ = pair_scores(slots, *filtered, assignment, fit, square)
        assignment = assign(slots, score)
    score, coefficient = pair_scores(slots, *filtered, assignment, fit, square)
    assert assignment is not None
    return Matching(assignment, coefficient, score)
