"""The matched filter: exact products, and scores equal to the squared residuals they stand for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from instahide_nb.attack.assignment import Slots
from instahide_nb.attack.matched_filter import integer_product, matched_filter, pair_scores
from instahide_nb.attack.smoothness import RADIUS, PublicModel, smoothness


def identity_model() -> PublicModel:
    covariance = np.zeros((3, 3, 4 * RADIUS + 1, 4 * RADIUS + 1))
    for c in range(3):
        covariance[c, c, 2 * RADIUS, 2 * RADIUS] = 1
    return PublicModel(np.full(3, 0.1, np.float32), covariance)


def setting(noise: float) -> tuple[Slots, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (6, 3, 8, 8)).astype(np.float32)
    image_class = np.array([[0, 1], [1, 0], [0, 0], [1, 1]] * 10)
    shared = image_class[:, 0] == image_class[:, 1]
    pair = np.where(image_class == 0, rng.integers(0, 3, (40, 2)), rng.integers(3, 6, (40, 2)))
    again = pair[:, 0] == pair[:, 1]
    pair[again, 1] = np.where(pair[again, 1] % 3 == 0, pair[again, 1] + 1, pair[again, 1] - 1)
    true = np.sort(rng.uniform(0.1, 0.4, (40, 2)).astype(np.float32), axis=1)[:, ::-1]
    rest = 1 - true.sum(axis=1)[:, None, None, None]
    x = (true[:, :, None, None, None] * image[pair]).sum(axis=1) + rest * np.float32(0.1)
    x = x + noise * rng.normal(size=x.shape)
    known = np.where(shared[:, None], true.mean(axis=1, keepdims=True), true).astype(np.float32)
    slots = Slots(image_class, known, shared, np.array([0, 3, 6]), np.full(40, -1))
    return slots, image, pair, true, x.astype(np.float32)


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


def test_best_pair_is_the_true_one_and_splits_are_found() -> None:
    slots, image, pair, true, x = setting(0.02)
    local = smoothness(identity_model(), 8, 8, 0.0)
    product, gram = matched_filter(x, image, np.full(3, 0.1, np.float32), local)
    scale = np.full(40, 0.01, np.float32)
    score, _ = pair_scores(slots, product, gram, scale)
    assert np.array_equal(score.argmax(axis=2), pair)
    _, split = pair_scores(slots, product, gram, scale, pair)
    assert np.allclose(split, true, atol=0.03)


def test_scores_are_differences_of_squared_residuals() -> None:
    slots, image, pair, _, x = setting(0.1)
    local = smoothness(identity_model(), 8, 8, 0.0)
    product, gram = matched_filter(x, image, np.full(3, 0.1, np.float32), local)
    scale = np.full(40, 0.3, np.float32)
    score, split = pair_scores(slots, product, gram, scale, pair)
    centred = x - 0.1
    for i in range(8):
        for j in range(slots.start[slots.image_class[i, 0]], slots.start[slots.image_class[i, 0] + 1]):
            lam = split[i]
            if slots.shared[i] and j != pair[i, 0]:
                continue
            left = centred[i] - lam[0] * (image[j] - 0.1) - lam[1] * (image[pair[i, 1]] - 0.1)
            gain = ((centred[i] ** 2).sum() - (left**2).sum()) / (2 * 0.3)
            assert np.isclose(score[i, 0, j], gain, rtol=1e-3, atol=0.05)


def test_images_of_other_classes_are_impossible() -> None:
    slots, image, _, _, x = setting(0.1)
    local = smoothness(identity_model(), 8, 8, 0.0)
    product, gram = matched_filter(x, image, np.full(3, 0.1, np.float32), local)
    score, _ = pair_scores(slots, product, gram, np.ones(40, np.float32))
    assert (score[0, 0, 3:] < -1e29).all()
    assert (score[0, 1, :3] < -1e29).all()
