"""Slots read from labels, scores equal to the squared residuals they stand for, and the assignment."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from instahide_nb.attacks.mixtures import Fit, Mixtures, fit, influence
from instahide_nb.attacks.unmask import matching as module
from instahide_nb.attacks.unmask.matching import (
    Slots,
    assign,
    match,
    matched_filter,
    pair_scores,
    read_slots,
    square_lengths,
)
from instahide_nb.attacks.unmask.smoothness import RADIUS, Moments, smoothness
from instahide_nb.core.errors import InputError


def random_labels(size: list[int], epochs: int, seed: int) -> np.ndarray:
    """Labels of epochs in which every image is once first and once second."""
    rng = np.random.default_rng(seed)
    image_class = np.repeat(np.arange(len(size)), size)
    n = len(image_class)
    label = np.zeros((epochs, n, len(size)))
    for rows in label:
        for _ in range(2):
            np.add.at(rows, (np.arange(n), image_class[rng.permutation(n)]), rng.uniform(0.1, 0.4, n))
    return label.reshape(-1, len(size))


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 4), st.integers(0, 99))
def test_slots_hold_the_label_and_show_classes_and_epochs(size: list[int], epochs: int, seed: int) -> None:
    label = random_labels(size, epochs, seed)
    assume(((label > 0).sum(axis=1) == 2).any())
    slots = read_slots(label, sum(size))
    assert np.diff(slots.start).tolist() == size
    assert slots.epoch.tolist() == np.repeat(np.arange(epochs), sum(size)).tolist()
    again = np.zeros_like(label)
    np.add.at(again, (np.arange(len(label))[:, None], slots.image_class), slots.coefficient)
    assert np.allclose(again, label, atol=1e-6)
    assert (slots.coefficient[:, 0] >= slots.coefficient[:, 1]).all()


def test_shuffled_or_missing_rows_have_no_epochs() -> None:
    label = random_labels([5, 5], 10, 0)
    for other in (label[np.random.default_rng(0).permutation(len(label))], label[:-1]):
        assert (read_slots(other, 10).epoch == -1).all()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full((8, 3), 0.2), "one or two"),
        (np.zeros((8, 3)), "one or two"),
        (-np.eye(3)[[0, 1, 2, 0, 1, 2]], "one or two"),
        (np.eye(3)[[0, 1, 2, 0, 1, 2]], "not coefficients"),
        (np.linspace(0.3, 0.9, 8)[:, None], "two classes"),
        (np.array([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]] * 4), "not coefficients"),
        (random_labels([1, 1, 1, 1], 3, 0), "n_private"),
    ],
)
def test_unsuitable_labels_are_refused(label: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_slots(label, 3)


def test_assignment_finds_the_best_of_all_in_an_epoch() -> None:
    nothing, both = np.zeros((2, 2), np.int64), np.ones(2, bool)
    slots = Slots(nothing, np.full((2, 2), 0.3, np.float32), both, np.array([0, 2]), np.zeros(2, np.int64))
    score = np.random.default_rng(3).normal(size=(2, 2, 2)).astype(np.float32)

    def value(found: np.ndarray) -> float:
        return float(np.take_along_axis(score, found.reshape(2, 2, 1), axis=2).sum())

    found = assign(slots, score)
    assert sorted(found.ravel()) == [0, 0, 1, 1]
    assert np.isclose(value(found), max(value(np.array(o)) for o in set(permutations([0, 0, 1, 1]))))


@pytest.mark.parametrize("epochs", [True, False])
def test_images_stay_in_their_class_and_fill_two_slots_of_each_epoch(epochs: bool) -> None:
    label = random_labels([4, 3], 5, 1)
    slots = read_slots(label if epochs else label[:-1], 7)
    score = np.random.default_rng(2).normal(size=(len(slots.shared), 2, 4)).astype(np.float32)
    score[..., 3][slots.image_class == 1] = module._NOTHING
    found = assign(slots, score)
    assert np.array_equal((found >= 4).astype(int), slots.image_class)
    if epochs:
        for rows in found.reshape(5, -1):
            assert np.bincount(rows, minlength=7).tolist() == [2] * 7
    else:
        assert np.array_equal(slots.within(found), score.argmax(axis=2))


def identity(planes: int = 3) -> Moments:
    covariance = np.zeros((planes, planes, 4 * RADIUS + 1, 4 * RADIUS + 1))
    covariance[np.arange(planes), np.arange(planes), 2 * RADIUS, 2 * RADIUS] = 1
    return Moments(np.zeros(planes, np.float32), covariance)


LOCAL = smoothness(identity(), 8, 8, 0.0)


def setting(
    noise: float, sizes: tuple[int, int] = (3, 3)
) -> tuple[Slots, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slots of 40 rows, centred images of two classes, true pairs and coefficients, and centred rows."""
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (sum(sizes), 3, 8, 8)).astype(np.float32)
    image_class = np.array([[0, 1], [1, 0], [0, 0], [1, 1]] * 10)
    shared = image_class[:, 0] == image_class[:, 1]
    first = rng.integers(0, np.array(sizes)[image_class[:, 0]])
    second = rng.integers(0, np.array(sizes)[image_class[:, 1]])
    second = np.where(shared & (first == second), (second + 1) % np.array(sizes)[image_class[:, 1]], second)
    pair = np.stack([first, second], axis=1) + image_class * sizes[0]
    true = np.sort(rng.uniform(0.1, 0.4, (40, 2)).astype(np.float32), axis=1)[:, ::-1]
    x = (true[:, :, None, None, None] * image[pair]).sum(axis=1)
    x = (x + noise * rng.normal(size=x.shape)).astype(np.float32)
    known = np.where(shared[:, None], true.mean(axis=1, keepdims=True), true).astype(np.float32)
    start = np.cumsum([0, *sizes])
    return Slots(image_class, known, shared, start, np.full(40, -1)), image, pair, true, x


@pytest.mark.parametrize("sizes", [(3, 3), (20, 18)])
def test_best_pair_is_the_true_one_and_splits_are_found(sizes: tuple[int, int]) -> None:
    """Also where classes are so large that not every pair is tried."""
    slots, image, pair, true, x = setting(0.02, sizes)
    scale = np.full(40, 0.01, np.float32)
    found = match(x.__getitem__, image, scale, LOCAL, slots)
    assert np.array_equal(found.assignment, pair)
    assert np.allclose(found.coefficient, true, atol=0.03)
    score, _ = pair_scores(slots, *matched_filter(x.__getitem__, image, LOCAL, slots), scale)
    assert np.array_equal(score.argmax(axis=2), slots.within(pair))
    assert (
        (score < -1e29) == (np.arange(max(sizes)) >= np.diff(slots.start)[slots.image_class][:, :, None])
    ).all()
    assert (found.margin(slots) > 0).all()


def test_scores_are_differences_of_squared_residuals_beside_the_given_partner() -> None:
    slots, image, pair, _, x = setting(0.1)
    product, gram = matched_filter(x.__getitem__, image, LOCAL, slots)
    score, split = pair_scores(slots, product, gram, np.full(40, 0.3, np.float32), pair)
    for i, slot in np.ndindex(8, 2):
        for j in range(slots.start[slots.image_class[i, slot]], slots.start[slots.image_class[i, slot] + 1]):
            if slots.shared[i] and j != pair[i, slot]:
                continue
            held = pair[i].copy()
            held[slot] = j
            left = x[i] - (split[i, :, None, None, None] * image[held]).sum(axis=0)
            gain = ((x[i] ** 2).sum() - (left**2).sum()) / (2 * 0.3)
            place = j - slots.start[slots.image_class[i, slot]]
            assert np.isclose(score[i, slot, place], gain, rtol=1e-3, atol=0.05)


def test_products_are_with_the_images_of_each_slots_class(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, image, _, _, x = setting(0.1, (2, 4))
    product, gram = matched_filter(x.__getitem__, image, LOCAL, slots)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert np.array_equal(product, matched_filter(x.__getitem__, image, LOCAL, slots)[0])
    flat = image.reshape(6, -1)
    own = (np.repeat([0, 1], [2, 4]) == slots.image_class[:, :, None]).any(axis=1)
    assert np.allclose(product, np.where(own, x.reshape(40, -1) @ flat.T, 0), atol=0.05)
    assert np.allclose(gram, flat @ flat.T, atol=0.05)
    assert np.allclose(square_lengths(x.__getitem__, 40, LOCAL), (x**2).sum(axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(("size", "error"), [(16, (1e-4, 1)), (17, (0, 1e-4))])
def test_products_of_large_classes_are_fine(size: int, error: tuple[float, float]) -> None:
    """Rounding to 12 bits decided between images that look alike: a class of more than sixteen gets 26."""
    slots, image, _, _, x = setting(0.1, (size, 1))
    product, _ = matched_filter(x.__getitem__, image, LOCAL, slots)
    whole = x.reshape(40, -1).astype(np.float64) @ image.reshape(len(image), -1).T
    assert error[0] < np.abs(product - whole)[product != 0].max() < error[1]


def test_scores_are_those_by_images_fitted_without_the_encryption() -> None:
    slots, _, pair, true, x = setting(0.5)
    mixtures, flat, one = Mixtures(pair, true.copy(), 6), x.reshape(40, -1), np.ones(40, np.float32)
    nothing, square = np.zeros(flat.shape[1]), square_lengths(x.__getitem__, 40, LOCAL)

    def scores(weight: np.ndarray, left_out: bool) -> np.ndarray:
        image = fit(flat, mixtures, weight, nothing, 1e-9).astype(np.float32).reshape(6, 3, 8, 8)
        own = Fit(image, mixtures, influence(mixtures, weight, 1e-9)) if left_out else None
        return pair_scores(
            slots, *matched_filter(x.__getitem__, image, LOCAL, slots), one, None, own, square
        )[0]

    quick, with_it = scores(np.ones(40), True), scores(np.ones(40), False)
    for i in (0, 7, 21):
        slow = scores((np.arange(40) != i).astype(float), False)[i]
        near = {"rtol": 0.02, "atol": 0.02 * np.abs(slow).max()}
        assert np.allclose(quick[i], slow, **near)
        assert not np.allclose(with_it[i], slow, **near)
