"""Which private images an encryption contains, and with which coefficients: sparse codes under constraints.

A row without its mask is ``x = sum_j a_j P_j + e``: p centred images P, coefficients a_j >= 0, and a residual e with
the covariance of public images. The code reduces the whitened squared residual by twice

    gain = sum_j a_j <x, P_j> - 1/2 sum_jk a_j a_k <P_j, P_k>.

The image in each of the p places is chosen in turn, given the others (matching pursuit with replacement), as far as
classes, sums of coefficients and epochs allow. Edge energies are coded in the same way (`edges`). An image that was
fitted to a row resembles it. Each row is therefore compared with the images as they would be without it: P_j - t_j r,
with r the row's residual and t_j = influence_j / (1 - leverage).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from instahide_nb.attacks.exact import integer_product, integers, whole_product
from instahide_nb.attacks.mixtures import Fit, Mixtures
from instahide_nb.attacks.unmask.constraints import Known
from instahide_nb.attacks.unmask.smoothness import Smoothness, whiten
from instahide_nb.core.arrays import Bool, Float32, Float64, Int64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

Rows = Callable[[slice | Int64], Float32]
"""Returns some centred rows (m, channels, h, w), so that not all rows need be in memory at once."""

_SWEEPS = 3  # over the places of a row
_BLOCK = 1000  # rows at a time


@dataclass(frozen=True)
class Codes:
    """Images and coefficients of each row, and the gain in log-likelihood."""

    mixtures: Mixtures  # the largest coefficient first
    gain: Float64  # (n,): log-likelihood minus that without private images
    score: Float32  # (n, p, N): the gain with each image in each place, given the images in the others

    def margin(self) -> Float32:
        """Gain minus the gain with the next best image in each place, float32 (n, p)."""
        other = self.score.copy()
        np.put_along_axis(other, self.mixtures.assignment[:, :, None] % other.shape[2], np.float32(-1e30), axis=2)
        return np.minimum(self.gain[:, None] - other.max(axis=2), 1e6).astype(np.float32)


@kernel
def _solve_positive(gram: Float64, right: Float64, size: int, out: Float64, lower: Float64, on: Int64) -> int:
    """Minimise a'Ga/2 - c'a, setting the most negative value to zero until none is negative; returns how many stay."""
    work = np.empty(size)
    for u in range(size):
        on[u], out[u] = u, 0.0
    many = size
    while many > 0:
        for u in range(many):
            for v in range(u + 1):
                total = gram[on[u], on[v]]
                for w in range(v):
                    total -= lower[u, w] * lower[v, w]
                if u == v:
                    lower[u, u] = np.sqrt(max(total, 1e-9 * gram[on[u], on[u]] + 1e-300))
                else:
                    lower[u, v] = total / lower[v, v]
        for u in range(many):
            total = right[on[u]]
            for w in range(u):
                total -= lower[u, w] * work[w]
            work[u] = total / lower[u, u]
        for u in range(many - 1, -1, -1):
            total = work[u]
            for w in range(u + 1, many):
                total -= lower[w, u] * work[w]
            work[u] = total / lower[u, u]
        least = 0
        for u in range(many):
            if work[u] < work[least]:
                least = u
        if work[least] >= 0.0:
            break
        for u in range(least, many - 1):
            on[u] = on[u + 1]
        many -= 1
    for u in range(many):
        out[on[u]] = work[u]
    return many


@kernel
def _value(gram: Float64, right: Float64, size: int, a: Float64) -> float:
    total = 0.0
    for u in range(size):
        total += a[u] * right[u]
        for v in range(size):
            total -= 0.5 * a[u] * a[v] * gram[u, v]
    return total


@kernel
def _without_row(
    own: Int64,
    share: Float64,
    influence: Float64,
    product: Float64,
    gram: Float64,
    square: float,
    table: Float64,
) -> float:
    """<x, P_j>, t_j and <r, P_j> in `table` (3, N), the first with the images as they would be without the row.

    Returns <r, r>. Where no image is known (or none was fitted) nothing changes.
    """
    n_images = product.shape[0]
    leverage, x_r = 0.0, square
    for o in range(own.shape[0]):
        if own[o] >= 0:
            leverage += share[o] * influence[own[o]]
            x_r -= share[o] * product[own[o]]
    leverage = min(leverage, 0.9)
    for j in range(n_images):
        along = product[j]
        for o in range(own.shape[0]):
            if own[o] >= 0:
                along -= share[o] * gram[own[o], j]
        table[1, j], table[2, j] = influence[j] / (1.0 - leverage), along
        table[0, j] = product[j] - table[1, j] * x_r
    r_r = x_r
    for o in range(own.shape[0]):
        if own[o] >= 0:
            r_r -= share[o] * table[2, own[o]]
    return max(r_r, 0.0)


@kernel
def _code_rows(
    first: int,
    last: int,
    product: Float64,
    gram: Float64,
    own: Int64,
    own_share: Float64,
    influence: Float64,
    square: Float64,
    image_class: Int64,
    present: Bool,
    target: Float64,
    stiff: float,
    sweeps: int,
    assignment: Int64,
    coefficient: Float64,
    gain: Float64,
    score: Float32,
) -> None:
    n_images, places = gram.shape[0], assignment.shape[1]
    table, length, right_of = np.zeros((3, n_images)), np.empty(n_images), np.empty(n_images)
    column = np.empty((places, n_images))  # <P_q, P_j> with the images q of the other places
    inner, right, a = np.empty((places, places)), np.empty(places), np.empty(places)
    lower, on, along_on = np.empty((places, places)), np.empty(places, np.int64), np.empty(places)
    place_of, missing = np.empty(places, np.int64), np.empty(present.shape[1], np.bool_)
    for i in range(first, last):
        r_r = 0.0
        table[1:] = 0.0
        if influence.shape[0] > 0:
            r_r = _without_row(own[i], own_share[i], influence[i], product[i], gram, square[i], table)
        else:
            for j in range(n_images):
                table[0, j] = product[i, j]
        pull, along = table[1], table[2]
        base = 0.0
        for c in range(present.shape[1]):
            base -= 0.5 * stiff * target[i, c] * target[i, c]
        for j in range(n_images):
            whole = gram[j, j]
            length[j] = max(whole - 2.0 * pull[j] * along[j] + pull[j] * pull[j] * r_r, 0.05 * whole) + 1e-9 + stiff
            right_of[j] = table[0, j] + stiff * target[i, image_class[j]]
        chosen, weight = assignment[i], coefficient[i]
        settled = False
        for sweep in range(sweeps + 1):
            scoring, changed = sweep == sweeps, False
            if settled and not scoring:
                continue
            for s in range(places):
                many = np.int64(0)  # distinct images of the other places; a plain 0 would compile callees once more
                for t in range(places):
                    j0 = chosen[t]
                    known = t != s and j0 >= 0
                    for u in range(many):
                        known = known and chosen[place_of[u]] != j0
                    if not known:
                        continue
                    place_of[many], right[many] = t, right_of[j0]
                    line = column[many]
                    for j in range(n_images):
                        line[j] = gram[j0, j] + pull[j0] * pull[j] * r_r - pull[j0] * along[j] - pull[j] * along[j0]
                        if stiff > 0.0 and image_class[j] == image_class[j0]:
                            line[j] += stiff
                    line[j0] = length[j0]
                    many += 1
                for u in range(many):
                    for v in range(many):
                        inner[u, v] = column[u, chosen[place_of[v]]]
                active = _solve_positive(inner, right, many, a, lower, on)
                before = _value(inner, right, many, a)
                # every class of a row needs a place
                empty, wanting = 1, 0
                for c in range(present.shape[1]):
                    missing[c] = present[i, c]
                for t in range(places):
                    if t != s and chosen[t] >= 0:
                        missing[image_class[chosen[t]]] = False
                    elif t != s:
                        empty += 1
                for c in range(present.shape[1]):
                    wanting += missing[c]
                best, top = -1e300, -1
                for j in range(n_images):
                    value = -1e30
                    allowed = present[i, image_class[j]]
                    if allowed and (wanting < empty or missing[image_class[j]]):
                        value = before
                        held = False
                        for u in range(many):
                            held = held or chosen[place_of[u]] == j
                        if not held:
                            slope, curve = right_of[j], length[j]
                            for u in range(many):
                                slope -= a[u] * column[u, j]
                            for u in range(active):
                                along_on[u] = column[on[u], j]
                                for w in range(u):
                                    along_on[u] -= lower[u, w] * along_on[w]
                                along_on[u] /= lower[u, u]
                                curve -= along_on[u] * along_on[u]
                            if slope > 0.0:
                                value = before + 0.5 * slope * slope / max(curve, 0.02 * (length[j] - stiff))
                    if scoring:
                        score[i, s, j] = np.float32(value + base)
                    if value > best:
                        best, top = value, j
                if not scoring and top != chosen[s]:
                    chosen[s], changed = top, True
            settled = not changed
        many = np.int64(0)
        for t in range(places):
            known = chosen[t] >= 0
            for u in range(many):
                known = known and chosen[place_of[u]] != chosen[t]
            if known:
                place_of[many] = t
                many += 1
        for u in range(many):
            ju = chosen[place_of[u]]
            right[u] = right_of[ju]
            for v in range(many):
                jv = chosen[place_of[v]]
                inner[u, v] = gram[ju, jv] + pull[ju] * pull[jv] * r_r - pull[ju] * along[jv] - pull[jv] * along[ju]
                if stiff > 0.0 and image_class[ju] == image_class[jv]:
                    inner[u, v] += stiff
            inner[u, u] = length[ju]
        _solve_positive(inner, right, many, a, lower, on)
        gain[i] = _value(inner, right, many, a) + base
        weight[:] = 0.0
        for u in range(many):
            same = 0
            for t in range(places):
                same += chosen[t] == chosen[place_of[u]]
            for t in range(places):
                if chosen[t] == chosen[place_of[u]]:
                    weight[t] = a[u] / same


@dataclass(frozen=True)
class Products:
    """Whitened products of rows and images, and the fit that the images are from."""

    product: Float64  # (n, N)
    gram: Float64  # (N, N)
    square: Float64  # (n,): whitened squared length of each row
    fit: Fit | None


def products(rows: Rows, square: Float64, image: Float32, local: Smoothness, fit: Fit | None) -> Products:
    """Products of all rows with all images (N, channels, h, w) after whitening."""
    white = whiten(image, local).reshape(len(image), -1)
    gram = integer_product(image.reshape(len(image), -1), white, True)
    whole_white, white_scale = integers(white, True)
    product = np.empty((len(square), len(image)))
    for low in range(0, len(square), _BLOCK):
        part = rows(slice(low, low + _BLOCK))
        whole, scale = integers(np.ascontiguousarray(part).reshape(len(part), -1), True)
        product[low : low + _BLOCK] = whole_product(whole, whole_white) / (scale[:, None] * white_scale)
    return Products(product, 0.5 * (gram + gram.T), square, fit)


def product_table(rows: Float32, local: Smoothness) -> Float32:
    """Whitened products of all pairs of rows (n, channels, h, w), float32 (n, n), symmetric.

    The local filter is not quite symmetric. Treating it as symmetric halves the work.
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    left, left_scale = integers(flat)
    right, right_scale = integers(whiten(rows, local).reshape(flat.shape))
    out = np.empty((len(flat), len(flat)), np.float32)
    for low in range(0, len(flat), _BLOCK):
        part = slice(low, low + _BLOCK)
        product = whole_product(left[part], right[low:]) / (left_scale[part, None] * right_scale[low:])
        own = product[:, : len(product)]
        own[:] = 0.5 * (own + own.T)
        out[part, low:] = product
        out[low:, part] = product.T
    return out


def square_lengths(rows: Rows, n: int, local: Smoothness) -> Float64:
    """Whitened squared length of each row, float64 (n,)."""
    out = np.empty(n)
    for low in range(0, n, _BLOCK):
        part = np.ascontiguousarray(rows(slice(low, low + _BLOCK)))
        flat, white = part.reshape(len(part), -1), whiten(part, local).reshape(len(part), -1)
        in_blocks(dot_rows, len(part), flat, white, out[low : low + _BLOCK])
    return out


@kernel
def dot_rows(first: int, last: int, a: Float32, b: Float32, out: Float64) -> None:
    for i in range(first, last):
        total = 0.0
        for p in range(a.shape[1]):
            total += float(a[i, p]) * float(b[i, p])
        out[i] = total


def code(found: Products, known: Known, assignment: Int64 | None = None) -> Codes:
    """Sparse codes of all rows, without regard to epochs (see `code_epochs`).

    With an `assignment` (n, p) only coefficients and scores are found.
    """
    n, n_images = found.product.shape
    sweeps = _SWEEPS if assignment is None else 0
    held = np.full((n, known.per_row), -1, np.int64) if assignment is None else assignment.copy()
    coefficient, gain = np.zeros((n, known.per_row)), np.empty(n)
    score = np.empty((n, known.per_row, n_images), np.float32)
    stiff = 0.0 if known.share is None else known.stiffness * float(np.mean(np.diagonal(found.gram)))
    target = np.zeros(known.present.shape) if known.share is None else known.share
    fit = found.fit
    own = (np.full((n, 1), -1), np.zeros((n, 1)), np.zeros((0, n_images)))
    if fit is not None:
        own = (fit.mixtures.assignment, fit.mixtures.coefficient.astype(np.float64), fit.influence)
    constraints = known.image_class, known.present, target, stiff, sweeps
    out = held, coefficient, gain, score
    in_blocks(_code_rows, n, found.product, found.gram, *own, found.square, *constraints, *out)
    order = np.argsort(-coefficient, axis=1, kind="stable")
    mixtures = Mixtures(
        np.take_along_axis(held, order, 1),
        np.take_along_axis(coefficient, order, 1).astype(np.float32),
        n_images,
    )
    return Codes(mixtures, gain, np.take_along_axis(score, order[:, :, None], 1))


def assign_epochs(score: Float32, scale: Float32, n_images: int) -> Int64:
    """Images of each row that maximise the scores, each image p times in each block of N rows."""
    from scipy.optimize import linear_sum_assignment

    n, places, _ = score.shape
    out = np.empty((n, places), np.int64)

    def blocks(first: int, last: int) -> None:
        for low in range(first * n_images, last * n_images, n_images):
            part = (score[low : low + n_images] / scale[low : low + n_images, None, None]).astype(np.float64)
            part = part.reshape(-1, n_images)
            part = np.maximum(part - part.max(axis=1, keepdims=True), -1e6)
            image = linear_sum_assignment(np.repeat(part, places, axis=1), maximize=True)[1] // places
            out[low : low + n_images] = image.reshape(-1, places)

    in_blocks(blocks, n // n_images, block=1)
    return out


def code_epochs(found: Products, known: Known, scale: Float32, times: int = 1) -> Codes:
    """Sparse codes; if there are epochs, with every image p times in each."""
    codes = code(found, known)
    for _ in range(times if known.epochs else 0):
        codes = code(found, known, assign_epochs(codes.score, scale, known.n_images))
    return codes
