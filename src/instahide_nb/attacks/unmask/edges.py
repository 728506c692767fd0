"""What a sign mask cannot hide: the energy of edges, and the first codes that follow from it.

Neighbouring pixels of a natural image mostly have the same sign, so the difference of their absolute values is that of
the pixels, up to its sign. The whitened energy of such differences is close to a mixture of the energies of the private
images: these follow from codes by least squares, and codes from them (`codes`). The start is clusters of encryptions
that resemble each other. An image of little worth is started anew from rows whose residuals resemble each other.
Without a mask the images themselves serve as features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numba
import numpy as np

from instahide_nb.attacks.mixtures import Fit, Mixtures, fit, influence
from instahide_nb.attacks.unmask.codes import (
    Codes,
    Products,
    code,
    code_epochs,
    product_table,
    products,
    square_lengths,
)
from instahide_nb.attacks.unmask.constraints import Known
from instahide_nb.attacks.unmask.smoothness import Moments, Smoothness, autocovariance, smoothness
from instahide_nb.attacks.unmask.windows import EDGE_PLANES, image_of
from instahide_nb.core.arrays import Float32, Float64, Int64
from instahide_nb.core.threads import in_blocks

_COUNTED = 3000  # rows whose similarities count the images
_STEEP = 1.2  # exponent of the fall of their eigenvalues at that number; less does not stand out
_TOGETHER = 5000  # rows compared with each other: bounds the memory at 0.5 GB
_LEAST = 8  # rows of a cluster of a fair size
_CUTS = np.arange(70, 98) / 100  # distances at which the tree is tried
_FIRST_FITS, _FITS = 4, 3  # in turn with codes, at first and after images were restarted
_RESTARTS = 12  # at most so many times
_GROUP = 15  # rows from which an image is restarted
_MANY_PLACES = 3  # private images of a row above which epochs add nothing to codes of edges
_PULL = 0.1  # of edge energies to zero, as a share of the mean diagonal: few rows hold an image
_SAMPLE = 1000  # encryptions whose covariance is taken
_ROWS, _COLUMNS = 100, 256  # at a time


def edge_energies(encryption: Float32, squares: bool = False, even: bool = False) -> Float32:
    """Energy of four local differences of absolute values, summed over channels, float32 (n, 4, h-1, w-1).

    To the right, down, and along both diagonals (these divided by sqrt 2). With `squares` the energies stay squared,
    and the square of each value follows: (n, 4 + channels, h-1, w-1). `even`: what belongs to one column is the mean
    of two, so that a mirror image has the energies of the image in a mirror (:mod:`.windows`).
    """
    n, h, w, channels = encryption.shape
    out = np.zeros((n, 4 + channels * squares, h - 1, w - 1), np.float32)
    half = np.float32(0.5)

    def rows(low: int, high: int) -> None:
        size = np.abs(encryption[low:high].transpose(0, 3, 1, 2), order="C")
        here, right = size[:, :, :-1, :-1], size[:, :, :-1, 1:]
        below, across = size[:, :, 1:, :-1], size[:, :, 1:, 1:]
        ends = (right, here, 1), (below, here, 1), (across, here, half), (below, right, half)
        for plane, (a, b, share) in enumerate(ends):
            square = (a - b) ** 2
            target = out[low:high, plane]
            for c in range(channels):
                target += square[:, c]
            target *= share
        if even:
            square = (right - across) ** 2
            for c in range(channels):
                out[low:high, 1] += square[:, c]
            out[low:high, 1] *= half
        if squares:
            out[low:high, 4:] = half * (here * here + right * right) if even else here * here
        else:
            np.sqrt(out[low:high], out=out[low:high])

    in_blocks(rows, n, block=_ROWS)
    return out


def edge_features(encryption: Float32, squares: bool = False, even: bool = False) -> Float32:
    """Edge energies (n, planes, h-1, w-1) standardised over the set at each place, then within each encryption.

    So a product of two rows over their size is a correlation.
    """
    energy = edge_energies(encryption, squares, even)
    table = energy.reshape(len(energy), -1)

    def over_set(low: int, high: int) -> None:
        part = table[:, low:high].astype(np.float64)
        part -= part.sum(axis=0) / len(part)
        deviation = np.sqrt((part * part).sum(axis=0) / len(part))
        table[:, low:high] = part * np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)

    def within(low: int, high: int) -> None:
        part = np.ascontiguousarray(table[low:high].T, np.float64)
        part -= part.sum(axis=0) / len(part)
        deviation = np.sqrt((part * part).sum(axis=0) / len(part))
        part *= np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        table[low:high] = part.T

    in_blocks(over_set, table.shape[1], block=_COLUMNS)
    in_blocks(within, len(table), block=_ROWS)
    return energy


def edge_filter(feature: Float32, ridge: float = 0.3) -> Smoothness:
    """The whitening filter of edge features (n, planes, h, w), from their own autocovariance.

    `ridge` is the white noise added to the covariance, as a share of its diagonal; 0.1 and 1 serve as well.
    """
    planes = feature.shape[1]
    moments = Moments(np.zeros(planes, np.float32), autocovariance(feature[:_SAMPLE], tapered=True))
    return smoothness(moments, feature.shape[2], feature.shape[3], ridge)


@dataclass(frozen=True)
class Edges:
    """Features of all encryptions, and how they are compared."""

    known: Known
    feature: Float32  # (n, planes, h, w)
    local: Smoothness
    square: Float64  # (n,): whitened squared length of each encryption's features
    planes: Int64 | None = None  # their order in a mirror, where it changes

    def fit(self, mixtures: Mixtures) -> Fit:
        """Features of the images by least squares."""
        flat, one = self.feature.reshape(len(self.feature), -1), np.ones(len(self.feature))
        found = fit(flat, mixtures, one, np.zeros(flat.shape[1]), _PULL).astype(np.float32)
        return Fit(found.reshape(-1, *self.feature.shape[1:]), mixtures, influence(mixtures, one, _PULL))

    def products(self, mixtures: Mixtures) -> Products:
        """Products of the features with those of the images fitted to `mixtures`."""
        fitted = self.fit(mixtures)
        return products(self.feature.__getitem__, self.square, fitted.image, self.local, fitted)

    def codes(self, found: Products) -> Codes:
        """Codes of all encryptions; images of many places are not matched to epochs."""
        if self.known.per_row > _MANY_PLACES:
            return code(found, self.known)
        return code_epochs(found, self.known, np.ones(len(self.feature), np.float32))

    def explain(self, mixtures: Mixtures, times: int) -> tuple[Codes, Products]:
        """Fit features of images to codes and codes to features, in turn; the products are those of the last codes."""
        for _ in range(times):
            found = self.products(mixtures)
            codes = self.codes(found)
            mixtures = codes.mixtures
        return codes, found

    def part(self, rows: slice) -> Edges:
        """The same for some rows, whole epochs."""
        known, feature, square = self.known.part(rows), self.feature[rows], self.square[rows]
        return replace(self, known=known, feature=feature, square=square)


def edges_of(encryption: Float32, known: Known, squares: bool) -> Edges:
    """Features of masked encryptions (n, h, w, channels), ready to be compared."""
    feature = edge_features(encryption, squares, known.views is not None and bool(known.views[:, 2].any()))
    local = edge_filter(feature)
    square = square_lengths(feature.__getitem__, len(feature), local)
    return Edges(known, feature, local, square, EDGE_PLANES[: feature.shape[1]])


def similarity(table: Float32) -> Float32:
    """Correlations from products of all pairs, never above 1 by a rounding; 1 on the diagonal."""
    length = np.sqrt(np.maximum(np.diagonal(table), np.float32(1e-9)))
    out: Float32 = np.divide(table, length[:, None], dtype=np.float32)
    out /= length
    np.clip(out, -1, 1, out=out)
    np.fill_diagonal(out, 1)
    return out


def count_images(edges: Edges) -> int | None:
    """Estimate how many private images there are from the spectrum of the similarities of up to 3,000 rows.

    Each image adds one large eigenvalue, so eigenvalues fall steepest, on logarithmic scales, a few places before the
    N-th. The answer is a divisor of the number of rows close above; None where no place stands out. The last bits of
    LAPACK's eigenvalues do not move a whole number.
    """
    some = edges.part(slice(0, _COUNTED))
    value = np.linalg.eigvalsh(similarity(product_table(some.feature, some.local)).astype(np.float64))[::-1]
    place = np.arange(5, max(len(value) // 6, 6))
    before, after = (place * 93 - 1) // 100, np.minimum((place * 107 + 99) // 100, len(value) - 1)
    fall = np.log(value[before] / np.maximum(value[after], 1e-9)) / np.log((after + 1) / (before + 1))
    found, n = int(place[np.argmax(fall)]), len(edges.feature)
    if fall.max() < _STEEP:
        return None
    near = [d for d in range(found * 19 // 20, found * 6 // 5 + 1) if n % d == 0]
    return min(near, key=lambda d: abs(d - found), default=found)


def clusters(table: Float32, known: Known) -> Mixtures:
    """Groups of encryptions that resemble each other, the largest of each class: at most one image a row.

    Rows that share no class are kept apart.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    apart = 1.0 - similarity(table).astype(np.float64)
    if known.present.shape[1] > 1:
        present = known.present.astype(np.float32)
        apart[(present @ present.T) == 0] = 2.0
    tree = linkage(squareform(apart, checks=False), "average")
    groups = [fcluster(tree, cut, criterion="distance") for cut in _CUTS]
    fair = [min(int((np.bincount(group)[1:] >= _LEAST).sum()), known.n_images) for group in groups]
    group = groups[int(np.argmax(fair))] - 1
    size = np.bincount(group)
    held = np.zeros((len(size), known.present.shape[1]), np.int64)
    np.add.at(held, group, known.present)
    group_class = held.argmax(axis=1)
    image = np.full(len(size), -1)
    for c in range(known.present.shape[1]):
        images = np.flatnonzero(known.image_class[: known.n_images] == c)
        own = np.flatnonzero(group_class == c)
        largest = own[np.argsort(-size[own], kind="stable")[: len(images)]]
        image[largest] = images[: len(largest)]
    assignment = image[group][:, None]
    row = np.arange(len(group))
    allowed = known.present[row, known.image_class[assignment[:, 0]]]
    assignment = np.where(allowed[:, None], assignment, -1)
    coefficient = np.ones(assignment.shape, np.float32)
    if known.share is not None:
        coefficient = known.share[row, known.image_class[assignment[:, 0]]][:, None].astype(np.float32)
    return Mixtures(assignment, coefficient, len(known.image_class))


def worth(codes: Codes) -> Float64:
    """What the rows would lose without each image, float64 (N,): each of them takes its next best image instead."""
    loss = np.maximum(codes.margin().astype(np.float64), 0)
    out = np.zeros(codes.mixtures.n_images)
    np.add.at(out, codes.mixtures.assignment.ravel(), loss.ravel())
    return out


@numba.njit(cache=True, nogil=True)
def _residual_kernel(
    first: int,
    last: int,
    table: Float32,
    assignment: Int64,
    share: Float64,
    product: Float64,
    gram: Float64,
    out: Float32,
) -> None:
    """<r_i, r_k> = <x_i, x_k> - sum_q a_kq <x_i, P_q> - sum_q a_iq <x_k, P_q> + sum_qs a_iq a_ks <P_q, P_s>."""
    n_images = gram.shape[0]
    mixed = np.empty(n_images)
    for i in range(first, last):
        for j in range(n_images):
            mixed[j] = -product[i, j]
        for s in range(assignment.shape[1]):
            if assignment[i, s] >= 0:
                for j in range(n_images):
                    mixed[j] += share[i, s] * gram[assignment[i, s], j]
        for k in range(table.shape[0]):
            total = float(table[i, k])
            for s in range(assignment.shape[1]):
                if assignment[k, s] >= 0:
                    total += share[k, s] * mixed[assignment[k, s]]
                if assignment[i, s] >= 0:
                    total -= share[i, s] * product[k, assignment[i, s]]
            out[i, k] = np.float32(total)


def residual_kernel(table: Float32, codes: Codes, found: Products) -> Float32:
    """Whitened products of the residuals of all pairs of rows, float32 (n, n)."""
    out, held = np.empty_like(table), codes.mixtures
    share = held.coefficient.astype(np.float64)
    in_blocks(_residual_kernel, len(out), table, held.assignment, share, found.product, found.gram, out, block=_ROWS)
    return out


@dataclass(frozen=True)
class Group:
    """Rows whose residuals resemble each other."""

    rows: Int64  # (m,)
    strength: Float32  # (m,): coefficients of what they share
    worth: float  # what it would explain of all rows


def groups_of(table: Float32, many: int, size: int = _GROUP, rounds: int = 4, spread: int = 2) -> list[Group]:
    """Groups of rows whose residuals correlate, from their products; those worth most first.

    The `spread` times `size` rows that resemble a group most begin no other.
    """
    size = min(size, max(2, len(table) // 4))
    length = np.sqrt(np.maximum(np.diagonal(table), np.float32(1e-6)))
    like: Float32 = np.divide(table, length[:, None], dtype=np.float32)
    like /= length
    np.fill_diagonal(like, 0)
    nearest = np.sort(np.partition(like, len(like) - size, axis=1)[:, -size:], axis=1)
    order = np.argsort(-nearest.astype(np.float64).sum(axis=1), kind="stable")
    used, own = np.zeros(len(like), bool), np.diagonal(table).astype(np.float64)
    found: list[Group] = []
    for i in order:
        if len(found) == many:
            break
        if used[i]:
            continue
        rows = np.argsort(-like[i], kind="stable")[:size]
        for _ in range(rounds):
            again = np.argsort(-_column_sums(like, rows), kind="stable")[:size]
            if set(again.tolist()) == set(rows.tolist()):
                break
            rows = again
        shared = _column_sums(table, rows)
        square = (float(shared[rows].sum()) - float(own[rows].sum())) * size / (size - 1)
        shared[rows] = (shared[rows] - own[rows]) * size / (size - 1)
        gain = np.maximum(shared, 0) ** 2 / (2 * max(square, 1e-9))
        if np.count_nonzero(used[rows]) < size / 2:
            total = float(gain[gain > 3 * np.median(gain)].sum())
            found.append(Group(rows, (shared[rows] / max(square, 1e-9)).astype(np.float32), total))
        used[np.argsort(-shared, kind="stable")[: spread * size]] = True
    return sorted(found, key=lambda group: -group.worth)


def _column_sums(table: Float32, rows: Int64) -> Float64:
    """Sum of some rows of a symmetric table, in their order."""
    return np.add.accumulate(table[rows].astype(np.float64), axis=0)[-1]


def restart(mixtures: Mixtures, image: int, group: Group, known: Known) -> Mixtures:
    """Begin an image anew in the rows of a group.

    It takes the place of the image that most of them hold, or else of the weakest.
    """
    held, share = mixtures.assignment.copy(), mixtures.coefficient.copy()
    own = image_of(held, known.n_images) == image
    share[own], held[own] = 0, -1
    allowed = known.present[group.rows, known.image_class[image]]
    rows, strength = group.rows[allowed], group.strength[allowed]
    inside = held[rows]
    count = np.bincount(inside[inside >= 0], minlength=1)
    common = int(count.argmax()) if count.max() > len(rows) / 2 else -2
    for row, by in zip(rows, strength, strict=True):
        place = np.flatnonzero(held[row] == common)
        slot = int(place[0]) if len(place) else int(np.argmin(share[row]))
        held[row, slot], share[row, slot] = image, max(float(share[row, slot]), float(by), 0.1)
    return Mixtures(held, share, mixtures.n_images)


def _fits(group: Group, image: int, known: Known) -> bool:
    """Whether most rows of a group may hold an image."""
    return bool(2 * known.present[group.rows, known.image_class[image]].sum() > len(group.rows))


def first_codes(edges: Edges) -> tuple[Codes, Edges]:
    """Codes of all encryptions from their features alone, and the edges with epochs if the codes show them."""
    n, whole = len(edges.feature), edges.known.n_images
    some = edges.part(slice(0, max(_TOGETHER // whole, 1) * whole)) if n > _TOGETHER else edges
    table = product_table(some.feature, some.local)
    codes, found = some.explain(clusters(table, some.known), _FIRST_FITS)
    some = replace(some, known=some.known.with_epochs(codes.mixtures.assignment))
    codes, found = some.explain(codes.mixtures, 1)
    for _ in range(_RESTARTS):
        value, mixtures, begun = worth(codes), codes.mixtures, 0
        weak = np.argsort(value, kind="stable").tolist()
        for group in groups_of(residual_kernel(table, codes, found), 6)[:3]:
            fitting = [image for image in weak if _fits(group, image, some.known)]
            if not fitting or (begun and group.worth <= 1.5 * value[fitting[0]]):
                continue
            mixtures = restart(mixtures, fitting[0], group, some.known)
            weak.remove(fitting[0])
            begun += 1
        if not begun:
            break
        again, products_again = some.explain(mixtures, _FITS)
        if math.fsum(again.gain.tolist()) <= math.fsum(codes.gain.tolist()):
            break
        codes, found = again, products_again
    edges = replace(edges, known=replace(edges.known, epochs=some.known.epochs and n % whole == 0))
    if len(some.feature) == n:
        return codes, edges
    fitted = some.fit(codes.mixtures)
    rest = products(edges.feature.__getitem__, edges.square, fitted.image, edges.local, None)
    return edges.explain(edges.codes(rest).mixtures, 1)[0], edges


def overlap(a: Int64, b: Int64) -> Int64:
    """How many images of each row of `a` (n, p) stand in the same row of `b`, counted with their number, int64 (n,).

    Examples
    --------
    >>> overlap(np.array([[1, 1, 2]]), np.array([[2, 1, 3]])).tolist()
    [2]
    """
    b, out = b.copy(), np.zeros(len(a), np.int64)
    for j in range(a.shape[1]):
        same = b == a[:, j : j + 1]
        hit = same.any(axis=1)
        place = same.argmax(axis=1)
        b[hit, place[hit]] = -2
        out += hit
    return out


def agreement(edges: Edges, mixtures: Mixtures) -> float:
    """Share of places for which edge energies alone, which know no sign, choose the image that stands there.

    The attack's own estimate of places right trusts the signs that follow from the images it judges; this does not.
    """
    again = edges.codes(edges.products(mixtures)).mixtures.assignment
    return round(float(overlap(mixtures.assignment, again).sum() / again.size), 4)
