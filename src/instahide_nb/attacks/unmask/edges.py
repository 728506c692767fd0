"""Edge energies, which do not depend on the mask, and the first codes that follow from them.

Neighbouring pixels of a natural image mostly have the same sign. The difference of their absolute values is then that
of the pixels, up to its sign. The whitened energy of such differences is close to a mixture of the energies of the
private images. Given codes, least squares gives these energies; given the energies, `codes` finds codes. The first
codes come from clusters of similar encryptions. An image that hardly improves the fit is replaced by one from rows
whose residuals are similar. Without a mask, the values of the encryptions themselves are the features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

_COUNTED = 3000  # rows from whose similarities the images are counted
_STEEP = 1.2  # least exponent with which their eigenvalues fall at that number
_TOGETHER = 5000  # rows compared with each other: bounds the memory at 0.5 GB
_LEAST = 8  # rows of a cluster of plausible size
_CUTS = np.arange(70, 98) / 100  # distances at which cutting the tree is tried
_FIRST_FITS, _FITS = 4, 3  # alternations of fit and codes, at first and after images were replaced
_RESTARTS = 12  # most rounds in which images are replaced
_GROUP = 15  # rows from which an image is started anew
_MANY_PLACES = 3  # with more private images per row than this, epochs do not improve codes of edges
_PULL = 0.1  # ridge of edge energies towards zero, as a share of the mean diagonal: few rows contain an image
_SAMPLE = 1000  # encryptions from which the covariance is estimated
_ROWS, _COLUMNS = 100, 256  # at a time


def edge_energies(encryption: Float32, squares: bool = False, even: bool = False) -> Float32:
    """Energy of four local differences of absolute values, summed over channels, float32 (n, 4, h-1, w-1).

    To the right, down, and along both diagonals (these divided by sqrt 2). With `squares`, no square root is taken, and
    the square of each value is added as further planes: (n, 4 + channels, h-1, w-1). With `even`, planes that depend on
    one column are averaged over two, so that mirroring an image mirrors its energies (:mod:`.windows`).
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

    The product of two rows, divided by their size, is therefore a correlation.
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

    `ridge` is the white noise added to the covariance, as a share of its diagonal; 0.1 and 1 work as well.
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
    planes: Int64 | None = None  # order of the planes after mirroring; None if unchanged

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
        """Codes of all encryptions; epochs are not used for many private images per row."""
        if self.known.per_row > _MANY_PLACES:
            return code(found, self.known)
        return code_epochs(found, self.known, np.ones(len(self.feature), np.float32))

    def explain(self, mixtures: Mixtures, times: int) -> tuple[Codes, Products]:
        """Estimate features of images and codes in turn; returns the last codes and the products they came from."""
        for _ in range(times):
            found = self.products(mixtures)
            codes = self.codes(found)
            mixtures = codes.mixtures
        return codes, found

    def part(self, rows: slice) -> Edges:
        """The edges of some rows, which must be whole epochs."""
        known, feature, square = self.known.part(rows), self.feature[rows], self.square[rows]
        return replace(self, known=known, feature=feature, square=square)


def edges_of(encryption: Float32, known: Known, squares: bool) -> Edges:
    """Features of masked encryptions (n, h, w, channels), ready to be compared."""
    feature = edge_features(encryption, squares, known.views is not None and bool(known.views[:, 2].any()))
    local = edge_filter(feature)
    square = square_lengths(feature.__getitem__, len(feature), local)
    return Edges(known, feature, local, square, EDGE_PLANES[: feature.shape[1]])


def similarity(table: Float32) -> Float32:
    """Correlations from products of all pairs, clipped to -1 .. 1; 1 on the diagonal."""
    length = np.sqrt(np.maximum(np.diagonal(table), np.float32(1e-9)))
    out: Float32 = np.divide(table, length[:, None], dtype=np.float32)
    out /= length
    np.clip(out, -1, 1, out=out)
    np.fill_diagonal(out, 1)
    return out


def count_images(edges: Edges) -> int | None:
    """Estimate how many private images there are from the spectrum of the similarities of up to 3,000 rows.

    Each image adds one large eigenvalue. On logarithmic scales, eigenvalues therefore fall steepest a few places before
    the N-th. The estimate is the nearest divisor of the number of rows; None if no fall is steep enough. It is an
    integer, which the last bits of LAPACK's eigenvalues do not change.
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
    """Clusters of similar encryptions, the largest of each class, as mixtures of at most one image per row.

    Rows that share no class are never in one cluster.
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
    """Log-likelihood that would be lost without each image, float64 (N,), if its rows took their next best images."""
    loss = np.maximum(codes.margin().astype(np.float64), 0)
    out = np.zeros(codes.mixtures.n_images)
    np.add.at(out, codes.mixtures.assignment.ravel(), loss.ravel())
    return out


@kernel
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
    """Rows whose residuals are similar."""

    rows: Int64  # (m,)
    strength: Float32  # (m,): coefficients of the image that they share
    worth: float  # log-likelihood that this image would add, over all rows


def groups_of(table: Float32, many: int, size: int = _GROUP, rounds: int = 4, spread: int = 2) -> list[Group]:
    """Groups of rows whose residuals correlate, from products of residuals; the most valuable groups first.

    The `spread` times `size` rows that are most similar to a group do not start another one.
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

    It replaces the image that most of these rows contain or, if there is none, the one with the smallest coefficient.
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


def margins(edges: Edges, mixtures: Mixtures) -> Float64:
    """By how much edge energies alone prefer each image to the next best in its place, float64 (n, p).

    The signs follow from the images they are judged by; edges know no sign. Coefficients are free: a known sum would
    force that of a wrong image on every other.
    """
    free = code(edges.products(mixtures), replace(edges.known, share=None), mixtures.assignment)
    mine, theirs = (np.argsort(held, axis=1, kind="stable") for held in (mixtures.assignment, free.mixtures.assignment))
    out = np.empty(mine.shape)
    np.put_along_axis(out, mine, np.take_along_axis(free.margin(), theirs, axis=1).astype(np.float64), axis=1)
    return out
