"""Rows that share public images predict each other, and sharpen least squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from public_residuals import GROUPS, SIDE, SIZE, residuals, white_model
from slot_tables import one_class

from instahide_nb.attacks.unmask.companions import (
    fit_images,
    predict_residuals,
    row_gram,
    row_influence,
    row_precision,
)
from instahide_nb.attacks.unmask.smoothness import Smoothness, smoothness


def grams(rows: np.ndarray, group: np.ndarray, local: Smoothness | None = None) -> np.ndarray:
    local = local or smoothness(white_model(), SIDE, SIDE, 0.0)
    return np.stack([row_gram(rows[members], local) for members in group])


def precisions(rows: np.ndarray, group: np.ndarray, shrinkage: float) -> np.ndarray:
    return row_precision(grams(rows, group), shrinkage)


def test_precision_is_the_inverse_of_the_mixing_covariance() -> None:
    rows, mixing, group = residuals()
    found = precisions(rows, group, 0.0)
    product = found @ mixing @ mixing.transpose(0, 2, 1)
    assert np.abs(np.linalg.eigvals(product).real - 1).max() < 0.6  # 768 samples for a matrix of 12 rows
    sample = (
        rows.reshape(GROUPS, SIZE, -1) @ rows.reshape(GROUPS, SIZE, -1).transpose(0, 2, 1) / (3 * SIDE * SIDE)
    )
    assert np.allclose(grams(rows, group), sample, rtol=1e-3, atol=1e-3)
    assert np.allclose(found @ grams(rows, group), np.eye(SIZE), atol=1e-2)


def test_expected_residuals_are_the_regressions() -> None:
    rows, _, group = residuals()
    precision = precisions(rows, group, 0.0)
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    for row in (0, 30):
        e, r = divmod(row, SIZE)
        assert group[e, r] == row
        expected, scale = predict_residuals(rows[group[e]], precision[e])
        others = [s for s in group[e] if s != row]
        fit = np.linalg.lstsq(flat[others].T, flat[row], rcond=None)[0] @ flat[others]
        assert np.allclose(expected[r].ravel(), fit, atol=1e-2)
        assert np.isclose(scale[r], ((flat[row] - fit) ** 2).mean(), rtol=1e-2)


def test_generalised_least_squares_beats_ordinary() -> None:
    rows, _, group = residuals()
    rng = np.random.default_rng(5)
    image = rng.uniform(-0.9, 0.9, (6, 3, SIDE, SIDE)).astype(np.float32)
    assignment = rng.integers(0, 6, (len(rows), 2))
    coefficient = rng.uniform(0.1, 0.4, (len(rows), 2)).astype(np.float32)
    x = rows + (coefficient[:, :, None, None, None] * image[assignment]).sum(axis=1)
    precision = precisions(rows, group, 1e-3)
    identity = np.broadcast_to(np.eye(SIZE), precision.shape)
    mean = np.zeros(3, np.float32)

    def error(weight: np.ndarray) -> float:
        found = fit_images(x, weight, group, assignment, coefficient, mean, 6, ridge=1e-9)
        return float(((found - image) ** 2).mean())

    assert error(precision) < 0.3 * error(identity)


def test_generalised_least_squares_solves_its_normal_equations() -> None:
    rows, _, group = residuals()
    rng = np.random.default_rng(6)
    assignment = rng.integers(0, 6, (len(rows), 2))
    coefficient = rng.uniform(0.1, 0.4, (len(rows), 2)).astype(np.float32)
    precision = precisions(rows, group, 0.1)
    mean = np.array([0.1, 0.0, -0.1], np.float32)
    design = np.zeros((len(rows), 6))
    for s in range(2):
        np.add.at(design, (np.arange(len(rows)), assignment[:, s]), coefficient[:, s])
    target = (0.05 * rows - mean[:, None, None]).reshape(len(rows), -1)
    normal, right = np.zeros((6, 6)), np.zeros((6, target.shape[1]))
    for e, members in enumerate(group):
        normal += design[members].T @ precision[e] @ design[members]
        right += design[members].T @ precision[e] @ target[members]
    expected = np.linalg.solve(normal, right).reshape(6, 3, SIDE, SIDE) + mean[:, None, None]
    found = fit_images(0.05 * rows, precision, group, assignment, coefficient, mean, 6, ridge=1e-12)
    assert np.allclose(found, expected.clip(-1, 1), atol=1e-3)


def test_influence_is_what_an_encryption_changes() -> None:
    rows, _, group = residuals()
    rng = np.random.default_rng(6)
    assignment = rng.integers(0, 6, (len(rows), 2))
    coefficient = rng.uniform(0.1, 0.4, (len(rows), 2)).astype(np.float32)
    precision = precisions(rows, group, 0.1)
    mean, signed = np.zeros(3, np.float32), 0.05 * rows
    influence = row_influence(precision, group, assignment, coefficient, one_class(len(rows), 6))
    assert np.array_equal(influence[:, 0], influence[:, 1])
    before = fit_images(signed, precision, group, assignment, coefficient, mean, 6)
    for i in (0, 17):
        changed = signed.copy()
        changed[i] += np.float32(0.05)
        after = fit_images(changed, precision, group, assignment, coefficient, mean, 6)
        inside = (np.abs(before) < 0.9) & (np.abs(after) < 0.9)  # images are clipped at 1
        expected = np.broadcast_to(0.05 * influence[i, 0, :, None, None, None], before.shape)
        assert np.allclose((after - before)[inside], expected[inside], atol=1e-4)


def test_a_whitening_that_is_not_positive_still_gives_a_precision() -> None:
    rows, _, group = residuals()
    local = smoothness(white_model(), SIDE, SIDE, 0.0)
    found = row_precision(grams(rows, group, replace(local, variance=-local.variance)), 0.0)
    assert np.isfinite(found).all()
    assert (np.diagonal(found, axis1=1, axis2=2) > 0).all()
    assert np.abs(found).max() < 1e3 * np.abs(precisions(rows, group, 0.0)).max()
