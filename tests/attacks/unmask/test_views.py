"""Images either way round: one fit of images and mirror images, and one way round per image and epoch."""

from __future__ import annotations

import numpy as np

from instahide_nb.attacks.mixtures import Mixtures, fit, influence, predictions
from instahide_nb.attacks.unmask.codes import Products, assign_epochs, code
from instahide_nb.attacks.unmask.constraints import Known
from instahide_nb.attacks.unmask.edges import edge_features
from instahide_nb.attacks.unmask.views import (
    EDGE_PLANES,
    better_mirrored,
    both_ways,
    fit_views,
    image_of,
    mirrored,
)

RNG = np.random.default_rng(5)
N, ROWS = 4, 60
IMAGE = RNG.uniform(-1, 1, (N, 3, 5, 6)).astype(np.float32)
MIXED = Mixtures(RNG.integers(0, 2 * N, (ROWS, 2)), RNG.uniform(0.1, 0.5, (ROWS, 2)).astype(np.float32), 2 * N)


def test_images_are_recovered_from_rows_that_hold_them_either_way_round() -> None:
    both = np.concatenate([IMAGE, mirrored(IMAGE)])
    rows = predictions(MIXED, both.reshape(2 * N, -1), np.zeros(90, np.float32)).reshape(ROWS, 3, 5, 6)
    found = fit_views(rows, MIXED, np.ones(ROWS), np.zeros(90), 0.0)
    np.testing.assert_allclose(found.image, both, atol=1e-4)


def test_the_fit_is_that_of_rows_together_with_rows_in_a_mirror() -> None:
    rows, weight = RNG.normal(size=(ROWS, 3, 5, 6)).astype(np.float32) / 9, RNG.uniform(1, 2, ROWS)
    mean = np.repeat(RNG.normal(size=3), 30) / 9
    found = fit_views(rows, MIXED, weight, mean, 0.0)
    twice, weights = np.concatenate([rows, mirrored(rows)]), np.tile(weight, 2)
    whole = fit(twice.reshape(2 * ROWS, -1), both_ways(MIXED), weights, mean, 0.0)
    np.testing.assert_allclose(found.image.reshape(2 * N, -1), np.clip(whole, -1, 1), atol=1e-4)
    np.testing.assert_allclose(found.influence, influence(both_ways(MIXED), weights, 0.0)[:ROWS], atol=1e-6)


def test_a_mirror_image_has_the_edges_of_the_image_in_a_mirror() -> None:
    images = RNG.uniform(-1, 1, (30, 6, 7, 3)).astype(np.float32)
    images = np.concatenate([images, images[:, :, ::-1]])
    feature = edge_features(images, squares=True, even=True)
    np.testing.assert_allclose(feature[30:], mirrored(feature[:30], EDGE_PLANES), atol=1e-4)


def test_an_image_stands_one_way_round_in_all_its_places_of_an_epoch() -> None:
    truth = np.stack([np.arange(N), np.roll(np.arange(N), 1)], axis=1)
    turn = np.array([0, 1, 1, 0])
    score = np.zeros((N, 2, 2 * N), np.float32)
    for row, place in np.ndindex(N, 2):
        image = truth[row, place]
        score[row, place, [image, image + N]] = 5
        score[row, place, image + N * turn[image]] += 3 if place == 0 else 0
        score[row, place, image + N * (1 - turn[image])] += 1 if place == 1 else 0
    held = assign_epochs(score, np.ones(N, np.float32), N)
    np.testing.assert_array_equal(held, truth + N * turn[truth])
    other = (held + N) % (2 * N)
    assert better_mirrored(score, other, N, True).all()
    assert not better_mirrored(score, held, N, True).any()
    assert better_mirrored(score, held, N, False).any()


def test_no_row_holds_an_image_both_ways_round() -> None:
    both = np.concatenate([IMAGE, mirrored(IMAGE)]).reshape(2 * N, -1).astype(np.float64)
    rows = 0.4 * both[:N] + 0.3 * both[N:]
    found = Products(rows @ both.T, both @ both.T, (rows * rows).sum(axis=1), None)
    known = Known(2, np.zeros(2 * N, np.int64), np.ones((N, 1), bool), None, either_way=True)
    codes = code(found, known)
    images = image_of(codes.mixtures.assignment, N)
    same = codes.mixtures.assignment[:, 0] == codes.mixtures.assignment[:, 1]
    assert (same | (images[:, 0] != images[:, 1])).all()
    assert codes.margin().shape == (N, 2)
