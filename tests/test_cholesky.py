"""Cholesky factors and solutions against numpy's."""

from __future__ import annotations

import numpy as np
import pytest

from instahide_nb.attack.cholesky import factor, solve, solve_spd


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_against_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    root = rng.normal(size=(n, n + 3))
    matrix = root @ root.T
    right = rng.normal(size=(n, 4))
    assert np.allclose(factor(matrix), np.linalg.cholesky(matrix))
    assert np.allclose(solve_spd(matrix, right), np.linalg.solve(matrix, right))
    assert np.allclose(matrix @ solve(factor(matrix), right), right)


def test_a_singular_matrix_gives_finite_factors() -> None:
    assert np.isfinite(factor(np.ones((3, 3)))).all()
