"""Spectral phase retrieval: the private images up to one sign per pixel, then the signs joined.

The square of an encryption does not feel its mask, and
``x^2 = l1^2 Pa^2 + l2^2 Pb^2 + 2 l1 l2 Pa Pb + (terms of the public images)``.
At one pixel, the weighted mean of ``(x^2 - expected) / (2 l1 l2)`` over the encryptions of the pair (a, b) is an
estimate of ``Pa Pb``: one entry of a matrix of rank one over all images. Its leading eigenvector is the
pixel in all images, up to one common sign. Neighbouring pixels are strongly correlated over the images, so a
maximum spanning tree over neighbours carries the sign from pixel to pixel. The last sign, of everything at once,
is left open; `negatives` reads it from colours.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.exact import solve_spd
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.core.threads import in_blocks

__all__ = ["expected_square", "join_signs", "pixel_matrix", "retrieve"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_ROUNDS = 30  # of the weighted power iteration; the change falls below one percent after about ten
_BLOCK = 256  # pixels at a time


@numba.njit(cache=True)
def expected_square(square_mean: Float64, coefficient: Float32) -> Float64:
    """Expected x^2 of each encryption without its cross term, by least squares on its coefficients.

    Parameters
    ----------
    square_mean : float64 (n,)
        Mean of x^2 over the pixels of each encryption.
    coefficient : float32 (n, 2)

    Returns
    -------
    float64 (n,)
        ``alpha (l1^2 + l2^2) + beta (1 - l1 - l2)^2 + gamma``, fitted.
    """
    n = square_mean.shape[0]
    design = np.empty((n, 3))
    for i in range(n):
        a, b = float(coefficient[i, 0]), float(coefficient[i, 1])
        design[i, 0] = a * a + b * b
        design[i, 1] = (1.0 - a - b) * (1.0 - a - b)
        design[i, 2] = 1.0
    normal = np.zeros((3, 4))
    for i in range(n):
        for j in range(3):
            for k in range(3):
                normal[j, k] += design[i, j] * design[i, k]
            normal[j, 3] += design[i, j] * square_mean[i]
    for j in range(3):  # a small ridge keeps the system regular when all coefficients agree
        normal[j, j] += 1e-9 * n
    solution = solve_spd(normal[:, :3].copy(), normal[:, 3:].copy())[:, 0]
    out = np.empty(n)
    for i in range(n):
        out[i] = solution[0] * design[i, 0] + solution[1] * design[i, 1] + solution[2]
    return out


def pixel_matrix(
    encryption: Float32, slots: Slots, assignment: Int64, pixel: tuple[int, int, int]
) -> tuple[Float32, Float32]:
    """The matrix of products ``Pa Pb`` of one pixel, as the encryptions show it.

    Parameters
    ----------
    encryption : float32 (n, h, w, channels)
    slots : Slots
    assignment : int64 (n, 2)
    pixel : (y, x, channel)

    Returns
    -------
    product : float32 (images, images)
        Estimates of the products; 0 where no encryption holds the pair.
    weight : float32 (images, images)
        Sum of squares of ``2 l1 l2`` behind each estimate.
    """
    flat = np.ascontiguousarray(encryption, np.float32).reshape(len(encryption), -1)
    number = int(np.ravel_multi_index(pixel, encryption.shape[1:]))
    pair, total, weight = _pair_products(flat, slots, assignment)
    full = np.zeros((slots.n_images, slots.n_images), np.float32)
    mass = np.zeros_like(full)
    full[pair[:, 0], pair[:, 1]] = full[pair[:, 1], pair[:, 0]] = total[:, number] / np.maximum(
        weight, np.float32(1e-12)
    )
    mass[pair[:, 0], pair[:, 1]] = mass[pair[:, 1], pair[:, 0]] = weight
    return full, mass


def _pair_products(flat: Float32, slots: Slots, assignment: Int64) -> tuple[Int64, Float32, Float32]:
    """Pairs that occur, the weighted sum of their products at every pixel, and the sum of weights."""
    used = np.flatnonzero(~slots.shared & (assignment >= 0).all(axis=1))
    low = assignment[used].min(axis=1)
    high = assignment[used].max(axis=1)
    code, inverse = np.unique(low * slots.n_images + high, return_inverse=True)
    square = np.empty(len(flat))
    in_blocks(_square_mean, len(flat), flat, square)
    expected = expected_square(square, slots.coefficient)[used].astype(np.float32)
    scale = 2 * slots.coefficient[used, 0] * slots.coefficient[used, 1]
    weight = np.bincount(inverse.reshape(-1), weights=(scale * scale).astype(np.float64)).astype(np.float32)
    total = np.zeros((len(code), flat.shape[1]), np.float32)
    in_blocks(
        _accumulate, flat.shape[1], flat, used, inverse.reshape(-1), scale, expected, total, block=_BLOCK
    )
    return np.stack([code // slots.n_images, code % slots.n_images], axis=1), total, weight


@numba.njit(cache=True, nogil=True)
def _square_mean(first: int, last: int, flat: Float32, out: Float64) -> None:
    for i in range(first, last):
        total = 0.0
        for p in range(flat.shape[1]):
            total += float(flat[i, p]) * float(flat[i, p])
        out[i] = total / flat.shape[1]


@numba.njit(cache=True, nogil=True)
def _accumulate(
    low: int,
    high: int,
    flat: Float32,
    used: Int64,
    group: Int64,
    scale: Float32,
    expected: Float32,
    out: Float32,
) -> None:
    for i in range(used.shape[0]):
        source, target = flat[used[i], low:high], out[group[i], low:high]
        s, e = scale[i], expected[i]
        for p in range(high - low):
            target[p] += s * (source[p] * source[p] - e)


@numba.njit(cache=True, nogil=True)
def _power_iteration(
    low: int,
    high: int,
    pair: Int64,
    product: Float32,
    weight: Float32,
    start: Float32,
    rounds: int,
    out: Float32,
) -> None:
    """Rank-one fit of the weighted products at every pixel: v_a = sum_b w_ab M_ab v_b / sum_b w_ab v_b^2."""
    n_images, size = start.shape[0], high - low
    one, half = np.float32(1), np.float32(0.5)
    v = np.empty((n_images, size), np.float32)
    for a in range(n_images):
        for p in range(size):
            v[a, p] = start[a]
    top = np.empty((n_images, size), np.float32)
    bottom = np.empty((n_images, size), np.float32)
    norm = np.empty(size, np.float32)
    # read in every round: closely packed, or most of the time goes to reading it
    own = product[:, low:high].copy()
    for r in range(rounds):
        top[:] = np.float32(0)
        bottom[:] = np.float32(1e-6)
        for g in range(pair.shape[0]):
            a, b, w = pair[g, 0], pair[g, 1], weight[g]
            m = own[g]
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
                norm[p] = np.sqrt(np.float32(n_images) * np.float32(0.25) / norm[p])
            for a in range(n_images):
                for p in range(size):
                    v[a, p] = top[a, p] * norm[p]
        else:
            for a in range(n_images):
                for p in range(size):
                    v[a, p] = half * (v[a, p] + min(max(top[a, p] / bottom[a, p], -one), one))
    for a in range(n_images):
        for p in range(size):
            out[a, low + p] = v[a, p]


def _start_vector(n_images: int) -> Float32:
    """Fixed numbers between 0.5 and 1 with mixed signs: orthogonal to nothing in particular."""
    number = np.arange(n_images, dtype=np.int64)
    size = 0.5 + (number * 7919 % 101) / 202.0
    return np.where(number * 104729 % 7 < 3, -size, size).astype(np.float32)


@numba.njit(cache=True)
def _edge_weights(value: Float32, edge: Int64) -> Float64:
    """Cosine over the images between the two ends of each edge; `value` is (pixels, images)."""
    out = np.empty(edge.shape[0])
    n_images = value.shape[1]
    for e in range(edge.shape[0]):
        cross, first, second = 0.0, 1e-12, 1e-12
        for a in range(n_images):
            s, t = float(value[edge[e, 0], a]), float(value[edge[e, 1], a])
            cross += s * t
            first += s * s
            second += t * t
        out[e] = cross / np.sqrt(first * second)
    return out


@numba.njit(cache=True)
def _spanning_signs(n_nodes: int, edge: Int64, agreement: Float64, order: Int64) -> npt.NDArray[np.int8]:
    """Kruskal's maximum spanning tree; the sign of each node relative to its root is kept along the way."""
    parent = np.arange(n_nodes)
    sign = np.ones(n_nodes, np.int8)  # relative to the parent
    for number in range(order.shape[0]):
        e = order[number]
        root = np.empty(2, np.int64)
        path_sign = np.ones(2, np.int8)
        for end in range(2):
            node = edge[e, end]
            while parent[node] != node:
                path_sign[end] *= sign[node]
                node = parent[node]
            root[end] = node
            node = edge[e, end]  # path compression, signs included
            carried = path_sign[end]
            while parent[node] != root[end] and node != root[end]:
                following = parent[node]
                own = sign[node]
                parent[node] = root[end]
                sign[node] = carried
                carried = np.int8(carried * own)
                node = following
        if root[0] != root[1]:
            relative = np.int8(path_sign[0] * path_sign[1])
            if agreement[e] < 0:
                relative = np.int8(-relative)
            parent[root[1]] = root[0]
            sign[root[1]] = relative
    out = np.ones(n_nodes, np.int8)
    for node in range(n_nodes):
        walk = node
        while parent[walk] != walk:
            out[node] *= sign[walk]
            walk = parent[walk]
    return out


def _neighbour_edges(shape: tuple[int, int, int]) -> Int64:
    number = np.arange(shape[0] * shape[1] * shape[2], dtype=np.int64).reshape(shape)
    edge = [
        np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1),
        np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1),
    ]
    for c in range(shape[2]):
        for d in range(c + 1, shape[2]):
            edge.append(np.stack([number[:, :, c].ravel(), number[:, :, d].ravel()], axis=1))
    return np.concatenate(edge)


def join_signs(value: Float32, shape: tuple[int, int, int]) -> Float32:
    """Make the signs of all pixels agree, along a maximum spanning tree over neighbouring pixels and channels.

    Parameters
    ----------
    value : float32 (images, pixels)
        Images whose pixels have each one common unknown sign.
    shape : (h, w, channels)

    Returns
    -------
    float32 (images, pixels)
        The same with one unknown sign for everything together.
    """
    edge = _neighbour_edges(shape)
    agreement = _edge_weights(np.ascontiguousarray(value.T), edge)
    order = np.argsort(-np.abs(agreement), kind="stable")
    sign = _spanning_signs(value.shape[1], edge, agreement, order)
    return value * sign.astype(np.float32)


def retrieve(encryption: Float32, slots: Slots, assignment: Int64) -> Float32:
    """A first estimate of all private images, up to one sign, from squares of the encryptions.

    Parameters
    ----------
    encryption : float32 (n, h, w, channels)
    slots : Slots
    assignment : int64 (n, 2)

    Returns
    -------
    float32 (images, h, w, channels)
        All images, or all their negatives.
    """
    flat = np.ascontiguousarray(encryption, np.float32).reshape(len(encryption), -1)
    pair, total, weight = _pair_products(flat, slots, assignment)
    value = np.empty((slots.n_images, flat.shape[1]), np.float32)
    start = _start_vector(slots.n_images)
    in_blocks(_power_iteration, flat.shape[1], pair, total, weight, start, _ROUNDS, value, block=_BLOCK)
    height, width, channels = encryption.shape[1:]
    value = join_signs(value, (height, width, channels))
    return value.reshape((slots.n_images, height, width, channels))
