"""What a known generator drew: pairs, coefficients and masks of every encryption, and where in its stream they are.

The generator T is known by its window (see `mersenne`), C by its seed or not at all. Each epoch's
draws are made again in the order of `encrypt`. That the masks are the right ones shows
without any knowledge of the images: neighbouring pixels of a natural image mostly have the same sign, so with the mask
lifted nine in ten large neighbours agree, with any other mask one in two. The same test finds the masks where they do
not lie where they should, because whoever made the encryptions drew something else in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.progress import progress
from instahide_nb.scheme.encryption import draw_coefficients, integer_weights
from instahide_nb.scheme.mersenne import low_bits, seeded_window
from instahide_nb.scheme.streams import Mt19937Stream

__all__ = ["Layout", "Replay", "align", "image_classes", "replay_epochs", "signs_agree"]

SAME_SIGN = 0.7
"""Share of large neighbours that must agree; a wrong mask gives one half, the right one more than 0.85."""

_PAIRS = 2048  # neighbours looked at in each epoch: a wrong mask is 18 standard deviations off
_FIRST_PAIRS = 64
_PIECE = 1 << 20  # places tried between two steps of a search
_MOST_EXTRA = 1 << 22  # words beyond the expected place that are searched

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """How many words of T each step of an epoch takes.

    Attributes
    ----------
    pool, order, partners, mask : int
        The public pool; the order of the first images; the orders of all other places; the signs.
    epochs : int
    size : int
        Values of an encryption.
    """

    pool: int
    order: int
    partners: int
    mask: int
    epochs: int
    size: int

    @classmethod
    def of(cls, release: Release) -> Layout:
        """The layout that the release's parameters give."""
        info = release.info
        size = int(np.prod(release.encryption.shape[1:]))
        turn = info.n_private - 1
        return cls(
            pool=max(info.n_public - 1, 0) if info.scheme == "cross" else 0,
            order=turn,
            partners=(info.k - 1) * turn,
            mask=0 if info.scheme == "mixup" else info.n_private * size,
            epochs=info.encryptions_per_image,
            size=size,
        )

    @property
    def before_mask(self) -> int:
        """Words of an epoch that come before its mask."""
        return self.pool + self.order + self.partners

    @property
    def epoch(self) -> int:
        """Words of an epoch."""
        return self.before_mask + self.mask

    def starts(self) -> Int64:
        """The first word of each epoch, when nothing else is drawn."""
        return np.arange(self.epochs) * self.epoch

    def mask_word(self, encryption: Int64, value: Int64, n_private: int) -> Int64:
        """The word whose lowest bit is the sign of a value (its place in the (h, w, 3) order) of an encryption."""
        epoch, row = encryption // n_private, encryption % n_private
        plane = self.size // 3
        within = (value % 3) * plane + value // 3
        return epoch * self.epoch + self.before_mask + row * self.size + within


@dataclass(frozen=True)
class Replay:
    """Everything that was drawn.

    Attributes
    ----------
    index : (n, k) int32 array
        Images of each encryption, as in :class:`instahide_nb.scheme.encryption.Mixtures`.
    weight : (n, k) uint32 array or None
        Coefficients times 2**24, where C is known.
    positive : (n, h*w*3) bool array
        Where the mask is +1.
    """

    index: npt.NDArray[np.int32]
    weight: npt.NDArray[np.uint32] | None
    positive: npt.NDArray[np.bool_]


def _open(window: npt.NDArray[np.uint32], seed: int | None) -> Mt19937Stream:
    """The two generators; where C is not known another takes its place and its coefficients are not used."""
    states = {"T": window, "C": seeded_window(0 if seed is None else seed)}
    return Mt19937Stream("entropy", {name: key.astype("<u4").tobytes().hex() for name, key in states.items()})


def _epoch_index(stream: Mt19937Stream, info: ReleaseInfo, n_public: int) -> Iterator[npt.NDArray[np.int64]]:
    """The images of each place, one place after the other; coefficients are drawn from C elsewhere."""
    cross = info.scheme == "cross"
    pool = stream.permutation(n_public) if cross else np.empty(0, np.int64)
    order = stream.permutation(info.n_private)
    yield order
    for j in range(1, info.k):
        place = stream.permutation(info.n_private)
        yield pool[place] if cross and j >= 2 else order[place]


def replay_coefficients(info: ReleaseInfo, seed: int, epochs: int) -> npt.NDArray[np.uint32]:
    """The coefficients, times 2**24, that C draws when `seed` starts it: (epochs * N, k) uint32.

    Raises
    ------
    InputError
        When no coefficients can meet the release's constraints.
    """
    stream = _open(seeded_window(0), seed)
    least = info.min_private_sum if info.scheme == "cross" else 0.0
    return np.concatenate(
        [
            integer_weights(
                draw_coefficients(
                    stream,
                    info.n_private,
                    info.k,
                    max_coefficient=info.max_coefficient,
                    min_private_sum=least,
                )
            )
            for _ in range(epochs)
        ]
    )


def replay_epochs(
    release: Release, window: npt.NDArray[np.uint32], starts: Int64, seed: int | None, n_public: int
) -> Replay:
    """Draw again what T, and C where its seed is known, drew.

    Parameters
    ----------
    release : Release
        Its parameters and shape are used.
    window : (624,) uint32 array
        T before its first word.
    starts : (epochs,) int64 array
        The word that each epoch starts at: :meth:`Layout.starts` or :func:`align`.
    seed : int or None
        C's.
    n_public : int
        How many public images the pool was drawn from.
    """
    info, layout = release.info, Layout.of(release)
    count, size = info.n_private, layout.size
    stream, at = _open(window, None), 0
    index = np.empty((len(starts) * count, info.k), np.int32)
    positive = np.ones((len(starts) * count, size), np.bool_)
    for e, start in enumerate(progress(starts.tolist(), desc="replaying", unit="epoch")):
        rows = slice(e * count, (e + 1) * count)
        stream.words(start - at)
        for j, images in enumerate(_epoch_index(stream, info, n_public)):
            index[rows, j] = images
        if layout.mask:
            bit = stream.bits(layout.mask).reshape(count, 3, size // 3)
            positive[rows] = bit.transpose(0, 2, 1).reshape(count, size)
        pool = max(n_public - 1, 0) if info.scheme == "cross" else 0
        at = start + pool + layout.order + layout.partners + layout.mask
    weight = None if seed is None else replay_coefficients(info, seed, len(starts))
    return Replay(index, weight, positive)


def _large_neighbours(encryption: npt.NDArray[np.float32]) -> tuple[Int64, Int64, npt.NDArray[np.bool_]]:
    """Pairs of large values side by side in one epoch: their places in the mask, and whether their signs differ.

    Pairs are spread over the rows of the epoch, so that one flat image does not decide.
    """
    n, height, width, channels = encryption.shape
    planar = np.ascontiguousarray(encryption.transpose(0, 3, 1, 2))
    left, right = planar[..., :-1], planar[..., 1:]
    least = np.minimum(np.abs(left), np.abs(right)).reshape(n, -1)
    each = min(-(-_PAIRS // n), least.shape[1])
    largest = np.argsort(-least, axis=1, kind="stable")[:, :each]
    # Column-wise, so that the first few pairs come from different rows.
    row = np.broadcast_to(np.arange(n)[:, None], largest.shape).T.ravel()
    place = largest.T.ravel()
    line, x = place // (width - 1), place % (width - 1)
    first = row * (channels * height * width) + line * width + x
    flat = planar.ravel()
    return first, first + 1, (flat[first] > 0) != (flat[first + 1] > 0)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _count_same(bits: Any, at: Any, first: Any, second: Any, differ: Any, low: Any, high: Any) -> Any:
    """How many neighbours have the same sign once the mask that starts at `at` is lifted."""
    same: Any = 0
    for i in range(low, high):
        lifted = (bits[at + first[i]] ^ bits[at + second[i]]) ^ np.uint8(differ[i])
        same += 1 - np.int64(lifted)
    return same


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _search(bits: Any, places: Any, first: Any, second: Any, differ: Any, early: Any, share: Any) -> Any:
    """The first place whose mask makes neighbours agree, or -1."""
    pairs = len(first)
    for at in range(places):
        same = _count_same(bits, at, first, second, differ, 0, early)
        if same > 0.65 * early:
            same += _count_same(bits, at, first, second, differ, early, pairs)
            if same > share * pairs:
                return at
    return -1


def signs_agree(release: Release, positive: npt.NDArray[np.bool_], epochs: int | None = None) -> np.ndarray:
    """For each epoch the share of large neighbours with the same sign once the masks are lifted; float64."""
    count = release.info.n_private
    epochs = epochs or len(release.encryption) // count
    shares = np.empty(epochs)
    for e in range(epochs):
        rows = slice(e * count, (e + 1) * count)
        shape = release.encryption[rows].shape
        lifted = np.where(positive[rows].reshape(shape), release.encryption[rows], -release.encryption[rows])
        shares[e] = 1 - _large_neighbours(lifted)[2].mean()
    return shares


def align(
    release: Release, window: npt.NDArray[np.uint32], *, first_limit: int = _MOST_EXTRA
) -> tuple[Int64, int] | None:
    """Find each epoch's place in T's stream by the signs of neighbouring pixels.

    Parameters
    ----------
    release : Release
    window : (624,) uint32 array
        T before its first word.
    first_limit : int
        How many words may come before the first mask, beyond those expected.

    Returns
    -------
    (starts, n_public) or None
        The first word of each epoch, and how many public images the pool was drawn from: the release's figure, or
        where the release names none, the one that leaves no word over before the first mask. None when the masks of
        an epoch are nowhere.
    """
    info, layout = release.info, Layout.of(release)
    if layout.mask == 0:
        return layout.starts(), info.n_public
    count, turns = info.n_private, layout.order + layout.partners
    masks = np.empty(layout.epochs, np.int64)
    at = 0
    for e in progress(range(layout.epochs), desc="placing masks", unit="epoch"):
        rows = slice(e * count, (e + 1) * count)
        pairs = _large_neighbours(release.encryption[rows])
        place = _find_mask(window, at, layout, first_limit if e == 0 else _MOST_EXTRA, pairs)
        if place is None:
            return None
        masks[e] = place
        at = place + layout.mask
    pool = layout.pool
    if info.scheme == "cross" and info.n_public == 0:
        pool = int(min(masks[0], *(np.diff(masks) - layout.mask)) if len(masks) > 1 else masks[0]) - turns
        if pool < count - 1:
            return None
    return masks - turns - pool, pool + 1 if info.scheme == "cross" else 0


def _find_mask(
    window: npt.NDArray[np.uint32],
    at: int,
    layout: Layout,
    limit: int,
    pairs: tuple[Int64, Int64, npt.NDArray[np.bool_]],
) -> int | None:
    """The first word, from `at` on, of one epoch's mask; the expected place is tried first."""
    first, second, differ = pairs
    early = min(_FIRST_PAIRS, len(first))
    expected = at + layout.before_mask
    bits = low_bits(window, expected, expected + layout.mask)
    if int(_search(bits, 1, first, second, differ, early, SAME_SIGN)) == 0:
        return expected
    last = expected + limit
    for low in range(at, last, _PIECE):
        places = min(_PIECE, last - low)
        bits = low_bits(window, low, low + places + layout.mask)
        found = int(_search(bits, places, first, second, differ, early, SAME_SIGN))
        if found >= 0:
            return low + found
    return None


def image_classes(
    label: npt.NDArray[np.floating], index: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], float]:
    """The class of each private image as pairs and labels tell, and the share of encryptions that agree with it.

    Parameters
    ----------
    label : (n, classes) float array
    index : (n, p) int array
        The private images of each encryption.

    Returns
    -------
    classes : (N,) int64 array
        The class that most of an image's encryptions show.
    agreeing : float
        Share of encryptions that show no other class than those of their images.

    Examples
    --------
    >>> label = np.array([[0.5, 0.1], [0.6, 0.0], [0.0, 0.3]])
    >>> image_classes(label, np.array([[0, 2], [1, 0], [2, 2]]))
    (array([0, 0, 1]), 1.0)
    """
    shown = label > 0
    votes = np.zeros((int(index.max()) + 1, label.shape[1]), np.int64)
    for j in range(index.shape[1]):
        np.add.at(votes, index[:, j], shown.astype(np.int64))
    classes = votes.argmax(axis=1)
    own = np.zeros_like(shown)
    for j in range(index.shape[1]):
        own[np.arange(len(label)), classes[index[:, j]]] = True
    return classes, float(1 - (shown & ~own).any(axis=1).mean())
