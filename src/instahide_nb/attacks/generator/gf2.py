"""Linear equations over GF(2), 64 to a machine word, some of whose right-hand sides may be wrong.

The matrix is factorised once, as the "method of the four Russians" does it (Albrecht, Bard and Hart,
"Algorithm 898: Efficient multiplication of dense matrices over GF(2)", ACM TOMS 37(1), 2010): 64 columns at a time,
the rows below taking their combination of 64 pivot rows from eight tables of 256 sums. As in an LU factorisation the
places that become zero keep the multipliers, so right-hand sides are reduced afterwards, and the rows that depend on
others remain as checks: with a right-hand side that is right, each of them reduces to zero. When some do not, the
pattern of those that fail (the syndrome) says which few equations are wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from instahide_nb.core.progress import progress

__all__ = ["CHECKS", "Factorisation", "factorise", "find_errors", "parities"]

CHECKS = 128
"""Bits of a syndrome."""

_TILE = 16  # words: eight tables of 256 rows of them stay in the second-level cache

Bits = npt.NDArray[np.uint8]
Packed = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Factorisation:
    """A factorised system of m equations; see :func:`factorise`.

    Attributes
    ----------
    tiles : (words / 16, m, 16) uint64 array
        Factors, 16 words of all rows together, so that a pass over some columns reads memory in order. Row i belongs
        to equation ``order[i]``; the first `rank` rows are the pivot rows.
    order : (m,) int64 array
        Which equation each row belongs to.
    pivot : (rank,) int64 array
        The column of each pivot row's pivot, ascending.
    words : int
        Words of a row.
    """

    tiles: Packed
    order: npt.NDArray[np.int64]
    pivot: npt.NDArray[np.int64]
    words: int

    @property
    def rank(self) -> int:
        """How many equations are independent."""
        return len(self.pivot)

    def reduce(self, right: Bits) -> tuple[Bits, Bits]:
        """Reduced right-hand sides: those of the pivot rows, and those of the checks, which should all be zero.

        Parameters
        ----------
        right : (m,) uint8 array
            Right-hand sides, in the order of the equations that were factorised.
        """
        reduced = right[self.order].astype(np.uint8)
        _reduce(self.tiles, self.pivot, reduced)
        return reduced[: self.rank], reduced[self.rank :]

    def solve(self, right: Bits) -> Packed:
        """The solution of the pivot equations, columns without a pivot being zero; (words,) uint64."""
        solution = np.zeros((len(self.tiles), _TILE), np.uint64)
        _substitute(self.tiles, self.pivot, self.reduce(right)[0], solution)
        return solution.ravel()[: self.words]

    def syndrome(self, right: Bits) -> Packed:
        """Which checks fail, see :meth:`check_columns`; (2,) uint64."""
        failing = self.reduce(right)[1].astype(bool)
        return np.bitwise_xor.reduce(self._marks()[failing], axis=0, initial=np.uint64(0))

    def check_columns(self) -> Packed:
        """Which checks each equation takes part in.

        The redundant rows are added up to :data:`CHECKS` checks, each of them a random half, so that an equation that
        takes part in any redundant row takes part in about half of the checks.

        Returns
        -------
        (m, 2) uint64 array
            The syndrome that the equation has when it alone is wrong.
        """
        columns = np.zeros((len(self.order), CHECKS // 64), np.uint64)
        columns[self.rank :] = self._marks()
        _check_columns(self.tiles, self.pivot, columns)
        placed = np.empty_like(columns)
        placed[self.order] = columns
        return placed

    def _marks(self) -> Packed:
        """The checks that each redundant row is added to, as bits."""
        shape = (len(self.order) - self.rank, CHECKS // 64)
        return np.random.default_rng(0).integers(0, 2**64, size=shape, dtype=np.uint64)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _swap_rows(tiles: Any, i: int, j: int) -> None:
    for t in range(len(tiles)):
        for c in range(_TILE):
            kept = tiles[t, i, c]
            tiles[t, i, c] = tiles[t, j, c]
            tiles[t, j, c] = kept


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _panel(tiles: Any, order: Any, pivot: Any, word: Any, rank: Any, panel: Any, multiplier: Any) -> Any:
    """Eliminate within one word of columns; returns the new rank. Multipliers are noted, to be applied later."""
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
            _swap_rows(tiles, chosen, rank)
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


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _trailing(tile: Any, low: Any, first: Any, rank: Any, multiplier: Any, table: Any) -> None:
    """Apply the multipliers of one panel to a tile, from its word `low` on."""
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


def factorise(rows: Packed) -> Factorisation:
    """Factorise a system over GF(2).

    Parameters
    ----------
    rows : (m, words) uint64 array
        One equation a row, column c at bit ``c % 64`` of word ``c // 64``.

    Returns
    -------
    Factorisation

    Examples
    --------
    Three equations in two unknowns, a = 1, b = 0, a + b = 1, the third being a check:

    >>> system = factorise(np.array([[1], [2], [3]], np.uint64))
    >>> system.rank
    2
    >>> right = np.array([1, 0, 1], np.uint8)
    >>> system.solve(right), system.reduce(right)[1]
    (array([1], dtype=uint64), array([0], dtype=uint8))
    """
    m, words = rows.shape
    tiles = np.zeros((-(-words // _TILE), m, _TILE), np.uint64)
    for t in range(len(tiles)):
        tiles[t, :, : min(_TILE, words - t * _TILE)] = rows[:, t * _TILE : (t + 1) * _TILE]
    del rows  # a caller that does not keep it frees it here
    order = np.arange(m)
    pivot = np.empty(min(m, 64 * words), np.int64)
    panel, multiplier = np.empty(m, np.uint64), np.empty(m, np.uint64)
    table = np.empty((8, 256, _TILE), np.uint64)
    rank = 0
    for word in progress(range(words), desc="solving over GF(2)", unit="word"):
        first = rank
        rank = int(_panel(tiles, order, pivot, word, rank, panel, multiplier))
        own = word // _TILE
        for t in range(own, len(tiles) if rank > first else own):
            low = word % _TILE + 1 if t == own else 0
            if low < _TILE:
                _trailing(tiles[t], low, first, rank, multiplier, table)
        if rank == m:
            break
    return Factorisation(tiles, order, pivot[:rank].copy(), words)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _folded(total: Any) -> Any:
    """The parity of a word's bits."""
    for shift in (32, 16, 8, 4, 2, 1):
        total ^= total >> np.uint64(shift)
    return np.uint8(total & np.uint64(1))


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _parity(tiles: Any, i: Any, other: Any) -> Any:
    """The parity of row i and `other`, which is tiled likewise."""
    total = np.uint64(0)
    for t in range(len(tiles)):
        for c in range(_TILE):
            total ^= tiles[t, i, c] & other[t, c]
    return _folded(total)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _parities(rows: Any, solution: Any, out: Any) -> None:
    for i in range(len(rows)):
        total = np.uint64(0)
        for c in range(len(solution)):
            total ^= rows[i, c] & solution[c]
        out[i] = _folded(total)


def parities(rows: Packed, solution: Packed) -> Bits:
    """The right-hand sides that a solution gives.

    Examples
    --------
    >>> parities(np.array([[1], [3]], np.uint64), np.array([3], np.uint64))
    array([1, 0], dtype=uint8)
    """
    out = np.empty(len(rows), np.uint8)
    _parities(rows, solution, out)
    return out


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _set(solution: Any, column: Any) -> None:
    word = column >> 6
    solution[word // _TILE, word % _TILE] |= np.uint64(1) << np.uint64(column & 63)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _reduce(tiles: Any, pivot: Any, right: Any) -> None:
    """Forward substitution; `known` holds reduced pivots only, so of a row just its multipliers count."""
    known = np.zeros((len(tiles), _TILE), np.uint64)
    for i in range(len(right)):
        right[i] ^= _parity(tiles, i, known)
        if i < len(pivot) and right[i]:
            _set(known, pivot[i])


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _substitute(tiles: Any, pivot: Any, right: Any, solution: Any) -> None:
    """Back substitution; `solution` holds later unknowns only, so of a row just those right of its pivot count."""
    for i in range(len(pivot) - 1, -1, -1):
        if right[i] ^ _parity(tiles, i, solution):
            _set(solution, pivot[i])


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _add_row(tiles: Any, i: Any, pivot: Any, stop: Any, columns: Any) -> None:
    """Add row i of `columns` to the rows of those pivots before `stop` that row i has multipliers of."""
    for p in range(stop):
        word = pivot[p] >> 6
        odd = (tiles[word // _TILE, i, word % _TILE] >> np.uint64(pivot[p] & 63)) & np.uint64(1)
        keep = np.uint64(0) - odd
        for c in range(columns.shape[1]):
            columns[p, c] ^= columns[i, c] & keep


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _check_columns(tiles: Any, pivot: Any, columns: Any) -> None:
    """Solve (combination of pivot rows) * (their multipliers) = (multipliers of the checks), last pivot first."""
    rank = len(pivot)
    for i in range(rank, len(columns)):
        _add_row(tiles, i, pivot, rank, columns)
    for i in range(rank - 1, -1, -1):
        _add_row(tiles, i, pivot, i, columns)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _lookup(key: Any, slots: Any, column: Any) -> Any:
    """The equation whose column is `key`, or -1; open addressing."""
    size = np.uint64(len(slots) - 1)
    place = np.int64(key[0] & size)
    while slots[place] >= 0:
        other = column[slots[place]]
        if other[0] == key[0] and other[1] == key[1]:
            return slots[place]
        place = np.int64((np.uint64(place) + np.uint64(1)) & size)
    return np.int64(-1)


@nb.njit(cache=True, nogil=True)  # pragma: no cover - compiled
def _search(column: Any, syndrome: Any, slots: Any, seen: Any, found: Any) -> Any:
    """The fewest (up to three) columns that add up to the syndrome; how many, 0 when none do."""
    m = len(column)
    size = np.uint64(len(slots) - 1)
    width = np.uint64(64 * len(seen) - 1)
    for i in range(m):
        place = np.int64(column[i, 0] & size)
        while slots[place] >= 0:
            place = np.int64((np.uint64(place) + np.uint64(1)) & size)
        slots[place] = i
        hashed = (column[i, 0] >> np.uint64(32)) & width
        seen[np.int64(hashed >> np.uint64(6))] |= np.uint64(1) << (hashed & np.uint64(63))
    key = np.empty(2, np.uint64)
    key[0], key[1] = syndrome[0], syndrome[1]
    found[0] = _lookup(key, slots, column)
    if found[0] >= 0:
        return 1
    for i in range(m):
        key[0], key[1] = syndrome[0] ^ column[i, 0], syndrome[1] ^ column[i, 1]
        other = _lookup(key, slots, column)
        if other > i:
            found[0], found[1] = i, other
            return 2
    for i in range(m):
        rest = syndrome[0] ^ column[i, 0]
        for j in range(i + 1, m):
            # A small table of bits says no to most pairs.
            hashed = ((rest ^ column[j, 0]) >> np.uint64(32)) & width
            if (seen[np.int64(hashed >> np.uint64(6))] >> (hashed & np.uint64(63))) & np.uint64(1):
                key[0] = rest ^ column[j, 0]
                key[1] = syndrome[1] ^ column[i, 1] ^ column[j, 1]
                other = _lookup(key, slots, column)
                if other > j:
                    found[0], found[1], found[2] = i, j, other
                    return 3
    return 0


def find_errors(system: Factorisation, right: Bits) -> npt.NDArray[np.int64] | None:
    """Which equations are wrong, when no more than three are.

    Parameters
    ----------
    system : Factorisation
        With redundant rows: the more, the surer. With r of them, more than three errors are taken for fewer with
        a probability of about m**3 / 6 / 2**r.
    right : (m,) uint8 array
        Right-hand sides.

    Returns
    -------
    (e,) int64 array or None
        The fewest equations that explain the checks that fail, ascending; empty when all checks hold; None when more
        than three are wrong.
    """
    syndrome = system.syndrome(right)
    if not syndrome.any():
        return np.empty(0, np.int64)
    every = system.check_columns()
    taking_part = np.flatnonzero(every.any(axis=1))  # the others add nothing to a syndrome
    column = every[taking_part]
    slots = np.full(1 << int(4 * max(len(column), 1) - 1).bit_length(), -1, np.int64)
    seen, found = np.zeros(1 << 12, np.uint64), np.empty(3, np.int64)
    count = int(_search(column, syndrome, slots, seen, found))
    return np.sort(taking_part[found[:count]]) if count else None
