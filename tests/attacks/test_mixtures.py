"""Rows that are sparse mixtures of images, against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from instahide_nb.attacks.mixtures import (
    Mixtures,
    Regression,
    Weights,
    fit,
    influence,
    normal_matrix,
    predictions,
    right_side,
)

N, ROWS, D = 5, 36, 7


def made(places: int, dtype: type = np.float64, seed: int = 0) -> tuple[Mixtures, np.ndarray, np.ndarray]:
    """Mixtures of `places` images a row, some unknown, some twice in a row; rows; a mean image."""
    rng = np.random.default_rng(seed)
    assignment = rng.integers(-1, N, (ROWS, places))
    assignment[:N, 0] = np.arange(N)
    coefficient = rng.uniform(0.1, 0.9 / places, (ROWS, places)).astype(dtype)
    return (
        Mixtures(assignment, coefficient, N),
        rng.normal(size=(ROWS, D)).astype(dtype),
        rng.normal(size=D).astype(dtype),
    )


def dense(mixtures: Mixtures) -> np.ndarray:
    out = np.zeros((len(mixtures.assignment), mixtures.n_images))
    for i, j in np.argwhere(mixtures.assignment >= 0):
        out[i, mixtures.assignment[i, j]] += mixtures.coefficient[i, j]
    return out


def weights(kind: str, seed: int = 1) -> tuple[Weights, np.ndarray]:
    """Weights of one kind, and Q as a dense matrix."""
    rng = np.random.default_rng(seed)
    if kind == "independent":
        weight = rng.uniform(0.5, 2, ROWS) * (rng.uniform(size=ROWS) < 0.9)
        return weight, np.diag(weight)
    if kind == "groups":
        factor = rng.normal(size=(ROWS // 6, 6, 6))
        weight = factor @ factor.transpose(0, 2, 1) + np.eye(6)
        whole = np.zeros((ROWS, ROWS))
        for g in range(len(weight)):
            whole[6 * g : 6 * g + 6, 6 * g : 6 * g + 6] = weight[g]
        return weight, whole
    w = np.where(rng.uniform(size=(ROWS, ROWS)) < 0.1, rng.normal(size=(ROWS, ROWS)) * 0.3, 0.0)
    np.fill_diagonal(w, 0)
    scale = rng.uniform(0.5, 2, ROWS)
    left = np.eye(ROWS) - w
    return Regression(csr_array(w), scale), left.T @ np.diag(1 / scale) @ left


KINDS = ["independent", "groups", "regression"]


@pytest.mark.parametrize("places", [1, 2, 5])
def test_predictions_mix_the_images_and_the_mean(places: int) -> None:
    mixtures, _, mean = made(places)
    image = np.random.default_rng(3).normal(size=(N, D))
    a = dense(mixtures)
    assert np.allclose(predictions(mixtures, image, mean), a @ image + (1 - a.sum(axis=1))[:, None] * mean)
    part = slice(4, 9)
    assert np.array_equal(predictions(mixtures.part(part), image, mean), predictions(mixtures, image, mean)[part])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("places", "dtype", "near"), [(2, np.float64, 1e-10), (4, np.float64, 1e-10), (2, np.float32, 2e-3)]
)
def test_fit_solves_the_normal_equations(kind: str, places: int, dtype: type, near: float) -> None:
    mixtures, rows, mean = made(places, dtype)
    weight, q = weights(kind)
    a = dense(mixtures)
    normal, right = a.T @ q @ a, a.T @ q @ (rows - mean).astype(np.float64)
    assert np.allclose(normal_matrix(mixtures, weight), normal)
    assert np.allclose(right_side(rows, mixtures, weight, mean), right, atol=near * np.abs(right).max())
    pull = 0.1 * np.diag(normal).mean() * np.eye(N)
    expected = np.linalg.solve(normal + pull, right) + mean
    assert np.allclose(fit(rows, mixtures, weight, mean, 0.1), expected, atol=near * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_influence_is_what_a_row_changes(kind: str) -> None:
    mixtures, rows, mean = made(3)
    weight, _ = weights(kind)
    changed = rows.copy()
    changed[7] += 1
    difference = fit(changed, mixtures, weight, mean, 0.1) - fit(rows, mixtures, weight, mean, 0.1)
    assert np.allclose(difference, influence(mixtures, weight, 0.1)[7][:, None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_with_any_number_of_threads(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mixtures, rows, mean = made(3, np.float32)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        found.append((fit(rows, mixtures, weights(kind)[0], mean, 0.01), influence(mixtures, weights(kind)[0], 0.01)))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
