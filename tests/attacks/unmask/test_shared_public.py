"""Rows that share public images predict each other, and sharpen least squares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.attacks.mixtures import Mixtures, Weights, fit
from instahide_nb.attacks.unmask.shared_public import (
    by_epoch,
    parts,
    precision_of,
    regression,
)
from instahide_nb.attacks.unmask.smoothness import RADIUS, Moments, smoothness

EPOCHS, SIZE, SIDE = 8, 12, 16
N = EPOCHS * SIZE
ALONE = np.arange(2 * N).reshape(N, 2)  # no two rows share a private image
_COVARIANCE = np.zeros((3, 3, 4 * RADIUS + 1, 4 * RADIUS + 1))
_COVARIANCE[np.arange(3), np.arange(3), 2 * RADIUS, 2 * RADIUS] = 1
WHITE = smoothness(Moments(np.zeros(3, np.float32), _COVARIANCE), SIDE, SIDE, 0.0)


def residuals(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each epoch mixed from as many sources; rows and mixing matrices."""
    rng = np.random.default_rng(seed)
    mixing = np.zeros((EPOCHS, SIZE, SIZE))
    for e in range(EPOCHS):
        for _ in range(3):
            mixing[e, np.arange(SIZE), rng.permutation(SIZE)] += rng.uniform(0.1, 0.4, SIZE)
    rows = mixing @ rng.normal(size=(EPOCHS, SIZE, 3 * SIDE * SIDE))
    return rows.reshape(-1, 3, SIDE, SIDE).astype(np.float32), mixing


ROWS, MIXING = residuals()
FLAT = ROWS.reshape(N, -1).astype(np.float64)


def epoch_weights() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    expected = np.empty_like(ROWS)
    precision, scale = by_epoch(ROWS.__getitem__, SIZE, WHITE, expected)
    return precision, scale, expected.reshape(N, -1)


@pytest.mark.parametrize("row", [0, 30])
def test_expected_residuals_of_an_epoch_are_the_regressions(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_of, "__defaults__", (0.0,))
    _, scale, expected = epoch_weights()
    others = [s for s in range(row // SIZE * SIZE, row // SIZE * SIZE + SIZE) if s != row]
    fitted = np.linalg.lstsq(FLAT[others].T, FLAT[row], rcond=None)[0] @ FLAT[others]
    assert np.allclose(expected[row], fitted, atol=1e-2)
    assert np.isclose(scale[row], ((FLAT[row] - fitted) ** 2).mean(), rtol=1e-2)


@pytest.mark.parametrize("row", [0, 30])
def test_expected_residuals_of_correlated_rows_are_the_regressions(row: int) -> None:
    found = regression(ROWS, ALONE, WHITE, least=0.2, shrinkage=0.0)
    others = np.flatnonzero(found.weight[[row]].toarray())
    assert len(others) >= 3
    assert np.abs(np.corrcoef(FLAT))[row, others].min() > 0.19
    fitted = np.linalg.lstsq(FLAT[others].T, FLAT[row], rcond=None)[0] @ FLAT[others]
    assert np.allclose((found.weight @ FLAT)[row], fitted, atol=1e-2)
    assert np.isclose(found.scale[row], ((FLAT[row] - fitted) ** 2).mean(), rtol=1e-2)


def test_rows_that_share_a_source_are_found() -> None:
    chosen = regression(ROWS, ALONE, WHITE, least=0.2).weight.toarray() != 0
    truth = np.zeros((N, N), bool)
    for e, mixed in enumerate(MIXING):
        covariance, size = mixed @ mixed.T, np.sqrt((mixed**2).sum(axis=1))
        part = slice(e * SIZE, (e + 1) * SIZE)
        truth[part, part] = (covariance / np.outer(size, size) > 0.35) & ~np.eye(SIZE, dtype=bool)
    epoch = np.arange(N) // SIZE
    assert chosen[truth].mean() > 0.95
    assert chosen[epoch[:, None] != epoch].mean() < 1e-3
    assert not regression(ROWS[::SIZE], ALONE[:EPOCHS], WHITE, least=0.3).weight.nnz


@pytest.mark.parametrize("places", [1, 2, 3])
def test_rows_that_share_a_private_image_are_left_out(places: int) -> None:
    assignment = np.random.default_rng(2).integers(-1, 20, (N, places))
    row, other = regression(ROWS, assignment, WHITE).weight.nonzero()
    assert len(row)
    for r, s in zip(row, other, strict=True):
        assert not (set(assignment[r]) & set(assignment[s])) - {-1}


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 20))
def test_parts_hold_every_row_once_and_cut_no_epoch(epochs: int, together: int, whole: int) -> None:
    cut = parts(epochs * whole, together, whole)
    assert [row for part in cut for row in range(part.start, part.stop)] == list(range(epochs * whole))
    for part in cut:
        assert part.start % whole == 0
        assert part.stop - part.start <= max(together, whole)


def test_both_ways_beat_ordinary_least_squares() -> None:
    rng = np.random.default_rng(5)
    image = rng.uniform(-0.9, 0.9, (6, FLAT.shape[1])).astype(np.float32)
    mixtures = Mixtures(rng.integers(0, 6, (N, 2)), rng.uniform(0.1, 0.4, (N, 2)).astype(np.float32), 6)
    x = (mixtures.matrix @ image + FLAT).astype(np.float32)

    def error(weights: Weights) -> float:
        return float(((fit(x, mixtures, weights, np.zeros(len(x[0])), 1e-9) - image) ** 2).mean())

    assert error(epoch_weights()[0]) < 0.3 * error(np.ones(N))
    assert error(regression(ROWS, ALONE, WHITE)) < 0.5 * error(np.ones(N))
