"""Least squares: exact without noise, weighted with."""

from __future__ import annotations

import numpy as np

from instahide_nb.attacks.unmask.least_squares import add_right_side, fit_images, predict_encryptions


def mixture(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.uniform(-0.9, 0.9, (5, 30)).astype(np.float32)
    assignment = rng.integers(0, 5, (80, 2))
    coefficient = rng.uniform(0.1, 0.4, (80, 2)).astype(np.float32)
    mean = rng.uniform(-0.2, 0.2, 30).astype(np.float32)
    return image, assignment, coefficient, mean, predict_encryptions(image, assignment, coefficient, mean)


def test_prediction_is_the_mixture() -> None:
    image, assignment, coefficient, mean, made = mixture()
    rest = 1 - coefficient.sum(axis=1, keepdims=True)
    expected = (coefficient[:, :, None] * image[assignment]).sum(axis=1) + rest * mean
    assert np.allclose(made, expected, atol=1e-6)


def test_an_unknown_image_counts_as_the_mean() -> None:
    image, assignment, coefficient, mean, _ = mixture()
    made = predict_encryptions(image, np.full_like(assignment, -1), coefficient, mean)
    assert np.allclose(made, mean, atol=1e-6)


def test_exact_mixtures_give_the_images_back() -> None:
    image, assignment, coefficient, mean, made = mixture()
    found = fit_images(made, assignment, coefficient, np.ones(80, np.float32), mean, 5, ridge=1e-9)
    assert np.allclose(found, image, atol=1e-4)


def test_rows_without_weight_or_images_do_not_count() -> None:
    image, assignment, coefficient, mean, made = mixture()
    weight = np.ones(80, np.float32)
    made[:10] += 5
    weight[:5] = 0
    assignment[5:10, 1] = -1
    found = fit_images(made, assignment, coefficient, weight, mean, 5, ridge=1e-9)
    assert np.allclose(found, image, atol=1e-4)


def test_weights_enter_as_inverse_variances() -> None:
    _, assignment, coefficient, mean, made = mixture()
    rng = np.random.default_rng(1)
    made = made + 0.01 * rng.normal(size=made.shape).astype(np.float32)
    weight = rng.uniform(0.1, 2, 80).astype(np.float32)
    design = np.zeros((80, 5))
    for i in range(80):
        for s in range(2):
            design[i, assignment[i, s]] += coefficient[i, s]
    right = made - (1 - coefficient.sum(axis=1, keepdims=True)) * mean
    expected = np.linalg.lstsq(
        np.sqrt(weight)[:, None] * design, np.sqrt(weight)[:, None] * right, rcond=None
    )[0]
    found = fit_images(made, assignment, coefficient, weight, mean, 5, ridge=1e-9)
    assert np.allclose(found, expected.clip(-1, 1), atol=1e-4)


def test_right_sides_are_sums_over_the_rows_that_hold_an_image() -> None:
    _, assignment, coefficient, mean, made = mixture()
    weight = np.random.default_rng(2).uniform(0.1, 2, 80).astype(np.float32)
    assignment[3], assignment[4, 0], weight[5] = -1, -1, 0
    assignment[6, 1] = assignment[6, 0]  # an image may fill both slots
    expected = np.ones((5, 30))
    for i in range(80):
        if (assignment[i] >= 0).all():
            for slot in range(2):
                row = made[i] - (1 - coefficient[i].sum()) * mean
                expected[assignment[i, slot]] += weight[i] * coefficient[i, slot] * row
    out = np.ones((5, 30))
    add_right_side(made, assignment, coefficient, weight, mean, out)
    assert np.allclose(out, expected, atol=1e-5)


def test_an_image_that_no_row_holds_has_an_empty_right_side() -> None:
    _, assignment, coefficient, mean, made = mixture()
    out = np.zeros((7, 30))
    add_right_side(made, assignment, coefficient, np.ones(80, np.float32), mean, out)
    assert out[:5].any()
    assert not out[5:].any()
    nothing = np.zeros((2, 30))
    add_right_side(made, np.full_like(assignment, -1), coefficient, np.ones(80, np.float32), mean, nothing)
    assert not nothing.any()
