"""Products of rounded factors: the same bits in any order, and close to the products they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.attack.exact_product import integer_mix, integer_product


@given(st.integers(0, 1000))
def test_integer_products_do_not_depend_on_the_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(4, 300)).astype(np.float32), rng.normal(size=(5, 300)).astype(np.float32)
    order = rng.permutation(300)
    product = integer_product(a, b)
    assert np.array_equal(product, integer_product(a[:, order], b[:, order]))
    assert np.allclose(product, a.astype(float) @ b.T.astype(float), atol=1e-3)


def test_a_product_with_nothing_is_zero() -> None:
    assert (
        integer_product(np.zeros((2, 5), np.float32), np.ones((3, 5), np.float32)).tolist() == [[0] * 3] * 2
    )


@given(st.integers(0, 1000))
def test_mixes_do_not_depend_on_the_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, row = rng.normal(size=(4, 60)), rng.normal(size=(60, 50)).astype(np.float32)
    order = rng.permutation(60)
    mixed = integer_mix(weight, row)
    assert np.array_equal(mixed, integer_mix(weight[:, order], row[order]))
    assert np.allclose(mixed, weight @ row.astype(float), atol=1e-4)
