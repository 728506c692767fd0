"""Cholesky factors and solutions against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.attacks.exact import factor, inverse, solve, solve_columns, solve_spd


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


@given(st.integers(1, 20), st.integers(0, 1000))
def test_the_inverse_is_symmetric_and_inverts(size: int, seed: int) -> None:
    a = np.random.default_rng(seed).normal(size=(size, size))
    matrix = a @ a.T + 0.1 * np.eye(size)
    found = inverse(factor(matrix))
    assert np.array_equal(found, found.T)
    assert np.allclose(found @ matrix, np.eye(size), atol=1e-8)


def test_columns_are_solved_as_all_together() -> None:
    rng = np.random.default_rng(3)
    root, right = rng.normal(size=(30, 40)), rng.normal(size=(30, 600))
    lower = factor(root @ root.T)
    assert np.array_equal(solve_columns(lower, right), solve(lower, right))
