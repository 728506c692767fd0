"""Which private images an encryption holds: slots read from the labels, and their assignment to images.

A label names the classes of an encryption's two private images and the coefficient of each. Each encryption so has
two slots, each slot a class and a coefficient, and each slot is to be filled with one image of its class.
When the encryptions come in epochs, every image of a class fills two slots of each epoch (once it is the first
private image of a row, once the second), so the slots of one class in one epoch are matched to the images, two
places each: a linear assignment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError

__all__ = ["Slots", "assign", "read_slots"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


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
        """Number of images of the largest class, and so of values for each slot where images are scored."""
        return int(np.diff(self.start).max())

    def within(self, image: Int64) -> Int64:
        """Places of the images of all slots, int64 (n, 2), among those of the slot's class; -1 stays below 0."""
        return np.where(image < 0, image, image - self.start[self.image_class])

    def of_own_classes(self, table: Float64, row: Int64) -> Float64:
        """Of a table (rows, images) what belongs to the class of each slot, float64 (rows, 2, largest)."""
        out = np.zeros((len(row), 2, self.largest))
        for c in np.flatnonzero(np.diff(self.start)):
            low, high = self.start[c], self.start[c + 1]
            at, slot = np.nonzero(self.image_class[row] == c)
            out[at, slot, : high - low] = table[at, low:high]
        return out


def read_slots(label: npt.NDArray[np.floating], n_images: int) -> Slots:
    """Read classes, coefficients and the number of images of each class from the labels.

    Parameters
    ----------
    label : float (n, classes)
        Per class, the sum of the coefficients of the private images of that class.
    n_images : int
        Number of private images in all classes together.

    Returns
    -------
    Slots

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
    distinct = np.unique(label[present])
    if len(distinct) <= 2 and n > 4:
        raise InputError(
            "label.npy: the labels name classes but not coefficients, and this attack needs the coefficients; "
            "publish label.npy as sums of coefficients per class"
        )
    if not (count == 2).any():
        raise InputError(
            "label.npy: no encryption has private images of two classes, so that no coefficient of a single image "
            "is known; this attack needs private images of two classes or more"
        )
    order = np.argsort(-label, axis=1, kind="stable")[:, :2] if n_classes > 1 else np.zeros((n, 2), np.int64)
    shared = count == 1
    image_class = order.astype(np.int64)
    image_class[shared, 1] = image_class[shared, 0]
    coefficient = np.take_along_axis(label, image_class, axis=1)
    coefficient[shared] *= np.float32(0.5)
    start = _class_sizes(image_class, n_classes, n_images)
    return Slots(image_class, coefficient, shared, start, _find_epochs(image_class, np.diff(start), n_images))


def _class_sizes(image_class: Int64, n_classes: int, n_images: int) -> Int64:
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
    none = np.full(n, -1, np.int64)
    if n % n_images:
        return none
    for low in range(0, n, n_images):
        block = np.bincount(image_class[low : low + n_images].ravel(), minlength=len(size))
        if (block != 2 * size).any():
            return none
    return np.arange(n, dtype=np.int64) // n_images


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

    n = len(slots.image_class)
    out = np.empty((n, 2), np.int64)
    flat_class = slots.image_class.ravel()
    flat_score = score.reshape(2 * n, -1)
    flat_out = out.ravel()
    flat_epoch = np.repeat(slots.epoch, 2)
    for c in range(len(slots.start) - 1):
        low, high = int(slots.start[c]), int(slots.start[c + 1])
        rows = np.flatnonzero(flat_class == c)
        if low == high:
            continue
        if slots.epoch[0] < 0 or high - low == 1:
            flat_out[rows] = low + np.argmax(flat_score[rows, : high - low], axis=1)
            continue
        for part in np.split(rows, np.flatnonzero(np.diff(flat_epoch[rows])) + 1):
            gain = np.repeat(flat_score[part, : high - low].astype(np.float64), 2, axis=1)
            _, column = linear_sum_assignment(gain, maximize=True)
            flat_out[part] = low + column // 2
    return out
