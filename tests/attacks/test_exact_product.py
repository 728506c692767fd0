"""Products of rounded factors: exact, and so the same in any order, and close to the products they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.attacks.exact import integer_mix, integer_product, integers


def lengths(table: np.ndarray) -> np.ndarray:
    return np.sqrt((table.astype(np.float64) ** 2).sum(axis=1))


@given(st.integers(0, 1000), st.integers(1, 400), st.sampled_from([np.float32, np.float64]))
def test_rows_are_rounded_to_integers_of_a_bounded_length(seed: int, d: int, kind: type) -> None:
    rng = np.random.default_rng(seed)
    table = (rng.normal(size=(6, d)) * 10.0 ** rng.integers(-9, 9, (6, 1))).astype(kind)
    table[0] = 0
    table[1, 1:] = 0  # the whole length in one value
    whole, scale = integers(table)
    assert whole.dtype == np.float32
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole - table * scale[:, None]).max() <= 0.5001
    assert (lengths(whole) <= 4096).all()
    assert (lengths(whole)[2:] > 4096 - np.sqrt(d) - 1).all()  # and no bit is wasted


@given(st.integers(0, 1000))
def test_products_are_those_of_the_integers_without_any_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(4, 300)).astype(np.float32), rng.normal(size=(5, 300)).astype(np.float32)
    b[0] = a[0]  # the largest product there can be
    product = integer_product(a, b)
    (qa, scale_a), (qb, scale_b) = integers(a), integers(b)
    whole = qa.astype(np.int64) @ qb.astype(np.int64).T
    assert np.abs(whole).max() <= 2**24
    assert np.array_equal(product, whole / (scale_a[:, None] * scale_b))
    near = 1e-3 * lengths(a)[:, None] * lengths(b)
    assert (np.abs(product - a.astype(float) @ b.T.astype(float)) < near).all()


def test_a_product_with_nothing_is_zero() -> None:
    nothing = np.zeros((2, 5), np.float32)
    assert integer_product(nothing, np.ones((3, 5), np.float32)).tolist() == [[0] * 3] * 2
    assert integer_mix(np.ones((3, 2)), nothing).tolist() == [[0] * 5] * 3
    assert integer_mix(nothing[:, :2], np.ones((2, 3))).tolist() == [[0] * 3] * 2


@given(st.integers(0, 1000))
def test_mixes_are_products_with_columns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, row = rng.normal(size=(4, 60)), rng.normal(size=(60, 1500)).astype(np.float32)
    mixed = integer_mix(weight, row)
    assert np.allclose(mixed, integer_product(weight, np.ascontiguousarray(row.T)), rtol=1e-6, atol=1e-6)
    assert (
        np.abs(mixed - weight @ row.astype(float)) < 1e-3 * lengths(weight)[:, None] * lengths(row.T)
    ).all()


def test_fine_products_keep_26_bits() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(20, 3072)).astype(np.float32), rng.normal(size=(30, 3072)).astype(np.float32)
    expected = a.astype(np.float64) @ b.T.astype(np.float64)
    length = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    coarse, fine = (np.abs(integer_product(a, b, how) - expected) / length for how in (False, True))
    assert fine.max() < 1e-7
    assert 1e-6 < coarse.max() < 1e-3
    whole, _ = integers(a, fine=True)
    assert np.array_equal(whole, np.rint(whole))
    assert np.linalg.norm(whole, axis=1).max() <= 2.0**26
