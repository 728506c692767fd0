"""The matched filter: scores equal to the squared residuals they stand for."""

from __future__ import annotations

import numpy as np
from slot_tables import one_class, spread

import instahide_nb.attacks.unmask.pair_scores as module
from instahide_nb.attacks.unmask.assignment import Slots
from instahide_nb.attacks.unmask.matched_filter import matched_filter, square_lengths
from instahide_nb.attacks.unmask.pair_scores import pair_scores
from instahide_nb.attacks.unmask.smoothness import RADIUS, PublicModel, smoothness


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


def test_best_pair_is_the_true_one_and_splits_are_found() -> None:
    slots, image, pair, true, x = setting(0.02)
    local = smoothness(identity_model(), 8, 8, 0.0)
    product, gram = matched_filter(x, image, np.full(3, 0.1, np.float32), local, slots)
    scale = np.full(40, 0.01, np.float32)
    score, _ = pair_scores(slots, product, gram, scale)
    assert np.array_equal(score.argmax(axis=2), slots.within(pair))
    _, split = pair_scores(slots, product, gram, scale, pair)
    assert np.allclose(split, true, atol=0.03)


def test_scores_are_differences_of_squared_residuals() -> None:
    slots, image, pair, _, x = setting(0.1)
    local = smoothness(identity_model(), 8, 8, 0.0)
    product, gram = matched_filter(x, image, np.full(3, 0.1, np.float32), local, slots)
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
            assert np.isclose(
                score[i, 0, j - slots.start[slots.image_class[i, 0]]], gain, rtol=1e-3, atol=0.05
            )


def test_products_are_with_the_images_of_each_slots_class() -> None:
    slots, image, _, _, x = setting(0.1)
    uneven = Slots(slots.image_class, slots.coefficient, slots.shared, np.array([0, 2, 6]), slots.epoch)
    local, mean = smoothness(identity_model(), 8, 8, 0.0), np.full(3, 0.1, np.float32)
    product, gram = matched_filter(x, image, mean, local, uneven, block=7)
    centred = image.reshape(6, -1) - 0.1
    expected = (x.reshape(40, -1) - 0.1) @ centred.T
    assert product.shape == (40, 2, 4)
    assert np.allclose(gram, centred @ centred.T, atol=0.05)
    for i, slot in np.ndindex(40, 2):
        low, high = uneven.start[uneven.image_class[i, slot]], uneven.start[uneven.image_class[i, slot] + 1]
        assert np.allclose(product[i, slot, : high - low], expected[i, low:high], atol=0.05)
        assert not product[i, slot, high - low :].any()
    again, _ = matched_filter(x, image, mean, local, uneven)
    assert np.array_equal(again, product)
    score, _ = pair_scores(uneven, product, gram, np.ones(40, np.float32))
    assert ((score < -1e29) == (np.arange(4) >= np.diff(uneven.start)[uneven.image_class][:, :, None])).all()


def test_what_is_expected_is_taken_off_first() -> None:
    slots, image, _, _, x = setting(0.1)
    local, mean = smoothness(identity_model(), 8, 8, 0.0), np.full(3, 0.1, np.float32)
    expected = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    product, _ = matched_filter(x, image, mean, local, slots, expected, block=7)
    assert np.array_equal(product, matched_filter(x - expected, image, mean, local, slots)[0])
    square = square_lengths(x, mean, local, expected, block=7)
    assert np.array_equal(square, square_lengths(x - expected, mean, local))
    assert np.allclose(square, ((x - expected - 0.1) ** 2).sum(axis=(1, 2, 3)), rtol=1e-4)


def test_given_partners_are_the_only_ones_that_count() -> None:
    slots, image, pair, _, x = setting(0.1)
    local = smoothness(identity_model(), 8, 8, 0.0)
    product, gram = matched_filter(x, image, np.full(3, 0.1, np.float32), local, slots)
    scale = np.full(40, 0.3, np.float32)
    score, _ = pair_scores(slots, product, gram, scale, pair)
    score, product = spread(slots, score), spread(slots, product).sum(axis=1)
    for i in np.flatnonzero(~slots.shared):
        la, lb = slots.coefficient[i].astype(float)
        a, b = pair[i]
        for j in range(slots.start[slots.image_class[i, 1]], slots.start[slots.image_class[i, 1] + 1]):
            gain = la * product[i, a] + lb * product[i, j] - la * lb * gram[a, j]
            gain -= 0.5 * (la * la * gram[a, a] + lb * lb * gram[j, j])
            assert np.isclose(score[i, 1, j], gain / 0.3, rtol=1e-4)
        for j in range(slots.start[slots.image_class[i, 0]], slots.start[slots.image_class[i, 0] + 1]):
            gain = la * product[i, j] + lb * product[i, b] - la * lb * gram[j, b]
            gain -= 0.5 * (la * la * gram[j, j] + lb * lb * gram[b, b])
            assert np.isclose(score[i, 0, j], gain / 0.3, rtol=1e-4)


def test_in_large_classes_the_best_pair_is_still_found() -> None:
    """More images than are tried with every partner: scores are never above those of all pairs, the best are equal."""
    rng = np.random.default_rng(1)
    n, size = 60, 3 * module._LIKELY
    image = rng.uniform(-1, 1, (2 * size, 3, 8, 8)).astype(np.float32)
    image_class = np.array([[0, 1], [1, 0], [0, 0]] * (n // 3))
    pair = rng.integers(0, size, (n, 2)) + size * image_class
    coefficient = np.sort(rng.uniform(0.2, 0.5, (n, 2)).astype(np.float32), axis=1)[:, ::-1].copy()
    x = (coefficient[:, :, None, None, None] * image[pair]).sum(axis=1).astype(np.float32)
    shared = image_class[:, 0] == image_class[:, 1]
    coefficient[shared] = coefficient[shared].mean(axis=1, keepdims=True)
    slots = Slots(image_class, coefficient, shared, np.array([0, size, 2 * size]), np.full(n, -1))
    local = smoothness(identity_model(), 8, 8, 0.0)
    product, gram = matched_filter(x, image, np.zeros(3, np.float32), local, slots)
    one = np.ones(n, np.float32)
    score, _ = pair_scores(slots, product, gram, one)
    assert np.array_equal(score.argmax(axis=2), slots.within(pair))
    score, product = spread(slots, score), spread(slots, product).sum(axis=1)
    la, lb = coefficient.astype(float).T
    base = la[:, None] * product - 0.5 * (la**2)[:, None] * np.diag(gram)
    other = lb[:, None] * product - 0.5 * (lb**2)[:, None] * np.diag(gram)
    for i in np.flatnonzero(~shared):
        first = slice(size * image_class[i, 0], size * image_class[i, 0] + size)
        second = slice(size * image_class[i, 1], size * image_class[i, 1] + size)
        whole = base[i, first, None] + other[i, None, second] - la[i] * lb[i] * gram[first, second]
        tried = np.zeros((size, size), bool)
        tried[np.argsort(-base[i, first], kind="stable")[: module._LIKELY]] = True
        tried[:, np.argsort(-other[i, second], kind="stable")[: module._LIKELY]] = True
        pairs = np.where(tried, whole, -np.inf)
        assert np.allclose(score[i, 0, first], pairs.max(axis=1), rtol=1e-4, atol=1e-3)
        assert np.allclose(score[i, 1, second], pairs.max(axis=0), rtol=1e-4, atol=1e-3)
        assert np.isclose(score[i, 0].max(), whole.max(), rtol=1e-5)


def test_products_of_large_classes_are_fine() -> None:
    """Rounding to 12 bits decided between images that look alike: a class of more than sixteen gets 26."""
    rng = np.random.default_rng(4)
    local, mean = smoothness(identity_model(), 8, 8, 0.0), np.zeros(3, np.float32)
    error = []
    for size in (16, 17):
        image = rng.normal(size=(size, 3, 8, 8)).astype(np.float32)
        x = rng.normal(size=(50, 3, 8, 8)).astype(np.float32)
        product, gram = matched_filter(x, image, mean, local, one_class(50, size))
        flat = image.reshape(size, -1).astype(np.float64)
        error.append(np.abs(product[:, 0] - x.reshape(50, -1) @ flat.T).max())
        error.append(np.abs(gram - flat @ flat.T).max())
    assert min(error[:2]) > 1e-4
    assert max(error[2:]) < 1e-4
