"""Draw images, coefficients and masks of every encryption again, from a known generator.

The *coefficient generator*, numpy's, draws only coefficients; the *mask generator*, PyTorch's, draws permutations and
masks. Both are Mersenne Twisters, started from the same seed if there was one. The *window* of the mask generator, its
624 words of state, is known (:mod:`instahide_nb.scheme.mersenne`). The seed of the coefficient generator may be known.

With the right mask removed, more than 0.85 of large neighbouring values of a natural image agree in sign; with any
other mask, one half. This checks masks, and finds them if other words were drawn between epochs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.arrays import Bool, Float, Float32, Float64, Int8, Int32, Int64, Integers, UInt8, UInt32
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import progress
from instahide_nb.scheme.encryption import WEIGHT_ONE, draw_epoch
from instahide_nb.scheme.mersenne import low_bits, seeded_window
from instahide_nb.scheme.streams import Mt19937Stream, open_stream

SAME_SIGN = 0.7
"""Share of large neighbours that must agree in sign."""

_LABELS_AGREE = 0.99  # least share of rows that agree; small coefficients may be rounded to zero
_PAIRS = 2048  # pairs of neighbours per epoch: a wrong mask is 18 standard deviations below SAME_SIGN
_FIRST_PAIRS = 64
_PIECE = 1 << 20  # places tried at a time
_MOST_EXTRA = 1 << 22  # words after the expected place that are searched


def _pooled(info: ReleaseInfo) -> bool:
    """Whether the mask generator draws a permutation of all public images for each epoch."""
    return info.scheme == "cross" and not info.public_once and info.rng == "mt19937"


@dataclass(frozen=True)
class Layout:
    """Words of the mask generator for each step of an epoch, and the numbers of epochs, rows and values per row.

    `pool` draws the public images, `orders` the private images and places, `mask` the masks of all rows.
    """

    pool: int
    orders: int
    mask: int
    epochs: int
    rows: int
    size: int

    @classmethod
    def of(cls, release: Release, n_public: int | None = None) -> Layout:
        """The layout of a release; `n_public` replaces its number of public images."""
        info, size = release.info, release.encryption[0].size
        n_public = info.n_public if n_public is None else n_public
        return cls(
            pool=max(n_public - 1, 0) if _pooled(info) else 0,
            orders=info.k * (info.n_private - 1) if info.rng == "mt19937" else 0,
            mask=0 if info.scheme == "mixup" else info.n_private * size,
            epochs=info.encryptions_per_image,
            rows=info.n_private,
            size=size,
        )

    @property
    def before_mask(self) -> int:
        """Number of words of an epoch before its masks."""
        return self.pool + self.orders

    @property
    def epoch(self) -> int:
        """Number of words of an epoch."""
        return self.before_mask + self.mask

    def starts(self) -> Int64:
        """The first word of each epoch if nothing else is drawn."""
        return np.arange(self.epochs) * self.epoch

    def mask_word(self, encryption: Int64, value: Int64) -> Int64:
        """The word whose lowest bit is the sign of a value, given its place in the (h, w, 3) order."""
        epoch, row = np.divmod(encryption, self.rows)
        pixel, colour = np.divmod(value, 3)
        return epoch * self.epoch + self.before_mask + row * self.size + colour * (self.size // 3) + pixel


@dataclass(frozen=True)
class Replay:
    """What was drawn for each encryption."""

    index: Int32  # (n, k): its images, as in :class:`instahide_nb.scheme.encryption.Mixtures`
    weight: UInt32 | None  # (n, k): their coefficients times 2^24; None without the coefficient generator
    positive: Bool  # (n, h*w*3): where the mask is +1
    view: Int8 | None = None  # (n, p, 3): views of augmented private images, see scheme.views

    def with_pairs(self, pair: Int64) -> Replay:
        """The same masks with other private images (n, p) and without coefficients."""
        others = np.zeros((len(pair), self.index.shape[1] - pair.shape[1]), np.int64)
        return replace(self, index=np.hstack([pair, others]).astype(np.int32), weight=None)


def _draw(
    info: ReleaseInfo, window: UInt32, seed: int, n_public: int, skip: Int64, size: int
) -> Iterator[tuple[Int64, UInt32, UInt8]]:
    """Index, coefficients and mask bits of each epoch; `skip` words of the mask generator come before it."""
    states = {"T": window, "C": seeded_window(seed)}
    hexed = {name: key.astype("<u4").tobytes().hex() for name, key in states.items()}
    # Any key will do: secure permutations remain unknown.
    stream = open_stream(info.rng, seed="entropy", key="00" * 32, states=hexed)
    assert isinstance(stream, Mt19937Stream)
    for e, words in enumerate(skip.tolist()):
        stream.words(words)
        yield draw_epoch(stream, info, n_public, size, e)


def replay_epochs(release: Release, window: UInt32, starts: Int64, seed: int | None, n_public: int) -> Replay:
    """Draw all epochs again.

    `window` is the mask generator's, `seed` the coefficient generator's, `starts` the first word of each epoch, and
    `n_public` the number of public images.
    """
    info, layout = release.info, Layout.of(release, n_public)
    shape = len(starts) * layout.rows, layout.size
    index, weight = np.empty((shape[0], info.k), np.int32), np.empty((shape[0], info.k), np.uint32)
    positive = np.empty(shape, np.bool_)
    skip = np.diff(starts - layout.starts(), prepend=0)
    drawn = _draw(info, window, seed or 0, n_public, skip, layout.size)
    for e, epoch in enumerate(progress(drawn, total=len(starts), desc="replaying", unit="epoch")):
        rows = slice(e * layout.rows, (e + 1) * layout.rows)
        index[rows], weight[rows], positive[rows] = epoch
    return Replay(index, None if seed is None else weight, positive)


def large_neighbours(encryption: Float32) -> tuple[Int64, Int64, UInt8]:
    """Pairs of large neighbouring values in an epoch: their places in the mask, and whether their signs differ.

    Every row contributes the same number of pairs, so that no single image decides. The first pairs come from different
    rows.
    """
    n, height, width, channels = encryption.shape
    planar = np.ascontiguousarray(encryption.transpose(0, 3, 1, 2))
    least = np.minimum(np.abs(planar[..., :-1]), np.abs(planar[..., 1:])).reshape(n, -1)
    each = min(-(-_PAIRS // n), least.shape[1])
    largest = np.argsort(-least, axis=1, kind="stable")[:, :each]
    row = np.broadcast_to(np.arange(n)[:, None], largest.shape).T.ravel()
    line, x = np.divmod(largest.T.ravel(), width - 1)
    first = row * (channels * height * width) + line * width + x
    flat = planar.ravel()
    return first, first + 1, ((flat[first] > 0) != (flat[first + 1] > 0)).astype(np.uint8)


def _search(bits: UInt8, low: int, high: int, first: Int64, second: Int64, differ: UInt8) -> int:
    """The first place in low .. high-1 whose mask makes neighbours agree, or -1. A few pairs exclude most places."""
    few = list(zip(first.tolist(), second.tolist(), differ.tolist(), strict=True))[:_FIRST_PAIRS]
    same = np.zeros(high - low, np.uint8)
    for a, b, different in few:
        same += bits[a + low : a + high] ^ bits[b + low : b + high] == different
    for at in low + np.flatnonzero(same > 0.65 * len(few)):
        if (bits[at + first] ^ bits[at + second] == differ).mean() > SAME_SIGN:
            return int(at)
    return -1


def align(release: Release, window: UInt32, *, first_limit: int = _MOST_EXTRA) -> tuple[Int64, int] | None:
    """Find each epoch's place in the stream by the signs of neighbouring pixels, first at the expected place.

    At most `first_limit` unexpected words may come before the first mask. Returns the first word of each epoch and the
    number of public images: the release's or, if that is 0, the number that explains all words between masks. None if
    the masks of an epoch are not found.
    """
    info, layout = release.info, Layout.of(release)
    if layout.mask == 0:
        return layout.starts(), info.n_public
    masks = np.empty(layout.epochs, np.int64)
    bits, at = low_bits(window, 0, layout.epochs * layout.epoch), 0
    for e in progress(range(layout.epochs), desc="placing masks", unit="epoch"):
        pairs = large_neighbours(release.encryption[e * layout.rows : (e + 1) * layout.rows])
        expected = at + layout.before_mask
        last = expected + (first_limit if e == 0 else _MOST_EXTRA)
        tried = [(expected, expected + 1), *((low, min(low + _PIECE, last)) for low in range(at, last, _PIECE))]
        found = -1
        for low, high in tried:
            if len(bits) < high + layout.mask:
                bits = np.concatenate([bits, low_bits(window, len(bits), high + layout.mask)])
            found = _search(bits, low, high, *pairs)
            if found >= 0:
                break
        if found < 0:
            return None
        masks[e], at = found, found + layout.mask
    pool = layout.pool
    if _pooled(info) and info.n_public == 0:
        pool = int(min(masks[0], *(np.diff(masks) - layout.mask)) if len(masks) > 1 else masks[0])
        pool -= layout.orders
        if pool < layout.rows - 1:
            return None
    starts = masks - layout.orders - pool
    return (starts, pool + 1 if _pooled(info) else info.n_public) if starts[0] >= 0 else None


def find_replay(release: Release, window: UInt32, seed: int | None) -> tuple[Replay | None, bool, dict[str, object]]:
    """Replay the mask generator with this window, and the coefficient generator if its seed is known.

    Returns the replay, or None if the masks are not found; whether labels agree with the replayed pairs (not if other
    permutations were drawn); and details for JSON.
    """
    placed = align(release, window)
    if placed is None:
        return None, False, {}
    starts, n_public = placed
    replay = replay_epochs(release, window, starts, seed, n_public)
    agreeing = float(release.info.rng == "mt19937")  # otherwise the permutations are not the mask generator's
    if release.label is not None and agreeing:
        _, agreeing = image_classes(release.label, replay.index[:, : release.info.private_per_row])
    details: dict[str, object] = {
        "pairs_agreeing": round(agreeing, 6),
        "extra_words": int(starts[-1] - Layout.of(release, n_public).starts()[-1]),
        "n_public": n_public,
    }
    return replay, agreeing >= _LABELS_AGREE, details


def image_classes(label: Float, index: Integers) -> tuple[Int64, float]:
    """The class of each private image, by the majority of its encryptions; and the share of consistent encryptions.

    `label` is (n, classes), `index` (n, p) the private images of each encryption. A consistent encryption shows only
    classes of its images.

    Examples
    --------
    >>> label = np.array([[0.5, 0.1], [0.6, 0.0], [0.0, 0.3]])
    >>> image_classes(label, np.array([[0, 2], [1, 0], [2, 2]]))
    (array([0, 0, 1]), 1.0)
    """
    shown = label > 0
    votes = np.zeros((int(index.max()) + 1, label.shape[1]), np.int64)
    own = np.zeros_like(shown)
    for column in index.T:
        np.add.at(votes, column, shown.astype(np.int64))
    classes = votes.argmax(axis=1)
    for column in index.T:
        own[np.arange(len(label)), classes[column]] = True
    return classes, float(1 - (shown & ~own).any(axis=1).mean())


def rows_agree(label: Float, coefficient: Float64, tolerance: float) -> Bool:
    """Which labels (n, classes) fit the private coefficients (..., n, p) of their rows, in any order of the classes.

    A label with p positive values shows each coefficient. If it has fewer, only the sums must agree.

    Examples
    --------
    >>> coefficient = np.array([[0.25, 0.375], [0.25, 0.375]])
    >>> rows_agree(np.array([[0.375, 0.25], [0.6, 0.0]]), coefficient, 1e-6)
    array([ True, False])
    """
    places = coefficient.shape[-1]
    value = np.sort(np.asarray(label, np.float64), axis=1)
    agree = np.abs(value.sum(axis=1) - coefficient.sum(axis=-1)) <= places * tolerance
    if value.shape[1] < places:
        return agree
    distance = np.abs(value[:, value.shape[1] - places :] - np.sort(coefficient, axis=-1)).max(axis=-1)
    return agree & (((value > 0).sum(axis=1) != places) | (distance <= tolerance))


def makes_labels(release: Release, seed: int, tolerance: float) -> bool:
    """Whether this seed draws the coefficients that the labels show; True if they show none."""
    info, label, wrong = release.info, release.label, 0
    if label is None or info.labels != "coefficients":
        return True
    skip, n_public = np.zeros(info.encryptions_per_image, np.int64), info.n_private  # any pool will do
    try:
        for e, (_, weight, _) in enumerate(_draw(info, seeded_window(0), seed, n_public, skip, 0)):
            own = weight[:, : info.private_per_row] / WEIGHT_ONE
            rows = label[e * info.n_private : (e + 1) * info.n_private]
            wrong += int((~rows_agree(rows, own, tolerance)).sum())
            if wrong > (1 - _LABELS_AGREE) * len(label):
                return False
    except InputError:  # no row of this generator meets the constraints
        return False
    return True
