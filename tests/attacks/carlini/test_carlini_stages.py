"""The stages of the published attack one by one: known answers, constraints, and what they may not depend on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from instahide_nb.attacks.carlini.correction import learn_cleaning, learn_colour_curve
from instahide_nb.attacks.carlini.descent import free_sign_descent
from instahide_nb.attacks.carlini.matching import Slots, dense_groups, optimal_matching, read_slots, second_similarity


def made_slots(n: int, classes: int, per_class: int, seed: int = 0) -> tuple[Slots, np.ndarray]:
    """Slots of n pairs of distinct images, and the pairs in the order of the slots."""
    rng = np.random.default_rng(seed)
    pair = np.array([rng.permutation(classes * per_class)[:2] for _ in range(n)])
    coefficient = rng.uniform(0.1, 0.45, (n, 2)).astype(np.float32)
    label = np.zeros((n, classes), np.float32)
    for s in range(2):
        label[np.arange(n), pair[:, s] // per_class] += coefficient[:, s]
    swapped = coefficient[:, 0] < coefficient[:, 1]
    pair[swapped] = pair[swapped, ::-1]
    return read_slots(label, classes * per_class), pair


def ideal_similarity(pair: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """The product of the two coefficients of a shared image, and a little noise."""
    n = len(pair)
    held = np.zeros((n, pair.max() + 1))
    for s in range(2):
        held[np.arange(n), pair[:, s]] += coefficient[:, s]
    noise = np.random.default_rng(5).normal(0, 0.005, (n, n))
    return (held @ held.T + (noise + noise.T) / 2).astype(np.float32)


def test_dense_groups_find_every_image():
    slots, pair = made_slots(600, 4, 3)
    similarity = ideal_similarity(pair, slots.coefficient)
    groups, image_class = dense_groups(similarity, slots.known)
    assert len(groups) == 12
    second = second_similarity(similarity, groups, np.ones((600, 12), bool))
    found = set()
    for g, row in enumerate(groups):
        image, count = np.unique(pair[row], return_counts=True)
        best = image[np.argmax(count)]
        found.add(best)
        assert image_class[g] == best // 3
        holds = (pair == best).any(axis=1)
        assert second[holds, g].mean() > second[~holds, g].mean() + 0.03
    assert len(found) == 12


def test_matching_respects_labels_and_capacities():
    slots, _ = made_slots(120, 3, 2)
    image_class = np.repeat(np.arange(3), 2)
    score = np.random.default_rng(2).normal(size=(120, 6)).astype(np.float32)
    found = optimal_matching(score, image_class, slots)
    assert (image_class[found] == slots.image_class).all()
    assert (found[:, 0] != found[:, 1]).all()  # never one image in both places
    held = np.bincount(found.ravel(), minlength=6)
    rows = np.bincount(slots.image_class.ravel(), minlength=3)
    limit = np.maximum(2 * 120 // 6, -(-rows // 2))
    assert (held <= limit[image_class]).all()


def test_optimal_matching_is_the_best_of_all():
    label = np.array([[0.4, 0.2], [0.3, 0.25], [0.2, 0.5], [0.35, 0.1]], np.float32)
    slots = read_slots(label, 4)
    image_class = np.array([0, 0, 1, 1])
    score = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    found = optimal_matching(score, image_class, slots)
    taken = sum(score[i, g] for i, row in enumerate(found) for g in row)
    best = 0.0
    for groups in ([0, 1], [2, 3]):  # each class: four slots, two places for each image
        best += max(
            sum(score[i, g] for i, g in enumerate(way))
            for way in itertools.product(groups, repeat=4)
            if way.count(groups[0]) == 2
        )
    assert taken == pytest.approx(best, abs=1e-6)


def descent_problem(n: int = 60, images: int = 5, width: int = 7):
    rng = np.random.default_rng(4)
    truth = rng.uniform(-1, 1, (images, width)).astype(np.float32)
    pair = np.array([rng.permutation(images)[:2] for _ in range(n)])
    coefficient = rng.uniform(0.2, 0.6, (n, 2)).astype(np.float32)
    size = np.abs((truth[pair] * coefficient[:, :, None]).sum(axis=1)).astype(np.float32)
    return truth, pair, coefficient, size


def loss(size: np.ndarray, image: np.ndarray, pair: np.ndarray, coefficient: np.ndarray) -> float:
    """The data term of the descent."""
    held = np.where((pair >= 0)[:, :, None], image[pair], 0)
    return float(((size - np.abs((held * coefficient[:, :, None]).sum(axis=1))) ** 2).mean())


def test_descent_from_nearby_finds_the_images():
    truth, pair, coefficient, size = descent_problem()
    start = truth + np.random.default_rng(0).normal(0, 0.05, truth.shape).astype(np.float32)
    found = free_sign_descent(size, pair, coefficient, start, push=0.0)
    assert np.abs(found - truth).max() < 1e-3
    assert loss(size, found, pair, coefficient) < 1e-6


def test_a_colour_curve_undoes_a_colour_cast_pixel_by_pixel():
    rng = np.random.default_rng(0)
    truth = rng.uniform(-0.9, 0.9, (20, 32, 32, 3)).astype(np.float32)
    cast = (0.5 * truth[..., ::-1] + np.array([0.2, 0.0, -0.2], np.float32)).astype(np.float32)
    curve, again = learn_colour_curve(cast, truth), learn_colour_curve(cast, truth)
    made = curve(cast)
    assert np.abs(made - truth).mean() < 0.1 * np.abs(cast - truth).mean()
    assert made.shape == truth.shape
    assert np.abs(made).max() <= 1
    assert made.tobytes() == again(cast).tobytes()
    place = rng.permutation(1024)
    mixed = cast.reshape(20, 1024, 3)[:, place].reshape(cast.shape)
    assert (made.reshape(20, 1024, 3)[:, place] == curve(mixed).reshape(20, 1024, 3)).all()


def test_cleaning_smooths_images_that_it_has_not_seen_and_looks_no_further_than_its_window():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] / 16
    wave = rng.uniform(0, 6, (12, 1, 1, 3)), rng.uniform(0, 6, (12, 1, 1, 3))
    truth = (0.7 * np.cos(wave[0] * y[:, :, None] + wave[1] * x[:, :, None])).astype(np.float32)
    noisy = (truth + rng.normal(0, 0.3, truth.shape)).astype(np.float32)
    clean = learn_cleaning(noisy[:8], truth[:8])
    made = clean(noisy[8:])
    assert ((made - truth[8:]) ** 2).mean() < 0.4 * ((noisy[8:] - truth[8:]) ** 2).mean()
    touched = noisy[8:].copy()
    touched[:, 8, 8] += 1
    changed = np.argwhere((clean(touched) != made).any(axis=(0, 3)))
    assert changed.min(axis=0).tolist() == [5, 5]
    assert changed.max(axis=0).tolist() == [11, 11]
