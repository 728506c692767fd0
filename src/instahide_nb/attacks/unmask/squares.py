"""First images from squares, which do not depend on the mask, and the one sign that squares do not determine.

At one pixel, the weighted mean of ``(x^2 - expected) / (2 a_j a_k)`` over the encryptions of two images estimates
``P_j P_k``: one entry of a matrix of rank one over all images. Its leading eigenvector is the pixel in all images, up
to one common sign. A maximum spanning tree over pixels makes these signs agree. One sign remains for all images
together; Fisher's discriminant infers it from mean colours, which differ between photographs and their negatives.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from instahide_nb.attacks.exact import factor, solve
from instahide_nb.attacks.mixtures import Mixtures, add_product, mean_square
from instahide_nb.core.arrays import Float32, Float64, Int32, Int64, UInt8
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks

_ROUNDS = 30  # of the weighted power iteration; the change falls below one percent after about ten
_BLOCK = 256  # pixels at a time


def expected_square(square: Float64, coefficient: npt.NDArray[np.floating]) -> Float64:
    """Expected x^2 of each encryption without its cross terms: ``alpha sum_j a_j^2 + beta (1 - sum_j a_j)^2 + gamma``.

    Fitted to the mean squares of the encryptions (n,) by least squares.
    """
    share = coefficient.astype(np.float64)
    rest = 1.0 - share.sum(axis=1)
    design = np.stack([(share * share).sum(axis=1), rest * rest, np.ones(len(share))], axis=1)
    normal = np.einsum("ij,ik->jk", design, design, optimize=False) + 1e-9 * len(share) * np.eye(3)
    right = np.einsum("ij,i->j", design, square, optimize=False)
    alpha, beta, gamma = solve(factor(normal), right[:, None])[:, 0]
    return design[:, 0] * alpha + design[:, 1] * beta + gamma


class PairProducts:
    """Products of two images, estimated for all pairs that occur in an encryption with known images.

    `pair` (pairs, 2) has the smaller number first; `weight` (pairs,) is the sum of squares of ``2 a_j a_k`` over the
    encryptions of a pair.
    """

    def __init__(self, flat: Float32, mixtures: Mixtures) -> None:
        assignment, coefficient = mixtures.assignment, mixtures.coefficient
        rows, codes, scales = [], [], []
        for j, k in combinations(range(assignment.shape[1]), 2):
            low, high = np.sort(assignment[:, [j, k]], axis=1).T
            known = np.flatnonzero((low >= 0) & (low < high))
            rows.append(known)
            codes.append(low[known] * mixtures.n_images + high[known])
            scales.append(2.0 * coefficient[known, j].astype(np.float64) * coefficient[known, k])
        row, scale = np.concatenate(rows), np.concatenate(scales)
        code, number = np.unique(np.concatenate(codes), return_inverse=True)
        number = number.reshape(-1)
        order = np.argsort(number, kind="stable")
        start = np.searchsorted(number[order], np.arange(len(code) + 1))
        self.pair = np.stack([code // mixtures.n_images, code % mixtures.n_images], axis=1)
        self.weight = np.bincount(number, weights=scale * scale, minlength=len(code)).astype(np.float32)
        self._flat = flat
        self._sum = csr_array((scale[order], row[order], start), shape=(len(code), len(flat)))
        expected = expected_square(mean_square(flat), coefficient)
        self._expected = add_product(self._sum, expected[:, None], np.zeros((len(code), 1)), threads=False)

    def total(self, low: int, high: int) -> Float32:
        """``sum_i 2 a_j a_k (x_i^2 - expected_i)`` of each pair at the pixels low .. high-1, float32 (pairs, width)."""
        part = self._flat[:, low:high]
        out = np.zeros((len(self.pair), high - low))
        return (add_product(self._sum, part * part, out, threads=False) - self._expected).astype(np.float32)


def pixel_matrix(encryption: Float32, mixtures: Mixtures, pixel: tuple[int, int, int]) -> tuple[Float32, Float32]:
    """Products ``P_j P_k`` of one pixel (y, x, channel), estimated from encryptions, (images, images); 0 if unknown.

    Also the sum of squares of ``2 a_j a_k`` behind each.
    """
    flat = np.ascontiguousarray(encryption, np.float32).reshape(len(encryption), -1)
    number = int(np.ravel_multi_index(pixel, encryption.shape[1:]))
    products = PairProducts(flat, mixtures)
    product, weight = np.zeros((2, mixtures.n_images, mixtures.n_images), np.float32)
    a, b = products.pair.T
    product[a, b] = products.total(number, number + 1)[:, 0] / np.maximum(products.weight, np.float32(1e-12))
    weight[a, b] = products.weight
    return product + product.T, weight + weight.T


@kernel
def _power_iteration(pair: Int64, product: Float32, weight: Float32, start: Float32, rounds: int) -> Float32:
    """Rank-one fit of weighted products (pairs, pixels): v_a = sum_b w_ab M_ab v_b / sum_b w_ab v_b^2."""
    n_images, size = start.shape[0], product.shape[1]
    one, half = np.float32(1), np.float32(0.5)
    v, norm = np.empty((n_images, size), np.float32), np.empty(size, np.float32)
    top, bottom, quarter = np.empty_like(v), np.empty_like(v), np.float32(n_images) * np.float32(0.25)
    for a in range(n_images):
        for p in range(size):
            v[a, p] = start[a]
    for r in range(rounds):
        top[:] = np.float32(0)
        bottom[:] = np.float32(1e-6)
        for g in range(pair.shape[0]):
            a, b, w = pair[g, 0], pair[g, 1], weight[g]
            m = product[g]
            for p in range(size):
                top[a, p] += m[p] * v[b, p]
                bottom[a, p] += w * v[b, p] * v[b, p]
                top[b, p] += m[p] * v[a, p]
                bottom[b, p] += w * v[a, p] * v[a, p]
        if r < rounds // 2:
            # plain power iteration first: it finds the leading eigenvector from any start
            norm[:] = np.float32(1e-20)
            for a in range(n_images):
                for p in range(size):
                    norm[p] += top[a, p] * top[a, p]
            for p in range(size):
                norm[p] = np.sqrt(quarter / norm[p])
            for a in range(n_images):
                for p in range(size):
                    v[a, p] = top[a, p] * norm[p]
        else:
            for a in range(n_images):
                for p in range(size):
                    v[a, p] = half * (v[a, p] + min(max(top[a, p] / bottom[a, p], -one), one))
    return v


def _start_vector(n_images: int) -> Float32:
    """Fixed numbers between 0.5 and 1 with mixed signs: unlikely to be orthogonal to any eigenvector."""
    number = np.arange(n_images, dtype=np.int64)
    size = 0.5 + (number * 7919 % 101) / 202.0
    return np.where(number * 104729 % 7 < 3, -size, size).astype(np.float32)


def _neighbours(shape: tuple[int, int, int]) -> Int32:  # the only integers that csgraph of SciPy 1.14 takes
    """Pairs of values of an image (h, w, channels): beside, below, and the other channels of the same pixel."""
    number = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    ends = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    ends += [(number[:, :, c], number[:, :, d]) for c, d in combinations(range(shape[2]), 2)]
    return np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in ends])


def join_signs(value: Float32, shape: tuple[int, int, int]) -> Float32:
    """Make the signs of all pixels of `value` (images, pixels) agree, up to one sign common to all.

    In `value`, each pixel has an unknown sign, the same in all images. Images have the `shape` (h, w, channels).
    """
    (a, b), size = _neighbours(shape).T, value.shape[1]
    whole = value.astype(np.float64)
    length = (whole * whole).sum(axis=0) + 1e-12
    cosine = (whole[:, a] * whole[:, b]).sum(axis=0) / np.sqrt(length[a] * length[b])
    rank = np.empty(len(a))
    rank[np.argsort(-np.abs(cosine), kind="stable")] = np.arange(1, len(a) + 1)  # no ties
    tree = minimum_spanning_tree(csr_array((rank, (a, b)), shape=(size, size)))
    order, parent = breadth_first_order(tree, 0, directed=False)
    agrees = csr_array((np.where(cosine < 0, -1.0, 1.0), (a, b)), shape=(size, size))
    agrees = (agrees + agrees.T).tocsr()
    step = np.asarray(agrees[order[1:], parent[order[1:]]]).reshape(-1)
    sign = np.ones(size, np.float32)
    for node, by in zip(order[1:], step, strict=True):
        sign[node] = by * sign[parent[node]]
    return value * sign


def first_images(encryption: Float32, mixtures: Mixtures) -> Float32:
    """All private images (images, h, w, channels), or all their negatives, from rows of two images or more."""
    flat = np.ascontiguousarray(encryption, np.float32).reshape(len(encryption), -1)
    products = PairProducts(flat, mixtures)
    value = np.empty((mixtures.n_images, flat.shape[1]), np.float32)
    start = _start_vector(mixtures.n_images)

    def pixels(low: int, high: int) -> None:
        total = products.total(low, high)
        value[:, low:high] = _power_iteration(products.pair, total, products.weight, start, _ROUNDS)

    in_blocks(pixels, flat.shape[1], block=_BLOCK)
    height, width, channels = encryption.shape[1:]
    return join_signs(value, (height, width, channels)).reshape(-1, height, width, channels)


def colour_axis(public: UInt8) -> Float64:
    """Fisher's discriminant (channels,) between mean colours of photographs (m, h, w, channels) and their negatives.

    Its product with a mean colour in [-1, 1] is positive for most photographs.
    """
    size = public.shape[1] * public.shape[2]
    total = public.reshape(len(public), size, -1).sum(axis=1, dtype=np.int64)
    colour = (2.0 * total - 255.0 * size) / (255.0 * size)
    moment = np.einsum("ic,id->cd", colour, colour, optimize=False) / len(colour)
    ridge = 1e-6 * float(np.diagonal(moment).max()) + 1e-12
    mean = colour.sum(axis=0) / len(colour)
    return solve(factor(moment + ridge * np.eye(len(moment))), mean[:, None])[:, 0]


def rather_photograph(colour: Float64, axis: Float64) -> Float64:
    """For mean colours (..., channels): positive for a photograph, negative for a negative."""
    return (colour * axis).sum(axis=-1)
