"""Products of rounded factors are exact, whatever the order; Cholesky factors and solutions are numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.attacks.exact import factor, integer_product, integers, inverse, solve, solve_columns, whole_product


def lengths(table: np.ndarray) -> np.ndarray:
    return np.sqrt((table.astype(np.float64) ** 2).sum(axis=1))


@given(st.integers(0, 1000), st.integers(1, 400), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_rows_are_rounded_to_integers_of_a_bounded_length(seed: int, d: int, kind: type, fine: bool) -> None:
    rng = np.random.default_rng(seed)
    table = (rng.normal(size=(6, d)) * 10.0 ** rng.integers(-9, 9, (6, 1))).astype(kind)
    table[0] = 0
    table[1, 1:] = 0  # the whole length in one value
    whole, scale = integers(table, fine)
    most = 2.0 ** (26 if fine else 12)
    assert whole.dtype == (np.float64 if fine else np.float32)
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole - table * scale[:, None]).max() <= 0.5001
    assert (lengths(whole) <= most * (1 + 1e-7)).all()
    assert (lengths(whole)[2:] > most * (1 - 1e-7) - np.sqrt(d) - 1).all()  # and no bit is wasted


@given(st.integers(0, 1000))
def test_products_are_those_of_the_integers_without_any_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(4, 300)).astype(np.float32), rng.normal(size=(5, 300)).astype(np.float32)
    b[0] = a[0]  # the largest product there can be
    (qa, scale_a), (qb, scale_b) = integers(a), integers(b)
    whole = qa.astype(np.int64) @ qb.astype(np.int64).T
    assert np.abs(whole).max() <= 2**24
    assert np.array_equal(whole_product(qa, qb), whole)
    assert np.array_equal(integer_product(a, b), whole / (scale_a[:, None] * scale_b))


@pytest.mark.parametrize(("fine", "least", "most"), [(False, 1e-6, 1e-3), (True, 0, 1e-7)])
def test_products_keep_12_or_26_bits(fine: bool, least: float, most: float) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(200, 3072)).astype(np.float32), rng.normal(size=(30, 3072)).astype(np.float32)
    error = np.abs(integer_product(a, b, fine) - a.astype(np.float64) @ b.T.astype(np.float64))
    assert least < (error / (lengths(a)[:, None] * lengths(b))).max() < most
    assert integer_product(np.zeros((2, 5), np.float32), np.ones((3, 5))).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_factors_and_solutions_are_those_of_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    root, right = rng.normal(size=(n, n + 3)), rng.normal(size=(n, 600))
    matrix = root @ root.T
    lower = factor(matrix)
    assert np.allclose(lower, np.linalg.cholesky(matrix))
    assert np.allclose(solve(lower, right), np.linalg.solve(matrix, right))
    assert np.array_equal(solve_columns(lower, right), solve(lower, right))
    assert np.array_equal(inverse(lower), inverse(lower).T)
    assert np.allclose(inverse(lower) @ matrix, np.eye(n), atol=1e-8)
