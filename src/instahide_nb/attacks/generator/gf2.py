"""Linear equations over GF(2), 64 to a machine word.

The matrix is factorised by the method of the four Russians (Albrecht, Bard and Hart, "Algorithm 898: Efficient
multiplication of dense matrices over GF(2)", ACM TOMS 37(1), 2010), 64 columns at a time. Each row below adds its
combination of the 64 pivot rows, looked up in eight tables of 256 sums. Eliminated entries hold the multipliers, so
right-hand sides can be reduced later. Dependent rows reduce to zero. They are the checks: a right-hand side is
consistent if its entries in these rows reduce to zero too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instahide_nb.core.arrays import Int64, UInt8, UInt64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.progress import progress

_TILE = 16  # words: eight tables of 256 rows of 16 words fit in the second-level cache


@dataclass(frozen=True)
class Factorisation:
    """A factorised system of m equations.

    `tiles` (ceil(words / 16), m, 16) are the factors: each tile is 16 words of all rows, so that a pass over these
    columns reads memory in order. Row i belongs to equation ``order[i]``. The first `rank` rows are pivot rows; `pivot`
    holds their columns, ascending.
    """

    tiles: UInt64
    order: Int64
    pivot: Int64

    @property
    def rank(self) -> int:
        """Number of independent equations."""
        return len(self.pivot)

    def solve(self, right: UInt8) -> UInt64 | None:
        """The solution for right-hand sides (m,), packed like a row and padded; None if a check fails."""
        solution = np.zeros((len(self.tiles), _TILE), np.uint64)
        consistent = _solve(self.tiles, self.pivot, right[self.order].astype(np.uint8), solution)
        return solution.ravel() if consistent else None


@kernel
def _panel(tiles: UInt64, order: Int64, pivot: Int64, word: int, rank: int, panel: UInt64, multiplier: UInt64) -> int:
    """Eliminate within one word of columns; fills `multiplier` and returns the new rank."""
    m = len(order)
    own, place = tiles[word // _TILE], word % _TILE
    first = rank
    for i in range(first, m):
        panel[i] = own[i, place]
        multiplier[i] = np.uint64(0)
    for bit in range(64):
        shift = np.uint64(bit)
        chosen = rank
        while chosen < m and not (panel[chosen] >> shift) & np.uint64(1):
            chosen += 1
        if chosen == m:
            continue
        if chosen != rank:
            for t in range(len(tiles)):
                for c in range(_TILE):
                    tiles[t, chosen, c], tiles[t, rank, c] = tiles[t, rank, c], tiles[t, chosen, c]
            order[chosen], order[rank] = order[rank], order[chosen]
            panel[chosen], panel[rank] = panel[rank], panel[chosen]
            multiplier[chosen], multiplier[rank] = multiplier[rank], multiplier[chosen]
        pivot[rank] = 64 * word + bit
        row, found = panel[rank], np.uint64(rank - first)
        for i in range(rank + 1, m):
            odd = (panel[i] >> shift) & np.uint64(1)
            panel[i] ^= row & (np.uint64(0) - odd)
            multiplier[i] |= odd << found
        rank += 1
    for i in range(first, m):
        kept = panel[i]
        for p in range(first, rank):
            kept |= ((multiplier[i] >> np.uint64(p - first)) & np.uint64(1)) << np.uint64(pivot[p] & 63)
        own[i, place] = kept
    return rank


@kernel
def _trailing(tile: UInt64, low: int, first: int, rank: int, multiplier: UInt64, table: UInt64) -> None:
    """Apply the multipliers of pivot rows first .. rank-1 to a tile, from its word `low` on."""
    m = len(tile)
    tables = (rank - first + 7) // 8
    for a in range(first, rank):
        for b in range(first, a):
            if (multiplier[a] >> np.uint64(b - first)) & np.uint64(1):
                for c in range(low, _TILE):
                    tile[a, c] ^= tile[b, c]
    for t in range(tables):
        for c in range(_TILE):
            table[t, 0, c] = np.uint64(0)
        for bit in range(8):
            p = first + 8 * t + bit
            half = 1 << bit
            for v in range(half):
                for c in range(_TILE):
                    more = tile[p, c] if p < rank and c >= low else np.uint64(0)
                    table[t, half + v, c] = table[t, v, c] ^ more
    for i in range(rank, m):
        target = tile[i]
        combination = multiplier[i]
        for t in range(tables):
            added = table[t, (combination >> np.uint64(8 * t)) & np.uint64(255)]
            for c in range(_TILE):
                target[c] ^= added[c]


def factorise(rows: UInt64) -> Factorisation:
    """Factorise a system over GF(2): a row (m, words) per equation, column c at bit ``c % 64`` of word ``c // 64``."""
    m, words = rows.shape
    tiles = np.zeros((-(-words // _TILE), m, _TILE), np.uint64)
    for t in range(len(tiles)):
        tiles[t, :, : min(_TILE, words - t * _TILE)] = rows[:, t * _TILE : (t + 1) * _TILE]
    del rows  # freed here unless the caller keeps it
    order = np.arange(m)
    pivot = np.empty(min(m, 64 * words), np.int64)
    panel, multiplier = np.empty(m, np.uint64), np.empty(m, np.uint64)
    table = np.empty((8, 256, _TILE), np.uint64)
    rank = 0
    for word in progress(range(words), desc="solving over GF(2)", unit="word"):
        first = rank
        rank = _panel(tiles, order, pivot, word, rank, panel, multiplier)
        own = word // _TILE
        for t in range(own, len(tiles) if rank > first else own):
            low = word % _TILE + 1 if t == own else 0
            if low < _TILE:
                _trailing(tiles[t], low, first, rank, multiplier, table)
        if rank == m:
            break
    return Factorisation(tiles, order, pivot[:rank].copy())


@kernel
def _parity(tiles: UInt64, i: int, other: UInt64) -> np.uint8:
    """Parity of (row i AND `other`)."""
    total = np.uint64(0)
    for t in range(len(tiles)):
        for c in range(_TILE):
            total ^= tiles[t, i, c] & other[t, c]
    for shift in (32, 16, 8, 4, 2, 1):
        total ^= total >> np.uint64(shift)
    return np.uint8(total & np.uint64(1))


@kernel
def _solve(tiles: UInt64, pivot: Int64, right: UInt8, solution: UInt64) -> bool:
    """Forward substitution, with multipliers to the left of each pivot; back substitution if all checks are zero."""
    known = np.zeros_like(solution)
    words, known_words = solution.reshape(-1), known.reshape(-1)
    for i in range(len(right)):
        right[i] ^= _parity(tiles, i, known)
        if right[i]:
            if i >= len(pivot):
                return False
            known_words[pivot[i] >> 6] |= np.uint64(1) << np.uint64(pivot[i] & 63)
    for i in range(len(pivot) - 1, -1, -1):
        if right[i] ^ _parity(tiles, i, solution):
            words[pivot[i] >> 6] |= np.uint64(1) << np.uint64(pivot[i] & 63)
    return True
