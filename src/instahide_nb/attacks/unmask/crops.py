"""Codes of images that are augmented anew in each epoch: which images each row contains, and which windows of them.

Each place of a row is compared with all windows of all images, given the other places. In an epoch, all places of an
image have the same window: the one with the largest sum of gains over these places.

The first codes come from edge energies. Rows in which one image dominates are compared at all shifts, by fast Fourier
transforms of energies rounded to integers, so that the correlations can be rounded to their exact values. Clusters of
rows give the first energies of images, on canvases that are larger than needed until views show where an image lies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft

from instahide_nb.attacks.exact import integers, whole_product
from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.unmask.codes import Codes, assign_epochs, dot_rows
from instahide_nb.attacks.unmask.constraints import Known
from instahide_nb.attacks.unmask.edges import Edges, clusters
from instahide_nb.attacks.unmask.smoothness import Smoothness, whiten
from instahide_nb.attacks.unmask.windows import Windows, image_of
from instahide_nb.core.arrays import Bool, Float, Float32, Float64, Int64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks
from instahide_nb.scheme.views import PAD

_STRONG = 0.3  # share of the rows from which the first clusters are formed
_REACH = 2 * PAD  # largest distance of two windows of an image, along an axis
_SLACK = 2  # extra positions beyond all views, as long as the position of an image is unknown
_LEVELS = 127.0  # largest integer to which compared energies are rounded
_PULL = 0.1  # ridge of energies towards zero, as in `edges`
_WIDE, _NARROW = 3, 2  # rounds of energies and codes, with slack and without
_TIES = 2  # times that the common window of an image in an epoch is chosen anew
_IMPOSSIBLE = np.float32(-1e30)


def _dots(a: Float32, b: Float32) -> Float64:
    """Products of rows with rows."""
    out = np.empty(len(a))
    in_blocks(dot_rows, len(a), a.reshape(len(a), -1), b.reshape(len(b), -1), out)
    return out


@dataclass(frozen=True)
class _Places:
    """All places of all rows: place s of row i is i p + s. Arrays are (n p,) or (n p, classes)."""

    white: Float32  # (n p, d): whitened rows x minus the images in their other places
    held: Int64  # candidate so far, or -1
    # Without the row, the image P held would be P - t r, with r the residual of the row:
    less: Float64  # by how much <x, P> would be smaller
    shorter: Float64  # and <P, P>
    allowed: Bool  # classes that may stand there
    most: Float64  # largest coefficient of a class, given those of other places
    fixed: Bool  # whether the coefficient must equal it


@dataclass(frozen=True)
class Coder:
    """Finds the codes of rows (n, planes, h, w)."""

    known: Known
    windows: Windows
    local: Smoothness
    rows: Float32

    def _places(self, canvas: Float32, held: Mixtures | None, scale: Float32) -> _Places:
        known, (n, p) = self.known, (len(self.rows), self.known.per_row)
        white = np.empty((n, p, self.rows[0].size), np.float32)
        number, share, (less, shorter) = np.full((n, p), -1), np.ones((n, p)), np.zeros((2, n, p))
        if held is None:
            white[:] = whiten(self.rows, self.local).reshape(n, 1, -1)
            # a class for each place, where a row has as many
            some = known.present.sum(axis=1) == p
            of = np.full((n, p), -1)
            of[some] = np.nonzero(known.present[some])[1].reshape(-1, p)
        else:
            number, share, shape = held.assignment, held.coefficient.astype(np.float64), self.rows.shape[2:]
            image = image_of(number, known.n_images)
            of, weight = known.image_class[image], share / scale[:, None]
            left = self.rows - self.windows.mix(canvas, number, share, shape)
            rest = _dots(left, whiten(left, self.local))[:, None]
            density = np.bincount(image.ravel(), (weight * share).ravel(), known.n_images) + 1e-9
            pull = np.minimum(weight / density[image], 0.5 / np.maximum(share, 0.05))
            for s in range(p):
                part = slice(s, s + 1)
                own = whiten(left + self.windows.mix(canvas, number[:, part], share[:, part], shape), self.local)
                white[:, s], less[:, s] = own.reshape(n, -1), _dots(left, own)
            shorter = pull * (2 * (less - rest) / np.maximum(share, 1e-3) - pull * rest)
            less *= pull
        most = np.ones((n, p, known.present.shape[1])) if known.share is None else np.repeat(known.share[:, None], p, 1)
        missing, row = np.repeat(known.present[:, None], p, axis=1), np.arange(n)
        for s, t in np.ndindex(p, p):
            if s != t:
                missing[row, s, of[:, t]] &= of[:, t] < 0
                most[row, s, of[:, t]] -= np.where((of[:, t] < 0) | (held is None), 0, share[:, t])
        sure = (of >= 0).all(axis=1).reshape(n, 1, 1)
        allowed = np.where(missing.any(axis=2, keepdims=True) & sure, missing, known.present[:, None])
        fixed = np.asarray(missing & sure & (known.share is not None))
        most, size = np.maximum(most, 0), (n * p, -1)
        places = white.reshape(size), number.ravel(), less.ravel(), shorter.ravel()
        return _Places(*places, allowed.reshape(size), most.reshape(size), fixed.reshape(size))

    def _gains(self, canvas: Float32, at: _Places) -> tuple[list[tuple[Int64, Float32]], Float64]:
        """For each image the places where it may stand (m,) and its gain there in each view (m, V).

        And the whitened squared length of each window, (N, V).
        """
        known, (views, shape) = self.known, (len(self.windows.views), self.rows.shape[2:])
        rows, unit = integers(at.white)
        square, gains = np.empty((known.n_images, views)), list[tuple[Int64, Float32]]()
        for image, of in enumerate(known.image_class[: known.n_images]):
            place = np.flatnonzero(at.allowed[:, of])
            window = self.windows.candidates(canvas[image : image + 1], shape)
            square[image] = _dots(window, whiten(window, self.local)) + 1e-9
            whole, window_unit = integers(window.reshape(views, -1))
            product = whole_product(rows if len(place) == len(rows) else rows[place], whole)
            here = (at.held >= 0) & (at.held % known.n_images == image)
            view = np.where(here, at.held // known.n_images, -1)
            most, fixed = np.ascontiguousarray(at.most[:, of]), np.ascontiguousarray(at.fixed[:, of])
            with_row = unit, window_unit, square[image], view, at.less, at.shorter
            gain = np.empty(product.shape, np.float32)
            in_blocks(_gain_kernel, len(place), place, product, *with_row, most, fixed, gain)
            gains.append((place, gain))
        return gains, square

    def codes(self, canvas: Float32, held: Mixtures | None, scale: Float32) -> Codes:
        """Codes of all rows, each place given the others in `held`; `scale` (n,) is that of the residuals."""
        known, (n, p) = self.known, (len(self.rows), self.known.per_row)
        n_images, views, every = known.n_images, len(self.windows.views), np.arange(n * p)
        at = self._places(canvas, held, scale)
        gains, square = self._gains(canvas, at)
        score, best = np.full((n * p, n_images), _IMPOSSIBLE), np.zeros((n * p, n_images), np.int64)
        for image, (place, gain) in enumerate(gains):
            best[place, image], score[place, image] = gain.argmax(axis=1), gain.max(axis=1)
        chosen = _distinct(score.reshape(n, p, n_images)).ravel()
        for turn in range(_TIES + 1 if known.epochs else 0):
            chosen = assign_epochs(score.reshape(n, p, n_images), scale, n_images).ravel()
            for image, (place, gain) in enumerate(gains if turn < _TIES else []):
                mine, epoch = chosen[place] == image, place // (p * n_images)
                total = np.zeros((n // n_images, views))
                np.add.at(total, epoch[mine], gain[mine] / scale[place[mine] // p, None])
                best[place, image] = total.argmax(axis=1)[epoch]
                score[place, image] = gain[np.arange(len(place)), best[place, image]]
        view, value = best[every, chosen], np.maximum(score[every, chosen], 0)
        share = self._shares(at, chosen, np.sqrt(2 * value / square[chosen, view]))
        order = np.argsort(-share, axis=1, kind="stable")
        whole = value.reshape(n, p).sum(axis=1)
        other = score.reshape(n, p, n_images) + (whole[:, None] - value.reshape(n, p))[:, :, None]
        number = np.take_along_axis((view * n_images + chosen).reshape(n, p), order, axis=1)
        share = np.take_along_axis(share, order, axis=1)
        mixtures = Mixtures(number, share.astype(np.float32), n_images * views)
        return Codes(mixtures, whole.astype(np.float64), np.take_along_axis(other, order[:, :, None], 1))

    def _shares(self, at: _Places, chosen: Int64, free: Float) -> Float64:
        """Coefficients (n, p) of the images `chosen` (n p,): `free` (n p,), as far as known sums allow."""
        known, every, size = self.known, np.arange(len(chosen)), (len(self.rows), self.known.per_row)
        of = known.image_class[chosen]
        share = np.where(at.fixed[every, of], at.most[every, of], np.minimum(free, at.most[every, of]))
        if known.share is not None:
            total = np.zeros(known.share.shape)
            np.add.at(total, (every // known.per_row, of), share)
            share *= np.take_along_axis(known.share / np.maximum(total, 1e-6), of.reshape(size), axis=1).ravel()
        return share.reshape(size)


@kernel
def _gain_kernel(
    first: int,
    last: int,
    place: Int64,
    product: Float32,
    unit: Float64,
    window_unit: Float64,
    square: Float64,
    view: Int64,
    less: Float64,
    shorter: Float64,
    most: Float64,
    fixed: Bool,
    gain: Float32,
) -> None:
    """a <x, P_v> - a^2 <P_v, P_v> / 2 for each place x and view v, with the best a that is allowed."""
    for i in range(first, last):
        x = place[i]
        for v in range(len(square)):
            along, length = float(product[i, v]) / (unit[x] * window_unit[v]), square[v]
            if v == view[x]:
                along -= less[x]
                length = max(length - shorter[x], 0.05 * length)
            share = most[x] if fixed[x] else min(max(along / length, 0.0), most[x])
            gain[i, v] = np.float32(share * along - 0.5 * share * share * length)


def _distinct(score: Float32) -> Int64:
    """The best images (n, p) of all places, different in each row."""
    left, out = score.copy(), np.empty(score.shape[:2], np.int64)
    for s in range(score.shape[1]):
        out[:, s] = left[:, s].argmax(axis=1)
        np.put_along_axis(left, out[:, s, None, None], 2 * _IMPOSSIBLE, axis=2)
    return out


def _alike(edges: Edges, rows: Int64, of: Int64, planes: Int64, reach: int, flips: int) -> tuple[Float32, Int64]:
    """How much rows of one class resemble each other at most, over shifts up to `reach` and mirrors, float32 (m, m).

    And the move (dy, dx, flip) after which row k resembles row i, int64 (m, m, 3).
    """
    feature = edges.feature[rows]
    white = whiten(feature, edges.local)
    length, (h, w) = np.sqrt(np.maximum(_dots(feature, white), 1e-9)), feature.shape[2:]
    size, shift = (h + reach, w + reach), np.arange(-reach, reach + 1)
    tables = feature, feature[:, planes, :, ::-1], white
    unit = [float(np.abs(table).max()) / _LEVELS for table in tables]
    whole = [np.rint(table / by, dtype=np.float64) for table, by in zip(tables, unit, strict=True)]
    there, turned, here = (scipy.fft.rfft2(table, size) for table in whole)
    overlap = np.sqrt(np.outer(h - np.abs(shift), w - np.abs(shift)) / (h * w))
    like, move = np.eye(len(rows), dtype=np.float32), np.zeros((len(rows), len(rows), 3), np.int64)

    def compare(first: int, last: int) -> None:
        for i in range(first, last):
            other = i + 1 + np.flatnonzero(of[i + 1 :] == of[i])
            both = [(side[other] * here[i].conj()).sum(axis=1) for side in (there, turned)[:flips]]
            found = [np.rint(scipy.fft.irfft2(one, size))[:, shift][:, :, shift] / overlap for one in both]
            table = np.stack(found, axis=3).reshape(len(other), len(shift) ** 2 * flips)
            best = table.argmax(axis=1)
            like[i, other] = table.max(axis=1) * (unit[0] * unit[2]) / (length[i] * length[other])
            dy, dx, flip = np.unravel_index(best, (len(shift), len(shift), flips))
            move[i, other] = np.stack([dy - reach, dx - reach, flip], axis=1)

    in_blocks(compare, len(rows) - 1, block=8)
    back = move.transpose(1, 0, 2) * np.array([-1, -1, 1])
    back[..., 1] *= 1 - 2 * back[..., 2]
    return np.maximum(like, like.T), move + back


def in_frame(view: Int64, image: Int64, share: Float, n_images: int, reach: int) -> Int64:
    """The views (n, p, 3) of images (n, p) once each image lies where most of its views are among `reach` places."""
    view = view.copy()
    for one in range(n_images):
        theirs = image == one
        count = np.zeros((2 * reach, 2 * reach))
        np.add.at(count, tuple(view[theirs].T[:2]), share[theirs].astype(np.float64))
        total = np.lib.stride_tricks.sliding_window_view(count, (reach, reach)).sum(axis=(2, 3))
        best = np.argwhere(total >= total.max() * (1 - 1e-9))
        view[theirs] -= np.append(best[len(best) // 2], 0)
    return view


def first_codes(edges: Edges) -> tuple[Codes, Edges]:
    """Codes of all encryptions from their edges alone, and the edges with epochs if the codes show them."""
    known = edges.known
    assert known.views is not None
    flips = 1 + int(known.views[:, 2].max())
    planes = np.arange(edges.feature.shape[1]) if edges.planes is None else edges.planes
    n, n_images, reach = len(edges.feature), known.n_images, _REACH if len(known.views) > 2 else 0
    # strong rows, each with one image of its strongest class
    square = edges.feature**2
    strength = _dots(square, square) if known.share is None else known.share.max(axis=1)
    share = known.present.astype(np.float64) if known.share is None else known.share
    rows = np.sort(np.argsort(-strength, kind="stable")[: int(_STRONG * n)])
    of = share[rows].argmax(axis=1)
    one = np.zeros(share[rows].shape, bool)
    one[np.arange(len(rows)), of] = True
    strong = Known(1, known.image_class[:n_images], one, np.where(one, share[rows], 0))
    like, move = _alike(edges, rows, of, planes, reach, flips)
    chance = np.float32(min(float(np.median(like[like > 0])), 0.9))
    mixtures = clusters((like - chance) / (1 - chance), strong)
    held, view = mixtures.assignment, np.zeros((len(rows), 1, 3), np.int64)
    for image in range(n_images):
        theirs = np.flatnonzero(held[:, 0] == image)
        if len(theirs):
            middle = theirs[like[np.ix_(theirs, theirs)].sum(axis=1, dtype=np.float64).argmax()]
            view[theirs, 0] = np.array([reach, reach, 0]) - move[middle, theirs] * np.array([1, 1, -1])
    feature, one_each = edges.feature[rows], np.ones(n, np.float32)
    for turn in range(_WIDE + _NARROW):
        slack = _SLACK if reach and turn < _WIDE else 0
        side = reach + 1 + 2 * slack
        views = np.array(list(np.ndindex(side, side, flips)))
        if not slack:  # candidates are numbered as those of images
            views = known.views - np.array([PAD - reach // 2, PAD - reach // 2, 0])
        number, near = np.empty((side, side, flips), np.int64), np.array([side, side, flips]) - 1
        number[tuple(views.T)] = np.arange(len(views))
        view = np.clip(
            in_frame(view, held, mixtures.coefficient, n_images, reach + 1) + np.array([slack, slack, 0]), 0, near
        )
        candidate = number[tuple(np.moveaxis(view, -1, 0))] * n_images + held
        mixtures = Mixtures(np.where(held < 0, -1, candidate), mixtures.coefficient, n_images * len(views))
        windows, shape = Windows(views, planes), [size + side - 1 for size in feature.shape[2:]]
        empty = np.zeros((n_images, len(planes), *shape), np.float32)
        canvas = windows.fit(feature, mixtures, one_each[: len(feature)], empty, empty, _PULL)
        coder = Coder(edges.known, windows, edges.local, edges.feature)
        codes = coder.codes(canvas, mixtures if turn else None, one_each)
        feature, mixtures = edges.feature, codes.mixtures
        edges = replace(edges, known=edges.known.with_epochs(mixtures.assignment))
        held, view = image_of(mixtures.assignment, n_images), views[mixtures.assignment // n_images]
    return codes, edges
